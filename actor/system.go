package actor

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"

	"github.com/perdure/perdure/internal/wheel"
)

const (
	// mailboxMaxDefault is the number of messages that a mailbox holds by default.
	mailboxMaxDefault = 1024
	// MailboxMaxMax is the largest bound that a mailbox can have.
	MailboxMaxMax = 1 << 30
	// NameBytesMax bounds the name of an actor.
	NameBytesMax = 1024

	// shardsMax is the number of shards, each with its own lock, of the registry.
	shardsMax = 16
	// inlineMax bounds the turns of one shard that run on callers' goroutines at a
	// time.
	inlineMax = 64
	// shrinkMin is the capacity up to which a list of actors is not made smaller.
	shrinkMin = 1024
)

// A Config configures a [System]. The zero Config is usable.
type Config struct {
	// Logger logs the failures of behaviors, at level Error. Nil discards them.
	Logger *slog.Logger
	// MailboxMax bounds the mailbox of every actor that has no bound of its own. Zero
	// means 1,024. A negative number means 1, a number above
	// [MailboxMaxMax] means MailboxMaxMax.
	MailboxMax int
	// Supervision is the strategy for all actors whose parent has no [Supervise]. Its
	// field All has no effect. If it breaks a rule, [Spawn] returns [ErrInvalid].
	Supervision Strategy
	// Middleware is put around the messages of all actors directly below the guardian
	// "user", and, if it has Inherit, of all their descendants.
	Middleware []Middleware
	// Executor runs each turn that needs a goroutine, now or later. With it an actor
	// handles one message in each turn, so the executor decides the order of all
	// messages. It is for tests, see package actortest. Nil means that an actor with
	// work runs on a goroutine.
	Executor func(turn func())
}

// A System is a tree of actors with its workers, timers and pools. Systems share
// nothing. A System that is made in a bubble of testing/synctest must be used in that
// bubble only.
type System struct {
	logger     *slog.Logger
	mailboxMax uint32
	strategy   Strategy
	executor   func(func())
	invalid    error // error of the Config, which Spawn returns
	user       guardian
	system     guardian
	inline     [shardsMax]gauge
	kinds      sync.Map // reflect.Type of M to *kind[M]
	lastKind   atomic.Pointer[any]
	slots      sync.Map // reflect.Type of R to *slots[R]
	workers    sync.Pool
	monitor    monitor
	wheel      *wheel.Wheel

	subscribing sync.Mutex
	subscribers atomic.Pointer[[]subscriber] // nil while there are none

	goroutines counter
	shutdown   sync.Once
}

// A counter is a WaitGroup whose wait has a context. It counts things that
// must end first, such as living actors, and one more until its owner asks for the end.
// The channel zero is closed when the counter falls to zero for the first time. The
// counter may rise and fall again later: a watched actor of another system may report
// its end to an actor of this system, which no longer handles it.
type counter struct {
	n    atomic.Int64
	once sync.Once
	zero chan struct{}
}

func (p *counter) init() {
	p.zero = make(chan struct{})
	p.n.Store(1)
}

// add counts one more thing and returns their number.
func (p *counter) add() int64 { return p.n.Add(1) }

func (p *counter) done() {
	if p.n.Add(-1) == 0 {
		p.once.Do(func() { close(p.zero) })
	}
}

// wait returns true when the counter has fallen to zero, and false if ctx ends first.
func (p *counter) wait(ctx context.Context) bool {
	select {
	case <-p.zero:
		return true
	case <-ctx.Done():
		return false
	}
}

// A gauge counts turns on callers' goroutines. A turn inside a turn counts too, so the
// gauge also bounds the depth of nested turns.
type gauge struct {
	n atomic.Int32
	_ [60]byte // two gauges share no cache line
}

func (g *gauge) enter() bool {
	if g.n.Add(1) <= inlineMax {
		return true
	}
	g.n.Add(-1)
	return false
}

func (g *gauge) leave() { g.n.Add(-1) }

// NewSystem returns a system without actors. It has no goroutine of its own.
func NewSystem(c Config) *System {
	s := &System{
		logger:     c.Logger,
		mailboxMax: mailboxMax(cmp.Or(c.MailboxMax, mailboxMaxDefault)),
		strategy:   c.Supervision,
		executor:   c.Executor,
		wheel:      wheel.New(),
	}
	if s.logger == nil {
		s.logger = slog.New(slog.DiscardHandler)
	}
	s.strategy.All = false
	s.invalid = s.strategy.check("Config.Supervision")
	s.workers.New = func() any { return newWorker(s) }
	s.monitor.init()
	s.goroutines.init()
	s.user.init(s, "user", 0, c.Middleware)
	s.system.init(s, "system", internal, nil)
	return s
}

func mailboxMax(n int) uint32 { return uint32(min(max(n, 1), MailboxMaxMax)) }

// Internal returns the guardian of the system as a parent. Actors spawned below it
// serve the other actors: Shutdown stops them after all others have stopped.
func (s *System) Internal() Parent { return &s.system }

// Shutdown stops all actors as [Ref.Stop] does, those below [System.Internal] last, and
// waits until the last turn has ended and no goroutine is left. If ctx ends first,
// Shutdown stops the actors as [Ref.StopNow] does and returns the error of ctx without
// waiting for those that still handle a message, or whose Stopping, Stopped or Closed
// blocks: these run on goroutines of their own. Shutdown may be called again, to wait
// again. From its beginning, [Spawn] below the guardian "user" returns [ErrStopped]. An
// actor of the system that calls Shutdown waits for itself.
func (s *System) Shutdown(ctx context.Context) error {
	for _, g := range []*guardian{&s.user, &s.system} {
		g.stopAll(draining)
		if !g.living.wait(ctx) {
			s.user.stopAll(halting)
			s.system.stopAll(halting)
			return fmt.Errorf("shut down actors: %w", ctx.Err())
		}
	}
	s.shutdown.Do(s.goroutines.done)
	if !s.goroutines.wait(ctx) {
		return fmt.Errorf("shut down actors: %w", ctx.Err())
	}
	s.monitor.stop()
	s.wheel.Close()
	return nil
}
