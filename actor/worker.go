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
	// heldMax bounds the time for which an actor waits behind the actor that has sent
	// to it, before another goroutine runs it. The watch checks at this interval, so
	// the wait may become twice as long.
	heldMax = time.Millisecond
)

// States of worker.held; a serial number is above them.
const (
	heldNone uint64 = iota
	heldFull
	heldTaken
	stateBits = 2
	stateMask = 1<<stateBits - 1
)

// A worker is a goroutine that runs turns, one actor after another.
//
// An actor that the running one wakes by [Tell] is held by the worker and runs next,
// which saves starting a goroutine and keeps the message in the cache of this core. One
// actor is held at a time. The held actor gets a goroutine of its own if the running
// actor goes on with another chunk, if the worker has handled turnMessagesMax messages,
// or if the goroutine ends. The watch gives it one if it is held for too long because
// the running actor blocks. Thus no actor depends on the good behavior of another one.
//
// The word held is full while next is set. Only the worker sets held to full. The
// worker or the watch empties it by compare-and-swap, and the one that succeeds owns
// the actor.
type worker struct {
	sys     *System
	loop    func() // the method value of run, made once so that starting it allocates nothing
	first   runnable
	next    runnable
	held    atomic.Uint64
	handled uint32
	step    bool // the worker makes one turn only
	spare   any  // a *Context[M] for the next turn, if the message type is the same

	// The lock of the watch guards the fields below.
	watched        bool // only the worker sets it, so the worker reads it without the lock
	seen           uint64
	before, behind *worker
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
	s.goroutines.pin()
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
	for r := w.first; r != nil; r = w.release() {
		w.first = nil
		r.turn(w)
	}
}

func (w *worker) end() {
	w.share()
	if w.watched {
		w.sys.watch.leave(w)
	}
	s := w.sys
	w.first, w.handled = nil, 0
	s.workers.Put(w)
	s.goroutines.unpin()
}

// hold keeps r, which the worker runs next. It returns false if an actor is held
// already, or if an executor decides the order of turns.
func (w *worker) hold(r runnable) bool {
	x := w.held.Load()
	if x&stateMask != heldNone || w.step {
		return false
	}
	if !w.watched {
		w.sys.watch.join(w)
	}
	w.next = r
	w.held.Store(x + 1<<stateBits + heldFull)
	if !w.sys.watch.looks.Load() {
		w.sys.watch.arm()
	}
	return true
}

// release takes the held actor from the worker and returns it, or nil.
func (w *worker) release() runnable {
	x := w.held.Load()
	if x&stateMask != heldFull || !w.held.CompareAndSwap(x, x-heldFull) {
		return nil
	}
	r := w.next
	w.next = nil
	return r
}

// share starts a goroutine of its own for the held actor, if there is one.
func (w *worker) share() {
	if r := w.release(); r != nil {
		w.sys.start(r)
	}
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

// A watch starts goroutines for actors that are held too long. It has a timer, which is
// set only while a worker holds an actor, and no goroutine.
//
// A worker that holds an actor first fills held and then reads looks; the watch, before
// it rests, first clears looks and then reads held of every worker. Therefore at least
// one of the two sees the write of the other, and no actor is held while the watch
// rests.
type watch struct {
	mu    sync.Mutex
	first *worker
	timer *time.Timer
	set   bool        // the timer is set
	looks atomic.Bool // the same, for workers to read without the lock
}

// join adds a worker to the list that the watch checks.
func (t *watch) join(w *worker) {
	t.mu.Lock()
	defer t.mu.Unlock()
	w.watched = true
	w.behind = t.first
	if t.first != nil {
		t.first.before = w
	}
	t.first = w
}

// arm sets the timer if it is not set.
func (t *watch) arm() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.set {
		return
	}
	t.set = true
	t.looks.Store(true)
	if t.timer == nil {
		t.timer = time.AfterFunc(heldMax, t.look)
	} else {
		t.timer.Reset(heldMax)
	}
}

// leave removes a worker from the list.
func (t *watch) leave(w *worker) {
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
	w.watched, w.before, w.behind = false, nil, nil
}

// look starts a goroutine for each actor that was already held at the previous look.
func (t *watch) look() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.looks.Store(false)
	t.set = false
	for w := t.first; w != nil; w = w.behind {
		x := w.held.Load()
		t.set = t.set || x&stateMask == heldFull
		if x&stateMask != heldFull || x != w.seen {
			w.seen = x
			continue
		}
		if w.held.CompareAndSwap(x, x-heldFull+heldTaken) {
			r := w.next
			w.next = nil
			w.held.Store(x - heldFull)
			w.sys.start(r)
		}
	}
	if t.set {
		t.looks.Store(true)
		t.timer.Reset(heldMax)
	}
}

// stop ends the watch of a system without workers.
func (t *watch) stop() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.timer != nil {
		t.timer.Stop()
	}
}
