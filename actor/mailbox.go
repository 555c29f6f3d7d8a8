package actor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
)

// chunkLen is the number of messages in a chunk. Shorter chunks cost more trips to the
// pool; longer ones cost more memory for a mailbox that holds one message.
const chunkLen = 32

// Bits of chunk.taken above the count.
const (
	control uint32 = 1 << 30 // a signal or a stop comes before the next message
	waited  uint32 = 1 << 31 // a sender waits for room
	counted        = control - 1
)

// A chunk is a fixed run of messages in a mailbox.
//
// Senders fill it under the lock of the mailbox. Then the turn detaches it, and from
// then on only the turn reads its messages. After that the two sides share only the
// word taken: the turn counts in it the messages that it has taken, and others set bits
// in it to get the turn's attention. While a turn works through a chunk, it therefore
// reads nothing that senders write at each message, and a sender that finds the mailbox
// full can still compute exactly how full it is.
type chunk[M any] struct {
	next  *chunk[M]
	n     uint32
	taken atomic.Uint32
	asks  *[chunkLen]asker // nil in a chunk that never held an ask
	m     [chunkLen]M
}

// An asker is the slot, at one generation, of the caller that waits for the answer to a
// message.
type asker struct {
	slot *slotHead
	gen  uint64
}

// asker returns the asker of message i.
func (ch *chunk[M]) asker(i uint32) asker {
	if ch.asks == nil {
		return asker{}
	}
	return ch.asks[i]
}

// asked sets the asker of message i.
func (ch *chunk[M]) asked(i uint32, from asker) {
	if ch.asks == nil {
		ch.asks = new([chunkLen]asker)
	}
	ch.asks[i] = from
}

// A waiting is a sender that waits for room.
type waiting[M any] struct {
	m    M
	done chan struct{} // closed when the outcome is in err
	err  error
}

// A waiter is a waiting without its message type.
type waiter interface{ refuse() }

func (w *waiting[M]) refuse() {
	w.err = ErrStopped
	close(w.done)
}

// push accepts m if the mailbox has room. If it returns wake, the actor was idle: then
// the caller owns the turn and must start the actor.
func (a *actor[M]) push(m M, from asker) (wake bool, err error) {
	a.mu.Lock()
	wake, err = a.accept(m, from)
	if err != nil && a.traits&dropping != 0 && a.flags&refusing == 0 {
		wake = a.replace(m, from, true) // it releases the lock
		return wake, nil
	}
	a.mu.Unlock()
	return wake, err
}

// pushEvent is push for an event that an actor listens to. A message that the event
// pushes out of a mailbox with [DropOldest] is not published as a dead letter.
// Publishing it would be an event about an event, which would come back to the same
// listener and push out the next message, without end.
func (a *actor[M]) pushEvent(from asker) (wake bool, err error) {
	var none M
	a.mu.Lock()
	wake, err = a.accept(none, from)
	if err != nil && a.traits&dropping != 0 && a.flags&refusing == 0 {
		wake = a.replace(none, from, false) // it releases the lock
		return wake, nil
	}
	a.mu.Unlock()
	return wake, err
}

// replace accepts m in the place of the oldest waiting message. It publishes the oldest
// message as a dead letter if told is true. The caller holds the lock; replace releases
// it.
func (a *actor[M]) replace(m M, from asker, told bool) (wake bool) {
	var old M
	var who asker
	dropped := a.head != nil
	if dropped {
		var zero M
		ch := a.head
		i := ch.taken.Add(1) - 1
		old, who, ch.m[i] = ch.m[i], ch.asker(i), zero
		if who.slot != nil {
			ch.asks[i] = asker{}
		}
		a.queued--
		a.shorten()
	}
	a.put(m, from)
	wake = a.flags&busy == 0
	a.flags |= busy
	l := lateMessageOf[M](who)
	void := l != nil && !l.kept()
	a.mu.Unlock()
	switch {
	case !dropped:
	case void:
		l.dropped()
	default:
		if who.slot != nil && l == nil {
			who.slot.close(who.gen, ErrMailboxFull)
		}
		if told {
			deadLetters(a, ErrMailboxFull, []M{old})
		}
	}
	return wake
}

