package stream

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/perdure/perdure/internal/guard"
	"github.com/perdure/perdure/store"
)

// A step is called with an event and its position, with only a position up to which no
// more events are selected, or with an error. It returns false to end the reader.
type step func(e *store.Event, through store.Position, err error) bool

// A reader is one iteration of [Hub.Follow]. One goroutine uses it; other goroutines
// read only the field seen.
type reader struct {
	hub    *Hub
	part   *part
	q      Query
	marked bool            // the reader has a checkpoint of its own, so the hub does not register it
	failed func(why error) // called with an error when the log cannot be read, and with nil when it can be read again; may be nil
	// pass reports whether the reader passes over a damaged event; nil passes over
	// none.
	pass   func(store.Position, error) bool
	watch  *Deletions
	lapses uint64 // number of lapses of the registration that the reader knows

	at      store.Position // everything up to here has been yielded or filtered out
	told    store.Position // the last position that was passed to the caller
	seen    atomic.Uint64  // the value of at at the last look at the ring, for other goroutines
	live    bool           // the reader has caught up with the ring
	owing   bool           // a scan that began above owed is not yet checked for deletions
	owed    store.Position
	asked   bool        // the log has answered without an error in this turn
	failing bool        // the reader waits because the log cannot be read
	calling bool        // code of the iterator's caller runs: a panic belongs to the caller
	own     store.Event // copy of the event that is yielded from the ring
}

// follow reads until the context ends, the caller of the iterator breaks, or an error
// occurs that waiting cannot cure. In addition to events and errors it yields steps
// with a position only: the reader has passed that position without another selected
// event. It yields one of them before it waits and one at the end, if the position is
// new.
func (r *reader) follow(ctx context.Context, yield step) {
	h := r.hub
	if r.q.After.Partition() >= len(h.parts) {
		yield(nil, 0, fmt.Errorf("%w: position %v: the log has %d partitions", store.ErrInvalid, r.q.After, len(h.parts)))
		return
	}
	r.part, r.at, r.told = &h.parts[r.q.After.Partition()], r.q.After, r.q.After
	r.seen.Store(uint64(r.q.After))
	h.mu.Lock()
	h.readers[r] = struct{}{}
	h.mu.Unlock()
	h.active.Add(1)
	defer r.leave()

	call := func(e *store.Event, through store.Position, err error) bool {
		r.calling = true
		again := yield(e, through, err)
		r.calling = false
		return again
	}
	begun := false
	for fails := 0; ; {
		before := r.at
		r.asked = false
		again, err := r.turn(ctx, call, &begun)
		if err == nil && !again {
			return
		}
		if r.at > before || r.asked && err == nil { // a turn may read several times, and only the last read may have failed
			fails = 0
		}
		if err == nil {
			if fails == 0 {
				r.fail(nil)
			}
			continue
		}
		if err = r.pause(ctx, err, fails); err != nil {
			yield(nil, 0, err)
			return
		}
		fails++
	}
}

// turn begins the reader, or yields available events, or waits for new ones. It returns
// a panic of the log as an error.
func (r *reader) turn(ctx context.Context, yield step, begun *bool) (again bool, err error) {
	defer func() {
		if !r.calling {
			containIn(recover(), &err)
		}
	}()
	if *begun {
		if r.q.Through != 0 && r.at >= r.q.Through {
			return false, nil
		}
		return r.next(ctx, yield)
	}
	again, err = r.begin(ctx, yield)
	*begun = err == nil
	return again, err
}

// begin reads the heads, registers the reader and starts its watch for deletions, in
// this order, see [Hub.Keep].
func (r *reader) begin(ctx context.Context, yield step) (again bool, err error) {
	if err := r.hub.readHeads(ctx); err != nil {
		return false, err
	}
	if head := store.Position(r.part.head.Load()); r.at > head && r.at.Sequence() > 0 {
		return false, &ReplacedError{Position: r.at, Head: head}
	}
	if l := r.hub.live; l != nil && !r.marked {
		if r.lapses, err = l.join(ctx, r.at); err != nil {
			return false, err
		}
	}
	watch, lost, err := WatchDeletions(ctx, r.hub.log, r.q)
	if err != nil {
		return false, err
	}
	r.watch, r.asked = watch, true
	return lost == nil || yield(nil, 0, lost), nil
}

