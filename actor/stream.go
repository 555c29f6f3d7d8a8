package actor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
)

// eventsMaxDefault is the number of events that a [Subscription] keeps by default.
const eventsMaxDefault = 1024

// A MissedError is the number of events that are missing at one place of a stream. It
// matches [ErrMissed].
type MissedError struct{ Count uint64 }

func (e *MissedError) Error() string { return fmt.Sprintf("%d events were missed", e.Count) }

// Unwrap returns [ErrMissed].
func (e *MissedError) Unwrap() error { return ErrMissed }

// A subscriber is offered every event. Method offer must not wait.
type subscriber interface{ offer(e any) }

// hasSubscribers reports whether there are subscribers to events.
func (s *System) hasSubscribers() bool { return s.subscribers.Load() != nil }

// Publish offers a value to every subscriber of its type, or of an interface that it
// satisfies, and does not wait for them. The package itself publishes each [Event]; a
// program may publish values of any type. Subscribers get the events of one goroutine
// in the order in which they were published.
func (s *System) Publish(e any) {
	list := s.subscribers.Load()
	if list == nil {
		return
	}
	for _, sub := range *list {
		sub.offer(e)
	}
}

func (s *System) subscribe(sub subscriber) {
	s.subscribing.Lock()
	defer s.subscribing.Unlock()
	var list []subscriber
	if old := s.subscribers.Load(); old != nil {
		list = slices.Clone(*old)
	}
	list = append(list, sub)
	s.subscribers.Store(&list)
}

func (s *System) unsubscribe(sub subscriber) {
	s.subscribing.Lock()
	defer s.subscribing.Unlock()
	old := s.subscribers.Load()
	if old == nil {
		return
	}
	list := slices.DeleteFunc(slices.Clone(*old), func(x subscriber) bool { return x == sub })
	if len(list) == 0 {
		s.subscribers.Store(nil)
		return
	}
	s.subscribers.Store(&list)
}

// A Subscription gets the events of type E, which may be an interface, that are
// published from [Subscribe] to Close. Its buffer is bounded: when the buffer is full,
// events are missed, and in their place the reader gets a [*MissedError].
//
// The buffer is a queue of entries: each is an event, or the number of events missed at
// that place.
type Subscription[E any] struct {
	sys    *System
	max    int
	mu     sync.Mutex
	closed bool
	queue  []entry[E]
	ready  chan struct{} // holds a token when there is something to read
}

// An entry is an event or, if missed is not zero, the number of events missed at this
// place.
type entry[E any] struct {
	e      E
	missed uint64
}

// Subscribe begins a subscription that keeps at most eventsMax events for its reader;
// zero or less means 1,024. The subscriber must read on or close the
// subscription.
func Subscribe[E any](s *System, eventsMax int) *Subscription[E] {
	if eventsMax <= 0 {
		eventsMax = eventsMaxDefault
	}
	u := &Subscription[E]{sys: s, max: eventsMax, ready: make(chan struct{}, 1)}
	s.subscribe(u)
	return u
}

