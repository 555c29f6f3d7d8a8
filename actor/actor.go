package actor

import (
	"context"
	"fmt"
	"runtime"
	"sync"
)

// Flags of an actor.
const (
	busy     uint16 = 1 << iota // somebody owns the turn
	signaled                    // Signal is to be called
	draining                    // Stop: nothing new is accepted
	halting                     // StopNow: what is queued is not handled either
	closed                      // the mailbox is emptied for ever
	stopped                     // Closed has returned and the name is free

	refusing = draining | halting | closed
)

// Traits of an actor, which never change.
const (
	blocking uint8 = 1 << iota // InlineNever
	signals                    // the behavior is Signaled
)

// An actor is a behavior with its mailbox. It holds to these rules:
//
//  1. The flag busy is the ownership of the turn. Who sets it owns the actor
//     until he clears it, passes it on (to a worker) or closes the actor. Only
//     the owner calls the behavior and touches cur's messages.
//  2. Ownership is taken and given up under mu, and given up only when, in the
//     same critical section, nothing is queued, signaled or to be stopped. So
//     whoever leaves something to do in an actor finds it busy, and then the
//     owner will look again, or finds it idle and becomes the owner: no wake-up
//     is lost.
//  3. An idle actor has no chunk: head, tail and cur are nil.
//  4. queued counts the messages in cur (taken ones too) and in the chain from
//     head. The messages that wait are those less the ones taken from cur, and
//     they are never more than max.
//  5. The chain from head is in the order of acceptance, and every message of
//     cur comes before it. Senders that wait for room come after it.
//  6. Once one of the refusing flags is set nothing is accepted any more. The
//     flag closed is set once, by the owner, who keeps the ownership for ever;
//     what was queued at that moment is the undelivered.
//
// The steps of a turn are in turn.go. The reasons: one short lock makes the
// rules above easy to check, and the turn takes it once a chunk, not once a
// message. A lock that only spins was no faster at telling on two cores, and it
// wastes one of them while its holder is preempted. A message is kept by value
// in a chunk that comes from a pool, so sending allocates nothing. A list linked
// into the actors was rejected for the registry: it costs 32 bytes an actor, a
// slice of the living costs 16.
type actor[M any] struct {
	mu       sync.Mutex
	flags    uint16
	traits   uint8
	shard    uint8 // of the system's registry
	queued   uint32
	max      uint32
	index    uint32 // in the shard, guarded by its lock
	k        *kind[M]
	behavior Behavior[M] // the owner's; nil once stopped
	head     *chunk[M]
	tail     *chunk[M]
	cur      *chunk[M]     // what the turn works through
	ext      *extension[M] // what few actors need
}

// An extension holds what an actor may do without. It is allocated on demand.
type extension[M any] struct {
	name      string
	onFailure func(*Failure) Directive
	done      chan struct{} // made by the first who waits for the stop
	waiting   []*waiting[M]
}

// A kind holds what the actors of one message type in one system share.
type kind[M any] struct {
	sys      *System
	chunks   sync.Pool
	contexts sync.Pool
}

func newKind[M any](s *System) *kind[M] {
	k := &kind[M]{sys: s}
	k.chunks.New = func() any { return new(chunk[M]) }
	k.contexts.New = func() any { return new(Context[M]) }
	return k
}

// extra returns the extension, making it if need be. It is called under the lock.
func (a *actor[M]) extra() *extension[M] {
	if a.ext == nil {
		a.ext = new(extension[M])
	}
	return a.ext
}

// name returns the name, which is set before the actor is known to anybody.
func (a *actor[M]) name() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.ext == nil {
		return ""
	}
	return a.ext.name
}

// own makes the caller the owner if the actor is idle and may run on the
// caller's goroutine, which [actor.inline] must follow. With patience it yields
// and looks again if the actor is busy with its last message: a turn on another
// core is often over by then, and to queue means to park and to be woken.
func (a *actor[M]) own(patience bool) bool {
	if a.traits&blocking != 0 {
		return false
	}
	idle, last := a.tryOwn()
	if last && patience {
		runtime.Gosched()
		idle, _ = a.tryOwn()
	}
	if idle && !a.k.sys.inline[a.shard].enter() {
		a.giveUp()
		return false
	}
	return idle
}

// tryOwn makes the caller the owner of an idle actor. If it is busy, last tells
// whether nothing is queued behind what it does.
func (a *actor[M]) tryOwn() (idle, last bool) {
	a.mu.Lock()
	if a.flags&refusing == 0 {
		idle = a.flags&busy == 0 || broken("owner")
		last = !idle && a.head == nil
		if idle {
			a.flags |= busy
		}
	}
	a.mu.Unlock()
	return idle, last
}

