package actor_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/perdure/perdure/actor"
)

const (
	stressActors  = 6
	stressSenders = 5
	stressOps     = 20_000
)

// A stress is a set of actors with senders that use the whole API at random. It keeps a
// record of each message and checks the promises of the package:
//
//   - an accepted message is either handled once or undelivered once; a refused message
//     is neither;
//   - messages of one sender to one actor are handled in order, and undelivered
//     ones come last;
//   - one goroutine at a time is inside an actor (also checked by the race
//     detector, through the plain fields of victim);
//   - Closed is called once for each actor;
//   - an Ask gets its own answer or an error, and never hangs;
//   - after each Ref.Signal there is a call of the method Signal that sees all writes
//     before it, and that call comes before any message that is sent later.
type stress struct {
	t       *testing.T
	s       *actor.System
	open    sync.WaitGroup // messages without an outcome
	victims [stressActors]atomic.Pointer[victim]
	mu      sync.Mutex
	all     []*victim
	names   atomic.Int64
}

// A parcel is a message with a record of its outcome.
type parcel struct {
	sender, seq int
	do          action
	outcomes    *atomic.Int32
	reply       actor.Reply[int]
	to          *victim // the actor that the parcel's action concerns
	after       int64   // number of the signal that was sent before the message
}

type action int

const (
	nothing action = iota
	yield
	panicNow
	exitNow
	stopSelf
	tellOn
	runOn
	signalSelf
	keepReply
	actions
)

// A victim is an actor of the stress. No lock guards its plain fields: only its actor
// uses them.
type victim struct {
	*stress
	ref    actor.Ref[parcel]
	inside atomic.Bool
	last   [stressSenders]int
	closed bool
	kept   []actor.Reply[int]

	wanted   atomic.Int64 // raised before each Signal
	signaled atomic.Int64 // the highest of wanted whose Signal has returned
	seen     atomic.Int64 // what the last call of Signal saw
	ended    atomic.Bool
}

// signal sends a signal. A call of Signal that sees it must follow.
func (v *victim) signal(post func()) {
	n := v.wanted.Add(1)
	post()
	for old := v.signaled.Load(); n > old && !v.signaled.CompareAndSwap(old, n); old = v.signaled.Load() {
	}
}

func (v *victim) enter() func() {
	if !v.inside.CompareAndSwap(false, true) {
		v.t.Error("two goroutines are inside an actor")
	}
	return func() { v.inside.Store(false) }
}

func (v *victim) Receive(c *actor.Context[parcel], m parcel) {
	defer v.enter()()
	if m.outcomes.Add(1) == 1 {
		defer v.open.Done()
	} else {
		v.t.Errorf("message %d of sender %d has a second outcome", m.seq, m.sender)
	}
	v.inOrder(m)
	if seen := v.seen.Load(); seen < m.after {
		v.t.Errorf("message %d of sender %d has overtaken signal %d, the last one seen is %d", m.seq, m.sender, m.after, seen)
	}
	if v.closed {
		v.t.Error("a message is handled after Closed")
	}
	v.act(c, m)
}

func (v *victim) inOrder(m parcel) {
	if m.sender < 0 {
		return
	}
	if m.seq <= v.last[m.sender] {
		v.t.Errorf("message %d of sender %d comes after %d", m.seq, m.sender, v.last[m.sender])
	}
	v.last[m.sender] = m.seq
}

func (v *victim) act(c *actor.Context[parcel], m parcel) {
	switch m.do {
	case yield:
		runtime.Gosched()
	case panicNow:
		panic(m.seq)
	case exitNow:
		runtime.Goexit()
	case stopSelf:
		c.Stop()
	case tellOn, runOn:
		on := parcel{sender: -1, outcomes: new(atomic.Int32), after: m.to.signaled.Load()}
		v.send(on, func() error {
			if m.do == runOn {
				return m.to.ref.Run(on)
			}
			return actor.Tell(c, m.to.ref, on)
		})
	case signalSelf:
		v.signal(c.Self().Signal)
	case keepReply:
		v.kept = append(v.kept, m.reply.Keep())
		v.signal(c.Self().Signal)
		return
	}
	m.reply.Send(m.seq)
}

func (v *victim) Signal(*actor.Context[parcel]) {
	defer v.enter()()
	v.seen.Store(v.wanted.Load())
	runtime.Gosched()
	v.answerKept()
}

func (v *victim) answerKept() {
	for _, r := range v.kept {
		r.Send(-1)
	}
	v.kept = nil
}

func (v *victim) Failed(f *actor.Failure) actor.Directive {
	defer v.enter()()
	if n, ok := f.Value.(int); ok && n%2 == 0 || f.Goexit && v.last[0]%2 == 0 {
		return actor.Resume
	}
	return actor.Stop
}

func (v *victim) Closed(_ error, undelivered []parcel) {
	defer v.enter()()
	if v.closed {
		v.t.Error("Closed is called twice")
	}
	v.closed = true
	for _, m := range undelivered {
		v.inOrder(m)
		if m.outcomes.Add(1) != 1 {
			v.t.Errorf("undelivered message %d of sender %d has another outcome", m.seq, m.sender)
			continue
		}
		v.open.Done()
	}
	v.answerKept()
	v.ended.Store(true)
}