// shorten removes the first chunk of the chain if nothing is left in it. It is used for
// mailboxes whose messages are taken from the chain one at a time. The caller holds the
// lock.
func (a *actor[M]) shorten() {
	ch := a.head
	if ch.taken.Load() < ch.n {
		return
	}
	if a.head = ch.next; a.head == nil {
		a.tail = nil
	}
	a.k.recycle(ch)
}

// accept is push for a caller that holds the lock.
func (a *actor[M]) accept(m M, from asker) (wake bool, err error) {
	if a.flags&refusing != 0 {
		return false, ErrStopped
	}
	if a.queued >= a.max && !a.room() {
		return false, ErrMailboxFull
	}
	a.put(m, from)
	wake = a.flags&busy == 0
	a.flags |= busy
	return wake, nil
}

// room first accepts messages of senders that wait, and then reports whether one more
// message fits. accept calls it when queued, which is a coarse count, says no: queued
// still includes the messages that the turn has taken from its chunk. The caller holds
// the lock.
func (a *actor[M]) room() bool {
	a.admit()
	return a.length() < a.max
}

// length returns the number of messages that are accepted and not taken. The caller
// holds the lock.
func (a *actor[M]) length() uint32 {
	n := a.queued
	switch {
	case a.cur == nil:
	case a.traits&dropping != 0:
		n -= a.cur.n // its one message cannot be dropped any more, so it counts as being handled
	default:
		n -= a.cur.taken.Load() & counted
	}
	return n
}

// put appends m. The caller holds the lock.
func (a *actor[M]) put(m M, from asker) {
	t := a.tail
	if t == nil || t.n == chunkLen {
		t = a.k.chunks.Get().(*chunk[M])
		if a.tail == nil {
			a.head = t
		} else {
			a.tail.next = t
		}
		a.tail = t
	}
	t.m[t.n] = m
	if from.slot != nil {
		t.asked(t.n, from)
	}
	t.n++
	a.queued++
}

// force accepts a message even if the mailbox is full. The caller holds the lock; force
// releases it.
func (a *actor[M]) force(m M, from asker) {
	a.put(m, from)
	idle := a.flags&busy == 0
	a.flags |= busy
	a.mu.Unlock()
	if idle {
		a.k.sys.start(a)
	}
}

// admit accepts the messages of waiting senders, in order, as far as there is room. The
// caller holds the lock.
func (a *actor[M]) admit() {
	if a.ext == nil || len(a.ext.waiting) == 0 {
		return
	}
	n := 0
	for ; n < len(a.ext.waiting) && a.length() < a.max; n++ {
		w := a.ext.waiting[n].(*waiting[M])
		a.put(w.m, asker{})
		close(w.done)
	}
	a.ext.waiting = slices.Delete(a.ext.waiting, 0, n)
	if a.cur == nil {
		return
	}
	if len(a.ext.waiting) == 0 {
		a.cur.taken.And(^waited)
	} else {
		a.cur.taken.Or(waited)
	}
}

// admitLate is admit for a turn that has just taken a message.
func (a *actor[M]) admitLate() {
	a.mu.Lock()
	a.admit()
	a.mu.Unlock()
}

// pushWait is push that waits for room.
func (a *actor[M]) pushWait(ctx context.Context, m M) (wake bool, err error) {
	if a.traits&dropping != 0 {
		return a.push(m, asker{}) // push makes room
	}
	a.mu.Lock()
	if wake, err = a.accept(m, asker{}); !errors.Is(err, ErrMailboxFull) {
		a.mu.Unlock()
		return wake, err
	}
	w := &waiting[M]{m: m, done: make(chan struct{})}
	x := a.extra()
	x.waiting = append(x.waiting, w)
	if a.cur != nil {
		a.cur.taken.Or(waited)
	}
	a.mu.Unlock()
	select {
	case <-w.done:
		return false, w.err
	case <-ctx.Done():
	}
	err = fmt.Errorf("wait for room: %w", ctx.Err()) // ctx.Err is the caller's code, so it is called without the lock
	a.mu.Lock()
	defer a.mu.Unlock()
	if i := slices.Index(a.ext.waiting, waiter(w)); i >= 0 {
		a.ext.waiting = slices.Delete(a.ext.waiting, i, i+1)
		return false, err
	}
	return false, w.err
}

// recycle returns a chunk whose messages are all taken to the pool.
func (k *kind[M]) recycle(ch *chunk[M]) {
	ch.next, ch.n = nil, 0
	ch.taken.Store(0)
	k.chunks.Put(ch)
}
