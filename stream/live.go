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
	// LiveSilenceMax is how long an engine must watch the registration of the
	// live readers of another one without a change until it takes that engine for
	// dead, removes the registration, and deletes what those readers have not
	// read. It measures that by its own monotonic clock.
	LiveSilenceMax = 2 * time.Minute

	// liveEvery is how often a hub moves the registration of its readers.
	liveEvery = 5 * time.Second
	// liveBeats is after how many of these times without a move it stores a sign
	// of life: a good deal more often than LiveSilenceMax.
	liveBeats = 4
	// liveWaitMax bounds one attempt to store or remove the registration, where
	// no caller waits for it.
	liveWaitMax = 10 * time.Second
)

// A live keeps the readers of a hub registered in the log, as one instance of
// [LiveReaders], so that other engines on the log do not delete what they have yet
// to read.
//
//  1. A reader is among those of the hub before it joins, and has joined before it
//     gets its first event.
//  2. While readers that have joined are there, what is stored is at or below each
//     of them, unless somebody has removed the registration. Then the next change
//     or look notices that, counts it in lapses, and registers again.
//     On a log that takes no commits nothing is registered, and readers are told of
//     what is deleted before them.
//  3. A loop moves it, and removes it when it finds no reader, or the hub is closed.
type live struct {
	hub     *Hub
	readers *Readers
	id      string

	turn   chan struct{} // held by the one who uses the fields below
	stored map[int]store.Position
	reg    *Registration // nil if nothing is registered
	lapses uint64
	idle   int // times that the loop has not moved it

	ended chan struct{} // closed by the loop at its end; nil if there is none
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

// join makes sure that what is stored is at or below a reader of the hub that is
// about to begin, and returns how often the registration has lapsed so far.
func (l *live) join(ctx context.Context, after store.Position) (lapses uint64, err error) {
	if err := l.take(ctx); err != nil {
		return 0, err
	}
	defer l.give()
	if at, ok := l.stored[after.Partition()]; !ok || at > after {
		err := l.store(ctx)
		if errors.Is(err, errors.ErrUnsupported) {
			return l.lapses, nil // the log is opened for reading: nothing can hold it
		}
		if err != nil {
			return 0, err
		}
	}
	if l.ended == nil {
		l.ended = make(chan struct{})
		exited := false // the log has ended the goroutine
		go guard.Loop(func() { l.loop(exited) }, func() { exited = true }, l.ended)
	}
	return l.lapses, nil
}

// held reports whether the registration has not lapsed more often than a reader
// knows of, and how often it has. It looks at what is stored.
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
			l.lapses++ // until now nothing has held the log for readers that have begun
		}
	}
	if err != nil {
		l.stored = nil // it may be anything
		return fmt.Errorf("register live readers: %w", err)
	}
	l.stored, l.idle = lowest, 0
	return nil
}

// loop moves the registration until nobody reads, and then removes it. After the
// hub is closed it tries that once, which may have exited.
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

// step does what is due, and reports whether the loop has ended.
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
			return false, err // it is tried again
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

// lowest returns the lowest position of the readers of each partition that keep no
// bookmark of their own.
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

// Keep returns the position of a partition at and above which no event may be
// deleted: the lowest of the readers of this hub, of all bookmarks, and of the
// live readers of other engines. It is above all events if nobody reads.
//
// Why nobody misses an event in silence that way. A reader first stores its
// position, as a bookmark or among the live readers, and then reads the deletions
// of the log, and then events. If Keep reads the bookmarks after that, it sees the
// reader. If it reads them before, what is deleted on its word is told to the
// reader by [Deletions]: when it begins if it was deleted before, after a scan if
// it was deleted later.
//
// Engines that have died leave their registration behind. Keep notes by its own
// clock for how long one has not changed, and removes it after [LiveSilenceMax]
// before it passes over it. An engine that lives on after that finds that out with
// its next scan, since it looks whether it is registered when something has been
// deleted; its readers are told by a [*DeletedError].
func (h *Hub) Keep(ctx context.Context, partition int) (store.Position, error) {
	keep := h.Passed(partition)
	marks, ok := h.log.(store.Bookmarks)
	if !ok {
		return keep, nil
	}
	all, err := marks.Bookmarks(ctx)
	if errors.Is(err, errors.ErrUnsupported) {
		return keep, nil // it keeps none after all
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

// The silence of other engines: for how long their registrations have not changed.
type silence struct {
	mu   sync.Mutex
	seen map[string]sight // by instance
}

type sight struct {
	beat  uint64
	since time.Time // with a monotonic clock
}

// keep returns the lowest of a position and those of the live readers of other
// engines, after it has removed the ones of which nothing was heard for too long.
func (s *silence) keep(ctx context.Context, h *Hub, partition int, keep store.Position) (store.Position, error) {
	readers, err := NewReaders(h.log)
	if err != nil {
		return 0, err
	}
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
			continue // Passed knows better
		}
		for _, at := range in.Positions {
			if p := store.Position(at); p.Partition() == partition {
				keep = min(keep, p)
			}
		}
	}
	return keep, nil
}

// look notes what has changed and returns those that have not for too long.
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

// removeSilent removes an instance of the live readers, unless it has changed.
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