// spawnAt puts a new victim in place i.
func (st *stress) spawnAt(i int, r *rand.Rand) {
	v := &victim{stress: st}
	for j := range v.last {
		v.last[j] = -1
	}
	name := ""
	if r.IntN(2) == 0 {
		name = fmt.Sprint("victim-", st.names.Add(1))
	}
	opts := []actor.Option{actor.MailboxMax(1 + r.IntN(200))}
	if r.IntN(4) == 0 {
		opts = append(opts, actor.InlineNever())
	}
	ref, err := actor.Spawn(st.s, name, v, opts...)
	if err != nil {
		st.t.Errorf("Spawn: %v", err)
		return
	}
	v.ref = ref
	st.victims[i].Store(v)
	st.mu.Lock()
	st.all = append(st.all, v)
	st.mu.Unlock()
}

// send sends m, and removes its record if the actor refuses it.
func (st *stress) send(m parcel, post func() error) {
	st.open.Add(1)
	err := post()
	if err == nil {
		return
	}
	st.open.Done()
	if !errors.Is(err, actor.ErrStopped) && !errors.Is(err, actor.ErrMailboxFull) && !errors.Is(err, context.DeadlineExceeded) {
		st.t.Errorf("message %d of sender %d is refused: %v", m.seq, m.sender, err)
	}
	if n := m.outcomes.Load(); n != 0 {
		st.t.Errorf("message %d of sender %d is refused (%v) and has %d outcomes", m.seq, m.sender, err, n)
	}
}

// ask asks with m. Here err does not tell whether the message was accepted, but
// the record of an accepted one is closed like any other.
func (st *stress) ask(ctx context.Context, v *victim, m parcel) error {
	got, err := actor.Ask(ctx, v.ref, func(r actor.Reply[int]) parcel {
		m.reply = r
		st.open.Add(1)
		return m
	})
	switch {
	case err == nil && got != m.seq && (m.do != keepReply || got != -1):
		st.t.Errorf("Ask %d got %d, the answer of another", m.seq, got)
	case errors.Is(err, actor.ErrMailboxFull), err == actor.ErrStopped: //nolint:errorlint // only the plain one says that it was not accepted
		st.open.Done()
	case errors.Is(err, actor.ErrNoReply):
		st.t.Errorf("Ask %d: %v", m.seq, err)
	}
	return err
}

func (st *stress) sender(id int, seed uint64) {
	r := rand.New(rand.NewPCG(seed, uint64(id)))
	for seq := 0; seq < stressOps && !st.t.Failed(); seq++ {
		i := r.IntN(stressActors)
		v := st.victims[i].Load()
		if v.ended.Load() {
			st.spawnAt(i, r)
			v = st.victims[i].Load()
		}
		m := parcel{sender: id, seq: seq, outcomes: new(atomic.Int32), to: st.victims[r.IntN(stressActors)].Load(), after: v.signaled.Load()}
		switch n := r.IntN(400); {
		case n < 4:
			m.do = panicNow
		case n < 5:
			m.do = stopSelf
		case n < 200:
			m.do = []action{yield, tellOn, runOn, signalSelf}[n%4]
		}
		switch n := r.IntN(1000); {
		case n < 400:
			if r.IntN(100) == 0 {
				m.do = exitNow // because the message is handled on a goroutine of the actor
			}
			st.send(m, func() error { return v.ref.Tell(m) })
		case n < 550:
			st.send(m, func() error { return v.ref.Run(m) })
		case n < 600:
			ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
			st.send(m, func() error { return v.ref.TellWait(ctx, m) })
			cancel()
		case n < 800:
			if r.IntN(10) == 0 {
				m.do = keepReply
			}
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			_ = st.ask(ctx, v, m) // ask has checked the error
			if ctx.Err() != nil {
				st.t.Errorf("Ask %d of sender %d hangs", seq, id)
			}
			cancel()
		case n < 900:
			v.signal(v.ref.Signal)
		case n < 980:
			v.signal(v.ref.RunSignal)
		case n < 994:
			v.ref.StopIfIdle()
		case n < 997:
			v.ref.Stop()
		default:
			v.ref.StopNow()
		}
	}
}

// check checks all promises after the last sender has ended.
func (st *stress) check() {
	quiet := make(chan struct{})
	go func() {
		defer close(quiet)
		st.open.Wait()
	}()
	select {
	case <-quiet:
	case <-time.After(patience):
		st.t.Fatalf("waited %v for the outcome of every accepted message", patience)
	}
	// The last Signals may still be pending. Once a message sent after them is handled,
	// they have come.
	for i := range st.victims {
		v := st.victims[i].Load()
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		err := st.ask(ctx, v, parcel{sender: -1, outcomes: new(atomic.Int32)})
		if ctx.Err() != nil {
			st.t.Errorf("actor %d does not answer", i)
		}
		if seen, wanted := v.seen.Load(), v.wanted.Load(); err == nil && seen != wanted {
			st.t.Errorf("the last call of Signal of actor %d saw %d of %d", i, seen, wanted)
		}
		cancel()
	}
	shutdown(st.t, st.s)
	for i, v := range st.all {
		if !v.closed {
			st.t.Errorf("Closed was not called for actor %d of %d", i, len(st.all))
		}
	}
}

func TestStress(t *testing.T) {
	t.Parallel()
	rounds := 4
	if testing.Short() {
		rounds = 1
	}
	for range rounds {
		seed := rand.Uint64()
		t.Logf("seed %d", seed)
		st := &stress{t: t, s: actor.NewSystem(actor.Config{})}
		for i := range st.victims {
			st.spawnAt(i, rand.New(rand.NewPCG(seed, uint64(100+i))))
		}
		var senders sync.WaitGroup
		for id := range stressSenders {
			senders.Go(func() { st.sender(id, seed) })
		}
		senders.Wait()
		if t.Failed() {
			return
		}
		st.check()
		t.Logf("%d actors lived", len(st.all))
	}
}
