package actor

import (
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// turnMessagesMax is the number of messages that a goroutine handles before it
	// yields to the others.
	turnMessagesMax = 1024
	// heldMax bounds the actors that a worker holds.
	heldMax = 64
	// watchInterval bounds the time for which an actor is held, before another
	// goroutine runs it. The monitor checks at this interval, so the wait may become
	// twice as long.
	monitorInterval = time.Millisecond
)

// The word worker.slot, from its lowest bit: the state of the slot (2 bits), the number
// of looks of the monitor when the slot was filled (30 bits), and the number of times that
// the slot was filled (32 bits).
const (
	slotEmpty  uint64 = iota
	slotFull          // next is set
	slotTaken         // the monitor takes next away
	slotState  = 3    // mask of the state
	slotLooks  = 2    // shift of the looks
	slotFilled = 32   // shift of the number of times
	looksMask  = 1<<(slotFilled-slotLooks) - 1
)

// A worker is a goroutine that runs turns, one actor after another.
//
// An actor that the running one wakes by [Tell] is held by the worker and runs next.
// That saves starting a goroutine, which costs more than a short turn because its stack
// must grow, and it keeps the message in the cache of this core. The worker runs the
// newest of its held actors first, so a tree of actors grows in depth and not in
// breadth: few actors and messages exist at a time.
//
// Held actors do not wait for one goroutine while others could run them:
//
//  1. If fewer workers run than there are processors, a worker that holds two actors or
//     more gives the older half to a new worker. So does a worker that holds heldMax
//     actors.
//  2. A worker gives all its held actors to a new worker when the running actor goes on
//     with another chunk, after turnMessagesMax messages, and when its goroutine ends.
//  3. The monitor takes actors away that are held too long. If the worker has begun a turn
//     since the last look, it does not block but has much to do, and a new worker gets
//     them. Otherwise each gets a goroutine of its own.
//
// Thus no actor depends on the good behavior of another one.
//
// The newest held actor is in next, which the word slot guards without a lock: two
// actors that send to each other use nothing else. Only the worker fills the slot. The
// worker or the monitor empties it by compare-and-swap, and the one that succeeds owns the
// actor. The other held actors are in older.
type worker struct {
	sys     *System
	loop    func() // the method value of run, made once so that starting it allocates nothing
	first   runnable
	handled uint32
	step    bool // the worker makes one turn only
	spare   any  // a *Context[M] for the next turn, if the message type is the same

	next runnable
	slot atomic.Uint64
	more atomic.Int32 // the length of older

	mu     sync.Mutex // guards the fields below
	older  []held     // the oldest first
	queued bool       // the goroutine of the worker has not begun
	turns  uint64     // number of turns of actors from older

	// The lock of the monitor guards the fields below.
	monitored      bool   // only the worker sets it, so the worker reads it without the lock
	seenSlot       uint64 // slot and turns at the last look
	seenTurns      uint64
	before, behind *worker
}

// A held is an actor in older.
type held struct {
	r     runnable
	looks uint64 // number of looks of the monitor before the actor was held
}

func newWorker(s *System) *worker {
	w := &worker{sys: s, step: s.executor != nil}
	w.loop = w.run
	return w
}

// start runs a turn on a goroutine. For the turn of an actor, the caller is the owner.
func (s *System) start(r runnable) {
	w := s.workers.Get().(*worker)
	w.first = r
	s.goroutines.add()
	if s.executor != nil {
		s.execute(w.loop)
		return
	}
	go w.loop()
}

// execute passes a turn to the executor of the Config. If the executor panics or ends
// its goroutine before it has run the turn, a goroutine runs the turn instead.
func (s *System) execute(turn func()) {
	var begun atomic.Bool
	once := func() {
		if begun.CompareAndSwap(false, true) {
			turn()
		}
	}
	returned := false
	defer func() {
		if returned {
			return
		}
		value := recover()
		go once()
		defer func() { _ = recover() }() // a logger that panics
		s.logger.Error("executor of actors failed", "value", value)
	}()
	s.executor(once)
	returned = true
}

