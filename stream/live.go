package stream

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/perdure/perdure/internal/guard"
	perdurev1 "github.com/perdure/perdure/proto/perdure/v1"
	"github.com/perdure/perdure/store"
)

const (
	// LiveSilenceMax is the time for which an engine must watch the registration of
	// another engine's live readers without a change. After that it considers the other
	// engine dead, removes the registration, and may delete events that those readers
	// have not read. It measures the time by its own monotonic clock.
	LiveSilenceMax = 2 * time.Minute

	// liveEvery is the interval at which a hub moves the registration of its readers.
	liveEvery = 5 * time.Second
	// liveBeats is the number of these intervals without a move after which the hub
	// stores a heartbeat. With 4 it does so every 20 s, much more often than
	// LiveSilenceMax.
	liveBeats = 4
	// liveWaitMax bounds one attempt to store or remove the registration, where
	// no caller waits for it.
	liveWaitMax = 10 * time.Second
)

// A live keeps the readers of a hub registered in the log, as one instance of
// [LiveReaders], so that other engines on the log do not delete events that these
// readers have not yet read.
//
//  1. A reader is in the hub's set of readers before it joins, and has joined before it
//     gets its first event.
//  2. While readers have joined, the stored positions are at or below each of them,
//     unless the registration was removed. Then the next call of store or held notices
//     that, counts it in lapses, and registers again. On a log that takes no commits
//     nothing is registered, and readers get a notice of deleted events.
//  3. A loop moves the registration, and removes it when the hub has no readers or is
//     closed.
type live struct {
	hub     *Hub
	readers *Readers
	id      string

	turn   chan struct{} // a semaphore of one: the goroutine that has put the token uses the fields below
	stored map[int]store.Position
	reg    *Registration // nil if nothing is registered
	lapses uint64
	idle   int // number of intervals since the last store

	ended chan struct{} // closed by the loop at its end; nil if no loop runs
}

func newLive(h *Hub, readers *Readers) *live {
	id := newID()
	return &live{hub: h, readers: readers, id: fmt.Sprintf("%x", id[:]), turn: make(chan struct{}, 1)}
}