func (u *Subscription[E]) offer(e any) {
	v, ok := e.(E)
	if !ok {
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	n := len(u.queue)
	switch {
	case u.closed:
		return
	case n < u.max:
		u.queue = append(u.queue, entry[E]{e: v})
	case u.queue[n-1].missed > 0:
		u.queue[n-1].missed++
	default:
		u.queue = append(u.queue, entry[E]{missed: 1})
	}
	u.wake()
}

// wake wakes the reader. The caller holds the lock.
func (u *Subscription[E]) wake() {
	select {
	case u.ready <- struct{}{}:
	default:
	}
}

// Next returns the next event. Where events were missed, Next returns one
// [*MissedError], and the next call goes on behind them. It returns [ErrUnsubscribed]
// when the subscription is closed and empty, and the error of ctx if ctx ends first.
// Only one goroutine at a time may call Next.
func (u *Subscription[E]) Next(ctx context.Context) (E, error) {
	var none E
	for {
		u.mu.Lock()
		if len(u.queue) > 0 {
			first := u.queue[0]
			u.queue[0] = entry[E]{}
			u.queue = u.queue[1:]
			u.mu.Unlock()
			if first.missed > 0 {
				return none, &MissedError{Count: first.missed}
			}
			return first.e, nil
		}
		u.queue = nil
		closed := u.closed
		u.mu.Unlock()
		if closed {
			return none, ErrUnsubscribed
		}
		select {
		case <-u.ready:
		case <-ctx.Done():
			return none, fmt.Errorf("next event: %w", ctx.Err())
		}
	}
}

// Close ends the subscription. Events in its buffer can still be read.
func (u *Subscription[E]) Close() {
	u.sys.unsubscribe(u)
	u.mu.Lock()
	defer u.mu.Unlock()
	u.closed = true
	u.wake()
}

// A Listener sends events to an actor, see [Listen].
type Listener struct {
	sys *System
	sub subscriber
}

// Close ends the listener. The actor still gets events that are in its mailbox already.
func (l *Listener) Close() { l.sys.unsubscribe(l.sub) }

// Listen sends an actor a message for every event of type E that is published from now
// on; the function event makes the message. The mailbox is the buffer: while it is
// full, events are missed. When it has room again, the actor first gets the message
// that missed makes of their number, then the next event. With [DropOldest] no event is
// missed: an event pushes out the oldest message, without a [DeadLetter]. The listener
// ends with Close, or at the first event after the actor has stopped. Events that wait
// when the actor stops are dropped.
//
// The actor itself calls event and missed, when it reaches the event in its mailbox.
// They never run on the goroutine of the publisher, so they cannot delay it. If one of
// them panics or ends its goroutine, that is reported, the listener is closed, and the
// actor goes on with the next message.
func Listen[E, M any](s *System, to Ref[M], event func(E) M, missed func(count uint64) M) *Listener {
	l := &listening[E, M]{sys: s, to: to.a, event: event, missed: missed}
	if to.a != nil {
		s.subscribe(l)
	}
	return &Listener{s, l}
}

type listening[E, M any] struct {
	sys    *System
	to     *actor[M]
	event  func(E) M
	missed func(uint64) M
	failed atomic.Bool
	mu     sync.Mutex
	count  uint64 // number of missed events for which no message is in the mailbox yet
}

// offer puts a late message for v in the mailbox, and before it one for missed events if
// there are any. Under the lock, which only keeps the order of publishers, offer
// publishes nothing and calls no code of the user.
func (l *listening[E, M]) offer(e any) {
	v, ok := e.(E)
	if !ok {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if n := l.count; n > 0 && l.put(func() M { return l.missed(n) }) {
		l.count = 0
	}
	if l.count > 0 || !l.put(func() M { return l.event(v) }) {
		l.count++
	}
}

// put adds a late message to the mailbox. It publishes no event if the mailbox refuses
// the message, because that event would come back to this listener.
func (l *listening[E, M]) put(message func() M) bool {
	h := &listenedEvent[E, M]{l: l, message: message}
	h.slot.late = h
	wake, err := l.to.pushEvent(asker{slot: &h.slot})
	if wake {
		l.to.k.sys.start(l.to)
	}
	if errors.Is(err, ErrStopped) {
		l.sys.unsubscribe(l)
	}
	return err == nil
}

// A listenedEvent is the late message of one event in the mailbox of an actor that listens.
type listenedEvent[E, M any] struct {
	l       *listening[E, M]
	message func() M
	slot    slotHead
}

func (h *listenedEvent[E, M]) open(*Context[M], M) (m M, ok bool) {
	l := h.l
	if l.failed.Load() {
		return m, false
	}
	defer func() {
		if ok {
			return
		}
		exits, value := true, recover() // exits stays true if the logger ends the goroutine
		defer func() {
			if exits {
				l.to.k.sys.start(l.to) // another goroutine goes on behind this message
			}
		}()
		l.failed.Store(true)
		l.sys.unsubscribe(l) // before the report, which is an event too
		l.sys.report(l.to, newFailure(l.to, value))
		exits = value == nil
	}()
	return h.message(), true
}

func (h *listenedEvent[E, M]) kept() bool { return false }

func (h *listenedEvent[E, M]) dropped() {}