func (w *worker) run() {
	defer w.end() // deferred: a behavior may end the goroutine
	if w.monitored {
		w.mu.Lock()
		w.queued = false
		w.turns++
		w.mu.Unlock()
	}
	for r := w.first; r != nil; r = w.newest() {
		w.first = nil
		r.turn(w)
	}
}

func (w *worker) end() {
	w.share()
	if w.monitored {
		w.sys.monitor.leave(w)
	}
	s := w.sys
	w.first, w.handled, w.queued = nil, 0, false
	s.workers.Put(w)
	s.goroutines.done()
}

// hold keeps r, which the worker runs next. It returns false if an executor decides the
// order of turns, or if the monitor is taking the newest held actor away.
func (w *worker) hold(r runnable) bool {
	if w.step {
		return false
	}
	if !w.monitored {
		w.sys.monitor.join(w)
	}
	x := w.slot.Load()
	switch x & slotState {
	case slotTaken:
		return false
	case slotFull:
		if !w.slot.CompareAndSwap(x, x-slotFull+slotEmpty) {
			return false
		}
		w.age(held{w.next, looksOf(x)})
	}
	w.next = r
	w.slot.Store((x>>slotFilled+1)<<slotFilled | (w.sys.monitor.looks.Load()&looksMask)<<slotLooks | slotFull)
	w.sys.monitor.wake()
	return true
}

func looksOf(slot uint64) uint64 { return slot >> slotLooks & looksMask }

// age moves an actor from the slot to the older ones.
func (w *worker) age(h held) {
	w.mu.Lock()
	w.older = append(w.older, h)
	n := len(w.older)
	w.more.Store(int32(n))
	w.mu.Unlock()
	if n >= heldMax || w.sys.idles() {
		w.give((n + 1) / 2)
	}
}

// newest takes the newest held actor from the worker and returns it, or nil. If a
// processor is idle, newest gives the older half of the others to a new worker.
func (w *worker) newest() runnable {
	r := w.empty()
	if r == nil && w.more.Load() > 0 {
		r = w.pop()
	}
	if n := w.more.Load(); n > 0 && w.sys.idles() {
		w.give(int(n+1) / 2)
	}
	return r
}

// empty takes the actor out of the slot and returns it, or nil.
func (w *worker) empty() runnable {
	x := w.slot.Load()
	if x&slotState != slotFull || !w.slot.CompareAndSwap(x, x-slotFull+slotEmpty) {
		return nil
	}
	r := w.next
	w.next = nil
	return r
}

// pop takes the newest of the older actors and returns it, or nil.
func (w *worker) pop() runnable {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := len(w.older) - 1
	if n < 0 {
		return nil
	}
	r := w.older[n].r
	w.older[n] = held{}
	w.older = w.older[:n]
	w.more.Store(int32(n))
	w.turns++
	return r
}

// share gives all held actors to new workers.
func (w *worker) share() {
	if !w.monitored {
		return
	}
	if w.more.Load() > 0 {
		w.give(heldMax)
	}
	if r := w.empty(); r != nil {
		w.sys.start(r)
	}
}

// give gives the n oldest actors, or all older ones if there are fewer, to a new worker.
func (w *worker) give(n int) {
	w.mu.Lock()
	n = min(n, len(w.older))
	if n == 0 {
		w.mu.Unlock()
		return
	}
	to := w.split(n)
	w.mu.Unlock()
	if n > 1 {
		w.sys.monitor.join(to)
		w.sys.monitor.wake()
	}
	w.sys.goroutines.add()
	go to.loop()
}

// split moves the n oldest actors to a new worker, which runs the newest of them first.
// The caller holds the lock.
func (w *worker) split(n int) (to *worker) {
	to = w.sys.workers.Get().(*worker)
	to.first = w.older[n-1].r
	to.older = append(to.older, w.older[:n-1]...)
	to.more.Store(int32(n - 1))
	to.queued = true
	w.drop(n)
	return to
}

// drop removes the n oldest actors. The caller holds the lock.
func (w *worker) drop(n int) {
	left := copy(w.older, w.older[n:])
	clear(w.older[left:])
	w.older = w.older[:left]
	w.more.Store(int32(left))
}