// take waits for the turn.
func (l *live) take(ctx context.Context) error {
	select {
	case l.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (l *live) give() { <-l.turn }

// join makes sure that the stored positions are at or below the position of a reader
// that is about to begin. It returns the number of lapses of the registration so far.
func (l *live) join(ctx context.Context, after store.Position) (lapses uint64, err error) {
	if err := l.take(ctx); err != nil {
		return 0, err
	}
	defer l.give()
	if at, ok := l.stored[after.Partition()]; !ok || at > after {
		err := l.store(ctx)
		if errors.Is(err, errors.ErrUnsupported) {
			return l.lapses, nil // the log is open for reading only: no registration is possible
		}
		if err != nil {
			return 0, err
		}
	}
	if l.ended == nil {
		l.ended = make(chan struct{})
		exited := false // set if the log has ended the goroutine of the loop
		go guard.Loop(func() { l.loop(exited) }, func() { exited = true }, l.ended)
	}
	return l.lapses, nil
}

// held reads the stored registration. It returns true if the registration has not
// lapsed since the reader last learned the number of lapses, and the present number.
func (l *live) held(ctx context.Context, lapses uint64) (bool, uint64, error) {
	if err := l.take(ctx); err != nil {
		return false, lapses, err
	}
	defer l.give()
	if l.lapses == lapses && l.reg != nil {
		there, err := l.there(ctx)
		if err != nil {
			return false, lapses, err
		}
		if !there {
			if err := l.store(ctx); err != nil {
				return false, lapses, err
			}
		}
	}
	return l.lapses == lapses && l.reg != nil, l.lapses, nil
}

func (l *live) there(ctx context.Context) (bool, error) {
	_, s, err := l.readers.load(ctx, store.Key{Kind: ReaderKind, ID: LiveReaders})
	if err != nil {
		return false, err
	}
	return slices.ContainsFunc(s.Instances, func(in *perdurev1.ReaderInstance) bool { return in.Id == l.id }), nil
}

// store stores the lowest positions of the readers. The caller has the turn.
func (l *live) store(ctx context.Context) error {
	lowest := l.hub.lowest()
	positions := slices.Collect(maps.Values(lowest))
	err := ErrUnregistered
	if l.reg != nil {
		if err = l.reg.replace(ctx, positions); errors.Is(err, ErrUnregistered) {
			l.lapses++
			l.reg = nil
		}
	}
	if l.reg == nil {
		if l.reg, err = l.readers.Register(ctx, LiveReaders, l.id, positions...); err == nil {
			l.lapses++ // until now no registration has held events for the readers that have begun
		}
	}
	if err != nil {
		l.stored = nil // the stored positions are unknown now
		return fmt.Errorf("register live readers: %w", err)
	}
	l.stored, l.idle = lowest, 0
	return nil
}

// loop moves the registration until the hub has no readers, and then removes it. After
// the hub is closed it tries once to remove it. The parameter exited says that an
// earlier attempt has ended its goroutine; then it does not try again on a closed hub.
func (l *live) loop(exited bool) {
	for failed := false; !exited || !l.hub.isClosed(); {
		t := time.NewTimer(liveEvery)
		closed := false
		select {
		case <-t.C:
		case <-l.hub.done:
			closed = true
		}
		t.Stop()
		ctx, cancel := context.WithTimeout(context.Background(), liveWaitMax)
		ended, err := guard.Call("log", func() (bool, error) { return l.step(ctx, closed) })
		cancel()
		if err != nil && !failed && !closed {
			l.hub.logger.Warn("the live readers of this engine cannot be registered in the log", "error", err)
		}
		failed = err != nil
		if ended || closed {
			return
		}
	}
}

// step moves, renews or removes the registration. It returns true if the loop must end.
func (l *live) step(ctx context.Context, closed bool) (ended bool, err error) {
	if err := l.take(ctx); err != nil {
		return closed, err
	}
	defer l.give()
	lowest := l.hub.lowest()
	if l.idle++; !closed && len(lowest) > 0 {
		if maps.Equal(lowest, l.stored) && l.idle < liveBeats {
			return false, nil
		}
		return false, l.store(ctx)
	}
	if l.reg != nil {
		if err := l.reg.Remove(ctx); err != nil && !closed {
			return false, err // the next step tries again
		}
	}
	l.reg, l.stored, l.ended = nil, nil, nil
	return true, nil
}

// wait waits for the end of the loop of a closed hub.
func (l *live) wait(ctx context.Context) error {
	if err := l.take(ctx); err != nil {
		return err
	}
	ended := l.ended
	l.give()
	if ended == nil {
		return nil
	}
	select {
	case <-ended:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// lowest returns the lowest position in each partition of the readers that have no
// checkpoint of their own.
func (h *Hub) lowest() map[int]store.Position {
	h.mu.Lock()
	defer h.mu.Unlock()
	at := map[int]store.Position{}
	for r := range h.readers {
		if r.marked {
			continue
		}
		p := store.Position(r.seen.Load())
		if known, ok := at[p.Partition()]; !ok || p < known {
			at[p.Partition()] = p
		}
	}
	return at
}

// Keep returns the position of a partition at and above which no event may be deleted:
// the lowest position of the readers of this hub, of all checkpoints, and of the live
// readers of other engines. If there is no reader, the position is above all events.
//
// Why no reader misses an event without a notice: a reader first stores its position,
// as a checkpoint or among the live readers, then reads the deletions of the log, and
// then events. If Keep reads the checkpoints after that, it sees the reader. If Keep
// reads them before, the reader finds the deletions that follow by [Deletions]: when it
// begins if the events were deleted before, after a scan if they were deleted later.
//
// An engine that has died leaves its registration behind. Keep measures by its own
// clock the time for which a registration has not changed. After [LiveSilenceMax] it
// removes the registration, and only then ignores it. If that engine is still alive, it
// finds out after its next scan, because it checks its registration when events were
// deleted; its readers get a [*DeletedError].
func (h *Hub) Keep(ctx context.Context, partition int) (store.Position, error) {
	keep := h.Passed(partition)
	all, err := h.log.Checkpoints(ctx)
	if errors.Is(err, errors.ErrUnsupported) {
		return keep, nil // no reader of the log can have a checkpoint
	}
	if err != nil {
		return 0, err
	}
	registered := false
	for _, m := range all {
		if m.Name == LiveReaders {
			registered = true
		} else if m.Position.Partition() == partition {
			keep = min(keep, m.Position)
		}
	}
	if registered {
		return h.others.keep(ctx, h, partition, keep)
	}
	return keep, nil
}

// A silence records for how long the registrations of other engines have not changed.
type silence struct {
	mu   sync.Mutex
	seen map[string]sight // by id of the instance
}

type sight struct {
	beat  uint64
	since time.Time // time by the monotonic clock
}

// keep returns the lowest of a position and the positions of the live readers of other
// engines. Before that it removes instances that have not changed for LiveSilenceMax.
func (s *silence) keep(ctx context.Context, h *Hub, partition int, keep store.Position) (store.Position, error) {
	readers := NewReaders(h.log)
	_, all, err := readers.load(ctx, store.Key{Kind: ReaderKind, ID: LiveReaders})
	if err != nil {
		return 0, err
	}
	for _, in := range s.look(all, time.Now()) {
		gone, err := readers.removeSilent(ctx, in)
		if err != nil {
			return 0, err
		}
		if gone {
			h.logger.Warn("an engine has not been heard of: what its live readers have not read is not kept any longer",
				"process", in.Process, "instance", in.Id, "silence", LiveSilenceMax)
			all.Instances = slices.DeleteFunc(all.Instances, func(i *perdurev1.ReaderInstance) bool { return i.Id == in.Id })
		}
	}
	for _, in := range all.Instances {
		if h.live != nil && in.Id == h.live.id {
			continue // Passed has the newer positions of this hub
		}
		for _, at := range in.Positions {
			if p := store.Position(at); p.Partition() == partition {
				keep = min(keep, p)
			}
		}
	}
	return keep, nil
}

// look records which instances have changed, and returns those that have not changed
// for LiveSilenceMax.
func (s *silence) look(all *perdurev1.Reader, now time.Time) (silent []*perdurev1.ReaderInstance) {
	s.mu.Lock()
	defer s.mu.Unlock()
	next := map[string]sight{}
	for _, in := range all.Instances {
		at, ok := s.seen[in.Id]
		if !ok || at.beat != in.Beat {
			at = sight{in.Beat, now}
		}
		next[in.Id] = at
		if now.Sub(at.since) >= LiveSilenceMax {
			silent = append(silent, in)
		}
	}
	s.seen = next
	return silent
}

// removeSilent removes an instance of the live readers, unless it has changed since it
// was loaded.
func (r *Readers) removeSilent(ctx context.Context, silent *perdurev1.ReaderInstance) (gone bool, err error) {
	_, _, err = r.change(ctx, LiveReaders, 0, nil, func(s *perdurev1.Reader) (bool, error) {
		i := slices.IndexFunc(s.Instances, func(in *perdurev1.ReaderInstance) bool { return in.Id == silent.Id })
		if i >= 0 && s.Instances[i].Beat != silent.Beat {
			gone = false
			return false, nil
		}
		gone = true
		if i >= 0 {
			s.Instances = slices.Delete(s.Instances, i, i+1)
		}
		return i >= 0, nil
	})
	return gone, err
}