// signal asks for a call of Signal. An idle actor is started.
func (a *actor[M]) signal() {
	if a.traits&signals == 0 {
		return
	}
	a.mu.Lock()
	if a.flags&(signaled|halting|closed) != 0 {
		a.mu.Unlock()
		return
	}
	idle := a.flags&busy == 0
	a.flags |= busy | signaled
	if a.cur != nil {
		a.cur.taken.Or(control)
	}
	a.mu.Unlock()
	if idle {
		a.k.sys.start(a)
	}
}

// stop asks the actor to stop. An idle one is closed by the caller, or by a
// goroutine if its behavior may block.
func (a *actor[M]) stop(how uint16) {
	a.mu.Lock()
	a.flags |= how
	idle := a.flags&busy == 0
	a.flags |= busy
	if a.cur != nil && how == halting {
		a.cur.taken.Or(control)
	}
	a.refuseWaiting()
	a.mu.Unlock()
	switch {
	case !idle:
	case a.traits&blocking != 0:
		a.k.sys.start(a)
	default:
		a.finish(nil)
	}
}

// refuseWaiting turns away who waits for room. It is called under the lock.
func (a *actor[M]) refuseWaiting() {
	if a.ext == nil {
		return
	}
	for _, w := range a.ext.waiting {
		w.err = ErrStopped
		close(w.done)
	}
	a.ext.waiting = nil
}

// stopIfIdle stops the actor if it has nothing to do. It reports whether the
// actor is stopped.
func (a *actor[M]) stopIfIdle() bool {
	a.mu.Lock()
	if a.flags&busy != 0 {
		defer a.mu.Unlock()
		return a.flags&stopped != 0
	}
	a.flags |= busy
	a.mu.Unlock()
	b, asks := a.behavior.(Idler)
	idle := !asks || b.Idle()
	a.mu.Lock()
	if !idle || a.head != nil || a.flags&(signaled|refusing) != 0 {
		a.mu.Unlock()
		a.giveUp()
		return false
	}
	a.flags |= draining
	a.mu.Unlock()
	a.finish(nil)
	return true
}

// finish closes the actor. The caller is the owner and remains it for ever, so
// nobody else calls the behavior any more.
func (a *actor[M]) finish(reason error) {
	undelivered, askers := a.empty()
	defer a.settle(reason, askers) // also if Closed ends the goroutine
	b, ok := a.behavior.(Closed[M])
	if !ok {
		return
	}
	returned := false
	defer func() {
		if !returned {
			a.k.sys.report(newFailure(a.name(), recover()))
		}
	}()
	b.Closed(reason, undelivered)
	returned = true
}

// empty closes the mailbox and takes what is left in it.
func (a *actor[M]) empty() (undelivered []M, askers []asker) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.flags |= closed
	a.flags &^= signaled
	a.refuseWaiting()
	if n := a.length(); n > 0 {
		undelivered = make([]M, 0, n)
	}
	collect := func(ch *chunk[M]) {
		for i := ch.taken.Load() & counted; i < ch.n; i++ {
			undelivered = append(undelivered, ch.m[i])
			if ch.asks != nil && ch.asks[i].slot != nil {
				askers = append(askers, ch.asks[i])
			}
		}
	}
	// The chunks are left to the garbage collector: they hold messages still.
	if a.cur != nil && !broken("undelivered") {
		collect(a.cur)
	}
	for ch := a.head; ch != nil; ch = ch.next {
		collect(ch)
	}
	a.cur, a.head, a.tail, a.queued = nil, nil, nil, 0
	return undelivered, askers
}

// settle tells everybody that the actor has stopped.
func (a *actor[M]) settle(reason error, askers []asker) {
	if len(askers) > 0 {
		err := errUndelivered(reason)
		for _, from := range askers {
			from.slot.close(from.gen, err)
		}
	}
	a.k.sys.remove(a, a.shard)
	a.mu.Lock()
	a.flags |= stopped
	a.behavior = nil
	if a.ext != nil && a.ext.done != nil {
		close(a.ext.done)
	}
	a.mu.Unlock()
	a.k.sys.unpin()
}

// wait returns when the actor has stopped.
func (a *actor[M]) wait(ctx context.Context) error {
	a.mu.Lock()
	if a.flags&stopped != 0 {
		a.mu.Unlock()
		return nil
	}
	x := a.extra()
	if x.done == nil {
		x.done = make(chan struct{})
	}
	done := x.done
	a.mu.Unlock()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for actor: %w", ctx.Err())
	}
}