// Bounds of the pauses after the log could not be read.
const (
	readRetryMin = 50 * time.Millisecond
	readRetryMax = 10 * time.Second
	// panicsMax bounds the panics of the log in a row, and the ends of the goroutine,
	// after which a reader ends. With the pauses that takes about a minute and a half.
	// Errors have no bound.
	panicsMax = 16
)

// hopeless are the errors of a log that waiting cannot cure.
var hopeless = []error{
	ErrClosed, ErrReplaced, store.ErrClosed, store.ErrBroken, store.ErrCorrupt, store.ErrFormat,
	store.ErrInvalid, store.ErrUnfinished, errors.ErrUnsupported,
}

// pause waits after the given number of failures in a row and returns nil, or returns
// the error that ends the reader.
func (r *reader) pause(ctx context.Context, why error, fails int) error {
	if ctx.Err() != nil {
		return why
	}
	if _, panicked := why.(*panicError); panicked && fails >= panicsMax { //nolint:errorlint // methods of other errors are code of the log
		return why
	}
	helpless, why := judge(why)
	if helpless {
		return why
	}
	r.fail(why)
	return r.hub.rest(ctx, fails)
}

// rest waits for a time that grows with the number of failures in a row. It returns an
// error if the context ends or the hub is closed.
func (h *Hub) rest(ctx context.Context, fails int) error {
	t := time.NewTimer(min(readRetryMin<<min(fails, 16), readRetryMax))
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-h.done:
		return ErrClosed
	}
}

// judge reports whether waiting cannot cure an error of the log. The methods of the
// error are code of the log, which may panic or end the goroutine: then judge returns
// another error in its place.
func judge(why error) (helpless bool, sound error) {
	helpless, bad := guard.Apart(context.Background(), "a method of the error", func() (bool, error) {
		_ = why.Error()
		return slices.ContainsFunc(hopeless, func(h error) bool { return errors.Is(why, h) }), nil
	})
	if bad != nil {
		return false, fmt.Errorf("the log has returned an error of type %T that cannot be read: %w", why, bad)
	}
	return helpless, why
}

const cannotRead = "the log cannot be read: readers of events wait and try again"

// fail records that the reader cannot read the log or, with nil, that it can read
// again. It logs when the first reader fails and when the last failing one can read
// again.
func (r *reader) fail(why error) {
	if why == nil && !r.failing {
		return
	}
	if r.failed != nil {
		r.failed(why)
	}
	h := r.hub
	h.mu.Lock()
	before := len(h.failing)
	if why != nil {
		h.failing[r] = why
	} else {
		delete(h.failing, r)
	}
	after := len(h.failing)
	h.mu.Unlock()
	r.failing = why != nil
	switch {
	case before == 0 && after > 0:
		h.logger.Warn(cannotRead, "error", why)
	case before > 0 && after == 0 && why == nil:
		h.logger.Info("the log can be read again: readers of events go on")
	}
}

func (r *reader) leave() {
	r.hub.active.Add(-1)
	r.hub.mu.Lock()
	defer r.hub.mu.Unlock()
	delete(r.hub.failing, r)
	if delete(r.hub.readers, r); len(r.hub.readers) == 0 {
		for i := range r.hub.parts {
			r.hub.parts[i].ring.Store(nil) // no reader needs the ring: free its events
		}
	}
}

// Bounds of the work of a reader between two reports of its position.
const (
	runMax  = 256     // number of events from the ring
	scanMax = 1 << 14 // number of positions in the log
)

// next yields available events and reports the position that it has passed, or waits
// for new events. It returns false if the caller of the iterator breaks.
func (r *reader) next(ctx context.Context, yield step) (again bool, err error) {
	if r.owing {
		if again, err := r.check(ctx, yield); !again || err != nil {
			return again, err
		}
	}
	r.seen.Store(uint64(r.at))
	wave := r.hub.broadcast.next() // must come before the read of the head, see rule 4 of [Hub]
	head := store.Position(r.part.head.Load())
	if head <= r.at {
		r.live = true
		return true, r.wait(ctx, wave)
	}
	if ring := r.part.ring.Load(); ring != nil {
		before := r.at
		if again, err := r.run(ctx, ring, head, yield); !again || err != nil || r.at > before {
			return again && r.tell(yield), err
		}
	}
	if r.live && head-r.at > BufferEventsMax {
		r.live = false
		if !yield(nil, 0, &LaggedError{Position: r.at, Head: head}) {
			return false, nil
		}
	}
	return r.scan(ctx, head, yield)
}

