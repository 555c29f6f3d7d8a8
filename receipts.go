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

	"github.com/perdure/perdure/internal/entity"
	"github.com/perdure/perdure/store"
)

// Bounds of a [receiptSweeper].
const (
	// sweptPerPage is how many entities are looked at in one go, and pagePause how
	// long the sweeper waits after it.
	sweptPerPage = 64
	pagePause    = time.Second
	// receiptsPerBatch is how many receipts of an entity are removed by one batch.
	receiptsPerBatch = 64
	// sweepsPerAge is how many passes begin in the time for which receipts are kept,
	// but none begins sooner after another than passEveryMin, nor later than passEveryMax.
	sweepsPerAge = 8
	passEveryMin = time.Minute
	passEveryMax = time.Hour
)

// A receiptSweeper removes receipts that are too old, of entities that get no more
// commands with a key: a command with a key removes those of its own entity. It works in
// passes over all entities of the log, a page at a time with pauses in between, so that
// it costs little however many entities there are.
//
// The entities that are in memory are passed over, since they know their receipts. Those
// that another engine has in memory lose theirs under its hands, as they do when two
// engines take turns: the batch is refused if the entity has changed since it was
// listed, and an engine that looks for a receipt which is gone reads them again.
type receiptSweeper struct {
	engine  *Engine
	catalog store.Catalog
	kinds   []*kindRuntime // sorted by name
	every   time.Duration  // between the beginnings of two passes

	// Where the pass goes on. A pass uses them alone.
	kind  int
	after string

	context context.Context
	cancel  context.CancelFunc

	mu     sync.Mutex
	closed bool
	disarm func() bool   // stops the timer; nil if none was set
	busy   chan struct{} // closed at the end of the page under way; nil if there is none
}

// newReceiptSweeper returns a sweeper whose first pass is yet to be armed, or nil if the
// store keeps no receipts or does not list its entities.
func newReceiptSweeper(e *Engine) *receiptSweeper {
	catalog, ok := e.log.(store.Catalog)
	if _, keeps := e.log.(store.Receipts); !ok || !keeps {
		return nil
	}
	s := &receiptSweeper{engine: e, catalog: catalog, every: passEveryMax}
	for _, k := range e.kinds {
		s.kinds = append(s.kinds, k)
		s.every = min(s.every, k.options.Rules.ReceiptsFor/sweepsPerAge)
	}
	s.every = max(s.every, passEveryMin)
	slices.SortFunc(s.kinds, func(a, b *kindRuntime) int { return cmp.Compare(a.options.Rules.Kind, b.options.Rules.Kind) })
	s.context, s.cancel = context.WithCancel(context.Background())
	return s
}

// pause returns the time to the next pass. Engines that share a log do not begin at once.
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
	if late { // stop has disarmed the one before
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
		if v := recover(); v != nil { // a store's bug is not the end of the process
			err = fmt.Errorf("the store has panicked: %v\n%s", v, debug.Stack())
		}
		if err != nil && s.context.Err() == nil {
			s.engine.config.Logger.Warn("old receipts could not be removed", "error", err)
			s.kind, s.after = s.kind+1, "" // the other kinds do not wait for this one
		}
		s.mu.Lock()
		close(ended)
		s.busy = nil
		closed := s.closed
		s.mu.Unlock()
		switch {
		case closed:
		case more:
			s.arm(pagePause)
		default:
			s.arm(s.pause())
		}
	}()
	more, err = s.page()
}

// page looks at some entities. It reports whether the pass goes on.
func (s *receiptSweeper) page() (more bool, err error) {
	now := s.engine.storeTime()
	if now.IsZero() {
		return false, nil // nothing is known of the store's clock before the first commit
	}
	if s.kind >= len(s.kinds) {
		s.kind, s.after = 0, ""
	}
	k := s.kinds[s.kind]
	list := make([]store.Entity, 0, sweptPerPage)
	for ent, err := range s.catalog.Entities(s.context, k.options.Rules.Kind, s.after) {
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
func (s *receiptSweeper) entity(k *kindRuntime, ent store.Entity, now time.Time) error {
	list, err := receiptHeads(s.context, s.engine.log, ent.Key)
	if err != nil {
		return err
	}
	b := &store.Batch{Key: ent.Key, Expected: ent.Version}
	names := entity.Expired(list, k.options.Shared, now, k.options.Rules.ReceiptsFor)
	if len(names) > 0 && k.options.Shared {
		// Others may have stored the receipts since this engine has heard of a time, so
		// only a later commit says how old they are. This one changes nothing.
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

// commit commits a batch. It returns nil without an error if the entity is at work, or
// the engine is: another pass comes.
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

// stop keeps the next page from being swept. It calls the clock.
func (s *receiptSweeper) stop() {
	s.mu.Lock()
	s.closed = true
	disarm := s.disarm
	s.mu.Unlock()
	if disarm != nil {
		disarm()
	}
}

// close ends the sweeper, and waits for the page under way as long as ctx allows.
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
func (k *kindRuntime) has(id string) bool {
	s := k.shard(id)
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.cells[id] != nil
}
