package actor

import (
	"context"
	"fmt"
	"reflect"
	"sync"
)

// Ask sends the message that message builds around a [Reply] and returns the answer. If
// the actor is idle, its turn runs on the calling goroutine, under the conditions of
// [Ref.Run]; then Ask does not look at ctx until the behavior returns. Otherwise Ask
// waits for the answer or for ctx, whichever comes first. An answer that comes too late
// is dropped; it never reaches another Ask. Once its pools are filled, Ask itself
// allocates nothing; the function message may.
//
// The error matches [ErrMailboxFull] or [ErrStopped] if the message was not accepted,
// ErrStopped if the actor stopped before it handled the message, [ErrFailed] if the
// behavior failed while it handled the message, [ErrNoReply] if the behavior neither
// answered nor kept the reply, and the error of ctx if ctx ended first: then the
// message may still be handled. Ask returns an error given to [Reply.Fail] unchanged.
//
// An actor that asks itself, or asks an actor that is waiting for it, waits in vain
// until ctx ends. Inside a turn, [AskFrom] notices such a circle, and [AskThen] does
// not wait at all.
func Ask[R, M any](ctx context.Context, to Ref[M], message func(Reply[R]) M) (R, error) {
	var none R
	a := to.a
	if a == nil {
		return none, ErrStopped
	}
	if err := ctx.Err(); err != nil {
		return none, fmt.Errorf("ask: %w", err)
	}
	pool := slotsOf[R](a.k.sys)
	s := pool.Get().(*slot[R])
	gen := s.gen
	m := message(Reply[R]{s, gen})
	if a.acquire(true) {
		a.inline(m, false, &s.slotHead)
		return s.await(ctx, pool)
	}
	wake, err := a.push(m, asker{&s.slotHead, gen})
	if err != nil {
		a.refused(m, err)
		s.close(gen, err)
		return s.await(ctx, pool)
	}
	if wake {
		a.k.sys.start(a)
	}
	return s.await(ctx, pool)
}

// A Reply is the right to answer one [Ask]. It is a value that may be copied and used
// by any goroutine; the first answer counts and later ones are ignored. The zero Reply
// is usable: an answer to it is ignored.
//
// A behavior answers before Receive returns. To answer later, or to let another actor
// answer, it calls [Reply.Keep] first.
type Reply[R any] struct {
	s   *slot[R]
	gen uint64
}

// Send answers with v.
func (r Reply[R]) Send(v R) {
	if r.s == nil {
		return
	}
	var then func()
	r.s.mu.Lock()
	if r.s.gen == r.gen && !r.s.done {
		r.s.v = v
		then = r.s.finish(nil)
	}
	r.s.mu.Unlock()
	if then != nil {
		then()
	}
}

// Fail answers with an error. A nil err is replaced by an error that matches
// [ErrInvalid], so an asker never mistakes a failure for an answer.
func (r Reply[R]) Fail(err error) {
	if err == nil {
		err = fmt.Errorf("%w: Reply.Fail was called with a nil error", ErrInvalid)
	}
	if r.s != nil {
		r.s.close(r.gen, err)
	}
}

// Keep promises an answer after Receive, or [Closed], has returned. From then on the
// package does not answer for the behavior: the code that keeps a reply must answer it
// in every case, in Closed at the latest. Otherwise the asker waits until its context
// ends. Keep returns r.
func (r Reply[R]) Keep() Reply[R] {
	if r.s != nil {
		r.s.mu.Lock()
		if r.s.gen == r.gen {
			r.s.kept = true
		}
		r.s.mu.Unlock()
	}
	return r
}

// A slot carries one answer to its asker. Slots are pooled. The asker raises the
// generation before it returns the slot to the pool, so an old Reply finds another
// generation and does nothing.
//
// The channel carries at most one token, and only to a parked asker. It is empty
// whenever the slot is in the pool.
type slot[R any] struct {
	slotHead
	v R
}

// A slotHead is a slot without the type of its answer.
type slotHead struct {
	mu     sync.Mutex
	done   bool // answered: v and err are set
	kept   bool
	parked bool
	moved  bool   // the message was forwarded or stashed
	gen    uint64 // only the asker changes it
	err    error
	token  chan struct{} // made when an asker parks for the first time
	then   func()        // set by [AskThen]: called once the answer is there
	late   any           // a lateMessage[M]: the slot belongs to a message that is made only when the actor handles it
}

// slotsOf returns the pool of slots for answers of type R. The pool belongs to the
// system because a channel must stay in the testing/synctest bubble that made it.
func slotsOf[R any](s *System) *sync.Pool {
	t := reflect.TypeFor[R]()
	p, ok := s.slots.Load(t)
	if !ok {
		p, _ = s.slots.LoadOrStore(t, &sync.Pool{New: func() any { return new(slot[R]) }})
	}
	return p.(*sync.Pool)
}

// finish marks the slot as answered. The caller holds the lock, and calls the returned
// function, if there is one, after it has released the lock.
func (s *slotHead) finish(err error) (then func()) {
	s.done, s.err = true, err
	if s.parked {
		s.token <- struct{}{}
	}
	return s.then
}

// drop answers with err, unless there is an answer already or Keep has promised one.
func (s *slotHead) drop(gen uint64, err error) {
	var then func()
	s.mu.Lock()
	if s.gen == gen && !s.done && !s.kept {
		then = s.finish(err)
	}
	s.mu.Unlock()
	if then != nil {
		then()
	}
}

// close answers with err, unless there is an answer already.
func (s *slotHead) close(gen uint64, err error) {
	var then func()
	s.mu.Lock()
	if s.gen == gen && !s.done {
		then = s.finish(err)
	}
	s.mu.Unlock()
	if then != nil {
		then()
	}
}

// await returns the answer, or the error of ctx, and gives the slot back.
func (s *slot[R]) await(ctx context.Context, pool *sync.Pool) (R, error) {
	s.mu.Lock()
	if !s.done {
		s.parked = true
		if s.token == nil {
			s.token = make(chan struct{}, 1)
		}
		s.mu.Unlock()
		select {
		case <-s.token:
			s.mu.Lock()
		case <-ctx.Done():
			err := fmt.Errorf("ask: %w", ctx.Err()) // ctx.Err is the caller's code, so it is called without the lock
			s.mu.Lock()
			if s.done {
				<-s.token // the answer came at the same time as the end of ctx, and counts
			} else {
				s.err = err
			}
		}
	}
	var none R
	v, err := s.v, s.err
	s.v, s.err = none, nil
	s.done, s.kept, s.parked, s.moved = false, false, false, false
	s.gen++
	s.mu.Unlock()
	pool.Put(s)
	return v, err
}
