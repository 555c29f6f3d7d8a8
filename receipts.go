package perdure

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/perdure/perdure/internal/core/entity"
	"github.com/perdure/perdure/store"
)

// Bounds of a [receiptSweeper].
const (
	// sweptPerPage is the number of entities in one page. After each page the sweeper pauses
	// for pagePause.
	sweptPerPage = 64
	pagePause    = time.Second
	// receiptsPerBatch is the number of receipts of an entity that one batch removes.
	receiptsPerBatch = 64
	// sweepsPerAge is the number of passes that begin during the retention time of receipts.
	// The time between two passes is at least passEveryMin and at most passEveryMax.
	sweepsPerAge = 8
	passEveryMin = time.Minute
	passEveryMax = time.Hour
)

// A receiptSweeper removes old receipts of entities that get no more commands with a key. (A
// command with a key removes the old receipts of its own entity.) It makes passes over all
// entities of the log, a page at a time with pauses in between. The cost is therefore small for
// any number of entities.
//
// It skips the entities that are in memory, because they manage their own receipts. An entity
// that is in another engine's memory loses its receipts without that engine's knowledge, as
// when two engines take turns. This is safe: the store refuses the batch if the entity has
// changed since it was listed, and an engine that does not find a receipt reads the receipts
// again.
type receiptSweeper struct {
	engine *Engine
	kinds  []*registry   // sorted by name
	every  time.Duration // time between the beginnings of two passes

	// The place where the pass continues. Only the running pass uses these fields.
	kind  int
	after string

	context context.Context
	cancel  context.CancelFunc

	mu     sync.Mutex
	closed bool
	disarm func() bool   // stops the timer; nil if none was set
	busy   chan struct{} // closed at the end of the present page; nil if there is none
}

// newReceiptSweeper returns a sweeper without a timer.
func newReceiptSweeper(e *Engine) *receiptSweeper {
	s := &receiptSweeper{engine: e, every: passEveryMax}
	for _, k := range e.kinds {
		s.kinds = append(s.kinds, k)
		s.every = min(s.every, k.options.Rules.ReceiptsFor/sweepsPerAge)
	}
	s.every = max(s.every, passEveryMin)
	slices.SortFunc(s.kinds, func(a, b *registry) int { return cmp.Compare(a.options.Rules.Kind, b.options.Rules.Kind) })
	s.context, s.cancel = context.WithCancel(context.Background())
	return s
}

// pause returns the time to the next pass. It is random, so that engines which share a log do
// not begin at the same time.
func (s *receiptSweeper) pause() time.Duration {
	return s.every - time.Duration(rand.Int64N(int64(s.every)/4+1))
}

// arm sets the timer of the next page. The clock is user code, so it is called without
// the lock.
func (s *receiptSweeper) arm(d time.Duration) {
	disarm := s.engine.config.Clock.AfterFunc(d, s.run)
	s.mu.Lock()
	late := s.closed
	s.disarm = disarm
	s.mu.Unlock()
	if late { // stop has stopped the previous timer
		disarm()
	}
}

// run sweeps a page.
func (s *receiptSweeper) run() {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return
	}
	ended := make(chan struct{})
	s.busy = ended
	s.mu.Unlock()
	more, err := false, errors.New("the store has called runtime.Goexit")
	defer func() {
		if v := recover(); v != nil { // a bug of the store must not end the process
			err = fmt.Errorf("the store has panicked: %v\n%s", v, debug.Stack())
		}
		useless := errors.Is(err, errors.ErrUnsupported) // the store keeps no receipts or lists no entities
		if err != nil && !useless && s.context.Err() == nil {
			s.engine.config.Logger.Warn("old receipts could not be removed", "error", err)
			s.kind, s.after = s.kind+1, "" // continue with the next kind
		}
		s.mu.Lock()
		close(ended)
		s.busy = nil
		closed := s.closed
		s.mu.Unlock()
		switch {
		case closed, useless:
		case more:
			s.arm(pagePause)
		default:
			s.arm(s.pause())
		}
	}()
	more, err = s.page()
}

// page removes the old receipts of some entities. It reports whether the pass continues.
func (s *receiptSweeper) page() (more bool, err error) {
	now := s.engine.storeTime()
	if now.IsZero() {
		return false, nil // the store's clock is unknown before the first commit
	}
	if s.kind >= len(s.kinds) {
		s.kind, s.after = 0, ""
	}
	k := s.kinds[s.kind]
	list := make([]store.Entity, 0, sweptPerPage)
	for ent, err := range s.engine.log.Entities(s.context, k.options.Rules.Kind, s.after) {
		if err != nil {
			return false, fmt.Errorf("list entities: %w", err)
		}
		if list = append(list, ent); len(list) == sweptPerPage {
			break
		}
	}
	for _, ent := range list {
		s.after = ent.Key.ID
		if k.has(ent.Key.ID) {
			continue
		}
		if err := s.entity(k, ent, now); err != nil {
			return true, fmt.Errorf("%v: %w", ent.Key, err)
		}
	}
	if len(list) == sweptPerPage {
		return true, nil
	}
	s.kind, s.after = s.kind+1, ""
	return s.kind < len(s.kinds), nil
}

// entity removes the old receipts of an entity, the oldest first.
func (s *receiptSweeper) entity(k *registry, ent store.Entity, now time.Time) error {
	list, err := receiptHeads(s.context, s.engine.log, ent.Key)
	if err != nil {
		return err
	}
	b := &store.Batch{Key: ent.Key, Expected: ent.Version}
	names := entity.Expired(list, k.options.Shared, now, k.options.Rules.ReceiptsFor)
	if len(names) > 0 && k.options.Shared {
		// Other engines may have stored the receipts after the latest known time, so only a
		// later commit shows their age. This commit changes nothing else.
		r, err := s.commit(b)
		if r == nil {
			return err
		}
		names = entity.Expired(list, k.options.Shared, r.Time, k.options.Rules.ReceiptsFor)
	}
	for part := range slices.Chunk(names, receiptsPerBatch) {
		b.Forget = part
		if r, err := s.commit(b); r == nil {
			return err
		}
	}
	return nil
}

// commit commits a batch. It returns nil without an error if the entity or the engine is busy;
// the next pass tries again.
func (s *receiptSweeper) commit(b *store.Batch) (*store.Result, error) {
	r, err := s.engine.commitBatch(s.context, b)
	switch {
	case errors.Is(err, store.ErrConflict), errors.Is(err, ErrOverloaded):
		return nil, nil //nolint:nilnil // as it says
	case err != nil:
		return nil, err
	}
	return &r, nil
}

// stop prevents the next page. It calls the clock.
func (s *receiptSweeper) stop() {
	s.mu.Lock()
	s.closed = true
	disarm := s.disarm
	s.mu.Unlock()
	if disarm != nil {
		disarm()
	}
}

// close ends the sweeper, and waits for the present page as long as ctx allows.
func (s *receiptSweeper) close(ctx context.Context) error {
	s.mu.Lock()
	s.closed = true
	busy := s.busy
	s.mu.Unlock()
	s.cancel()
	if busy == nil {
		return nil
	}
	return waitFor(ctx, busy)
}

// has reports whether an entity is in memory.
func (k *registry) has(id string) bool {
	s := k.shard(id)
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.activations[id] != nil
}
