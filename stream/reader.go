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

// A step takes an event with its position, a position alone up to which nothing
// more is selected, or an error. It returns false to end.
type step func(e *store.Event, through store.Position, err error) bool

// A reader is one iteration of [Hub.Follow]. It belongs to one goroutine; others
// see only seen.
type reader struct {
	hub    *Hub
	part   *part
	q      Query
	marked bool            // it has a bookmark of its own, so it is not registered
	failed func(why error) // is told when the log cannot be read, and nil when it can be; may be nil
	// pass reports whether the reader is to pass over a damaged event; nil passes over none.
	pass   func(store.Position, error) bool
	watch  *Deletions
	lapses uint64 // of the registration, as far as the reader knows

	at      store.Position // everything up to here has been yielded or filtered out
	told    store.Position // what the caller knows of at
	seen    atomic.Uint64  // at, as of the last look at the ring: what others may rely on
	live    bool           // it has caught up with the ring
	owing   bool           // a scan has begun above owed that is not checked for deletions
	owed    store.Position
	asked   bool        // the log has answered in this turn
	failing bool        // it waits because the log cannot be read
	calling bool        // the caller of the iterator has the turn: a panic is its own
	own     store.Event // what is yielded from the ring
}

// follow reads until the context ends, the caller of the iterator has had enough,
// or there is an error that waiting does not help. Besides events and errors it
// yields steps that have neither: they say that the reader has passed the position
// without an event that q selects. There is one before it waits and one at the
// end, if they say something new.
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
		if r.at > before || r.asked && err == nil { // of several reads in a turn the last may fail
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

// turn begins, or yields what is there and waits for more. A panic of the log is an
// error of it.
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

// begin does what comes before the first event. The order matters, see [Hub.Keep].
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
	// panicsMax is after how many panics of the log in a row, or ends of the goroutine,
	// a reader ends: after a minute and a half it is no accident. Errors have no bound.
	panicsMax = 16
)

// hopeless are the errors of a log that waiting does not help.
var hopeless = []error{
	ErrClosed, ErrReplaced, store.ErrClosed, store.ErrBroken, store.ErrCorrupt, store.ErrFormat,
	store.ErrInvalid, store.ErrUnfinished, errors.ErrUnsupported,
}

// pause waits after so many failures in a row and returns nil, or the error that
// ends the reader.
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

// rest waits after so many failures in a row.
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

// judge says whether waiting does not help against an error of the log. The methods of
// the error are code of the log, which may panic or end the goroutine: then the
// result is an error in its place.
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

// fail notes that the reader cannot read the log, or, with nil, that it can. The
// logger is told by the first one, and when the last one can read again.
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
			r.hub.parts[i].ring.Store(nil) // nobody needs it: do not hold the events
		}
	}
}

// Bounds of what a reader passes before it says how far it is.
const (
	runMax  = 256     // events from the ring
	scanMax = 1 << 14 // positions in the log
)

// next yields what is there, and tells what it has passed, or waits for more. It returns false if the caller
// of the iterator has had enough.
func (r *reader) next(ctx context.Context, yield step) (again bool, err error) {
	if r.owing {
		if again, err := r.check(ctx, yield); !again || err != nil {
			return again, err
		}
	}
	r.seen.Store(uint64(r.at))
	stroke := r.hub.bell.next() // before the look at the head, see [Hub]
	head := store.Position(r.part.head.Load())
	if head <= r.at {
		r.live = true
		return true, r.wait(ctx, stroke)
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
		r.own = *e // so that the caller does not change what others read
		r.told = r.at
		if !yield(&r.own, r.at, nil) {
			return false, nil
		}
	}
	return true, nil
}

// scan reads from the log what is committed up to head and not in the ring.
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
		r.at = e.Position
		if !r.q.Match(e) {
			continue
		}
		r.told = r.at
		if !yield(e, r.at, nil) {
			return false, nil
		}
	}
	r.at = max(r.at, q.Through) // the rest was filtered out, or deleted
	if again, err := r.check(ctx, yield); !again || err != nil {
		return again, err
	}
	return r.tell(yield), nil
}

// check looks whether anything was deleted before a scan has come to it. Until it
// has, it is owed: also after a scan that has failed.
func (r *reader) check(ctx context.Context, yield step) (again bool, err error) {
	lost, err := r.watch.Check(ctx, r.owed, r.held(ctx))
	if err != nil {
		return false, err
	}
	r.owing, r.asked = false, true
	return lost == nil || yield(nil, 0, lost), nil
}

// held returns what the watch for deletions asks: nil for a reader that a bookmark
// of its own or the pruner of this process protects.
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

// tell lets the caller know how far the reader is, if that is new.
func (r *reader) tell(yield step) bool {
	if r.told >= r.at {
		return true
	}
	r.told = r.at
	return yield(nil, r.at, nil)
}

// wait waits for a publication, or looks for commits of others from time to time.
func (r *reader) wait(ctx context.Context, s *stroke) (err error) {
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
		h.bell.hear(s)
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