// run yields events from the ring as long as it has the next one.
func (r *reader) run(ctx context.Context, ring *ring, head store.Position, yield step) (again bool, err error) {
	for range runMax {
		e := ring.get(r.at + 1)
		if e == nil || r.at >= head || r.q.Through != 0 && r.at >= r.q.Through {
			return true, nil
		}
		if err := ctx.Err(); err != nil {
			return false, err
		}
		r.live = true
		r.at = e.Position
		if !r.q.Match(e) {
			continue
		}
		r.own = *e // a copy, so that the caller cannot change the event of other readers
		r.told = r.at
		if !yield(&r.own, r.at, nil) {
			return false, nil
		}
	}
	return true, nil
}

// scan reads the next committed events, up to head, from the log.
func (r *reader) scan(ctx context.Context, head store.Position, yield step) (again bool, err error) {
	q := r.q.Query
	q.After, q.Through = r.at, min(head, r.at+scanMax)
	if r.q.Through != 0 {
		q.Through = min(q.Through, r.q.Through)
	}
	if !r.owing {
		r.owing, r.owed = true, r.at
	}
	for e, err := range r.hub.log.Scan(ctx, q) {
		if errors.Is(err, store.ErrCorrupt) {
			return r.passDamage(ctx, q.Through, err, yield)
		}
		if err != nil {
			return false, err
		}
		if !r.scanned(e, yield) {
			return false, nil
		}
	}
	r.at = max(r.at, q.Through) // the rest was filtered out or deleted
	if again, err := r.check(ctx, yield); !again || err != nil {
		return again, err
	}
	return r.tell(yield), nil
}

// scanned moves the reader to an event of the log, and yields it if the query selects it.
func (r *reader) scanned(e *store.Event, yield step) (again bool) {
	r.at = e.Position
	if !r.q.Match(e) {
		return true
	}
	r.told = r.at
	return yield(e, r.at, nil)
}

// check yields a notice if events were deleted before the scans since owed have read
// them. A failed scan leaves owing set, so the next turn checks it too.
func (r *reader) check(ctx context.Context, yield step) (again bool, err error) {
	lost, err := r.watch.Check(ctx, r.owed, r.held(ctx))
	if err != nil {
		return false, err
	}
	r.owing, r.asked = false, true
	return lost == nil || yield(nil, 0, lost), nil
}

// held returns the function held for [Deletions.Check]. It is nil for a reader that is
// protected by a checkpoint of its own or by the pruner of this process.
func (r *reader) held(ctx context.Context) func() (bool, error) {
	l := r.hub.live
	if l == nil || r.marked {
		return nil
	}
	return func() (held bool, err error) {
		held, r.lapses, err = l.held(ctx, r.lapses)
		return held, err
	}
}

// tell yields the position of the reader if the caller does not know it yet.
func (r *reader) tell(yield step) bool {
	if r.told >= r.at {
		return true
	}
	r.told = r.at
	return yield(nil, r.at, nil)
}

// wait waits for a publication or a notice of the log, or until the next poll for
// commits of other processes.
func (r *reader) wait(ctx context.Context, s *wave) (err error) {
	h := r.hub
	var tick <-chan time.Time
	if h.poll > 0 {
		t := time.NewTimer(h.poll)
		defer t.Stop()
		tick = t.C
	}
	heard := h.heard.Load()
	select {
	case <-s.first:
		h.broadcast.propagate(s)
		return nil
	case <-s.all:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-h.done:
		return ErrClosed
	case <-*heard:
		r.asked, err = h.hearHeads(ctx, heard)
	case <-tick:
		r.asked, err = h.pollHeads(ctx)
	}
	return err
}