// idles reports whether fewer workers run than there are processors. A worker whose
// actor blocks counts as running.
func (s *System) idles() bool {
	return s.goroutines.n.Load() <= s.monitor.processors.Load() // n is one more than the workers
}

// count adds n handled messages. After turnMessagesMax messages it shares the held
// actor and yields.
func (w *worker) count(n uint32) {
	if w.handled += n; w.handled >= turnMessagesMax {
		w.handled = 0
		w.share()
		runtime.Gosched()
	}
}

// A monitor takes actors away from workers that hold them too long. It has a timer, which is
// set only while a worker holds an actor, and no goroutine.
//
// A worker that holds an actor first fills its slot and then reads set; the monitor,
// before it rests, first clears set and then reads the slot of every worker. Therefore at
// least one of the two sees the write of the other, and no actor is held while the
// watch rests.
type monitor struct {
	mu         sync.Mutex
	first      *worker
	timer      *time.Timer
	set        atomic.Bool // the timer is set; written under the lock
	looks      atomic.Uint64
	processors atomic.Int64 // the processors at the last look
}

func (t *monitor) init() { t.processors.Store(int64(runtime.GOMAXPROCS(0))) }

// join adds a worker to the list that the monitor checks.
func (t *monitor) join(w *worker) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.link(w)
}

// link is join for a caller that holds the lock.
func (t *monitor) link(w *worker) {
	w.monitored = true
	w.behind = t.first
	if t.first != nil {
		t.first.before = w
	}
	t.first = w
}

// wake sets the timer if it is not set.
func (t *monitor) wake() {
	if !t.set.Load() {
		t.arm()
	}
}

func (t *monitor) arm() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.set.Load() {
		return
	}
	t.set.Store(true)
	if t.timer == nil {
		t.timer = time.AfterFunc(monitorInterval, t.look)
	} else {
		t.timer.Reset(monitorInterval)
	}
}

// leave removes a worker from the list.
func (t *monitor) leave(w *worker) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if w.before != nil {
		w.before.behind = w.behind
	} else {
		t.first = w.behind
	}
	if w.behind != nil {
		w.behind.before = w.before
	}
	w.monitored, w.before, w.behind = false, nil, nil
}

// look takes away the actors that were already held at the look before.
func (t *monitor) look() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.set.Store(false)
	t.processors.Store(int64(runtime.GOMAXPROCS(0)))
	looks := t.looks.Add(1)
	more := false
	for w := t.first; w != nil; w = w.behind {
		more = t.relieve(w, looks) || more
	}
	if more {
		t.set.Store(true)
		t.timer.Reset(monitorInterval)
	}
}

// relieve takes away the actors that a worker already held at the look before this one.
// It reports whether any actor is still held. The caller holds the lock of the monitor.
func (t *monitor) relieve(w *worker, looks uint64) (more bool) {
	old := func(held uint64) bool { return (looks-held)&looksMask > 1 }
	w.mu.Lock()
	defer w.mu.Unlock()
	x := w.slot.Load()
	blocked := x>>slotFilled == w.seenSlot>>slotFilled && w.turns == w.seenTurns
	w.seenSlot, w.seenTurns = x, w.turns
	if w.queued {
		return true // the goroutine of the worker begins as early as a new one would
	}
	more = x&slotState == slotFull
	if more && old(looksOf(x)) && w.slot.CompareAndSwap(x, x-slotFull+slotTaken) {
		r := w.next
		w.next = nil
		w.slot.Store(x - slotFull + slotEmpty)
		w.sys.start(r)
		more = false
	}
	n := 0
	for n < len(w.older) && old(w.older[n].looks) {
		n++
	}
	switch {
	case n == 0:
	case blocked:
		for _, h := range w.older[:n] {
			w.sys.start(h.r)
		}
		w.drop(n)
	default:
		to := w.split(n)
		for i := range to.older {
			to.older[i].looks = looks
		}
		t.link(to)
		w.sys.goroutines.add()
		go to.loop()
		more = more || n > 1
	}
	return more || len(w.older) > 0
}

// stop ends the monitor of a system without workers.
func (t *monitor) stop() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.timer != nil {
		t.timer.Stop()
	}
}
