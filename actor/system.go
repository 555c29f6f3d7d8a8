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
	// MailboxMaxDefault is how many messages a mailbox holds if nothing else is said.
	MailboxMaxDefault = 1024
	// MailboxMaxMax is the largest bound that a mailbox can have.
	MailboxMaxMax = 1 << 30
	// NameBytesMax bounds the name of an actor.
	NameBytesMax = 1024

	// shardsMax is over how many locks the registry is spread.
	shardsMax = 16
	// inlineMax is how many turns of one shard run on callers' goroutines at a time.
	inlineMax = 64
	// shrinkMin is the smallest capacity of a shard that is worth shrinking.
	shrinkMin = 1024
)

// A Config says how a [System] works. The zero Config is usable.
type Config struct {
	// Logger gets the failures of behaviors, at level Error. Nil: none.
	Logger *slog.Logger
	// MailboxMax bounds the mailbox of every actor that has no bound of its
	// own. Zero: [MailboxMaxDefault]. It is brought into 1 to [MailboxMaxMax].
	MailboxMax int
	// Supervision is for all actors whose parent has no [Supervise]. Its All is
	// not looked at. If it breaks a rule, [Spawn] returns [ErrInvalid].
	Supervision Strategy
	// Middleware is around the messages of all actors below the guardian of the
	// user, and of their children as far as it is to be inherited.
	Middleware []Middleware
	// Executor runs a turn that needs a goroutine, and may do that later. With
	// it an actor handles one message a turn, so that whoever executes the turns
	// has their order in his hand. It is for tests, see package actortest. Nil: a
	// goroutine for as long as there is something to do.
	Executor func(turn func())
}

// A System is a home of actors. Systems do not know each other; one that is
// made in a bubble of testing/synctest must be used in that bubble only.
type System struct {
	logger     *slog.Logger
	mailboxMax uint32
	strategy   Strategy
	executor   func(func())
	invalid    error // of the Config, which Spawn returns
	user       guardian
	system     guardian
	inline     [shardsMax]gauge
	kinds      sync.Map // reflect.Type of M to *kind[M]
	slots      sync.Map // reflect.Type of R to *slots[R]
	workers    sync.Pool
	watch      watch
	wheel      *wheel.Wheel

	subscribing sync.Mutex
	subscribers atomic.Pointer[[]subscriber] // nil while there are none

	goroutines pins
	shutdown   sync.Once
}

// Pins count what must be gone before something ends, and one for itself until
// it is asked to end. The channel gone is closed when they fall to zero for the first
// time: an actor of another system may still tell one of this system of its end, to
// which there is no answer any more.
type pins struct {
	n    atomic.Int64
	once sync.Once
	gone chan struct{}
}

func (p *pins) init() {
	p.gone = make(chan struct{})
	p.n.Store(1)
}

func (p *pins) pin() { p.n.Add(1) }

func (p *pins) unpin() {
	if p.n.Add(-1) == 0 {
		p.once.Do(func() { close(p.gone) })
	}
}

// wait returns when nothing is pinned any more, or reports that ctx ended first.
func (p *pins) wait(ctx context.Context) bool {
	select {
	case <-p.gone:
		return true
	case <-ctx.Done():
		return false
	}
}

// A gauge counts turns on callers' goroutines. A turn inside a turn counts
// too, so it bounds how deep they nest without knowing who calls whom.
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
		mailboxMax: mailboxMax(cmp.Or(c.MailboxMax, MailboxMaxDefault)),
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
	s.goroutines.init()
	s.user.init(s, "user", 0, c.Middleware)
	s.system.init(s, "system", internal, nil)
	return s
}

func mailboxMax(n int) uint32 { return uint32(min(max(n, 1), MailboxMaxMax)) }

// Internal returns the guardian of the system as a parent. What is spawned below
// it serves the other actors: Shutdown stops it when they are gone.
func (s *System) Internal() Parent { return &s.system }

// Shutdown stops all actors as [Ref.Stop] does, those below [System.Internal]
// last, and waits until the last turn has ended and no goroutine is left. If
// ctx ends first, the actors are stopped as by [Ref.StopNow] and Shutdown returns
// the error of ctx without waiting for those that still handle a message, or whose
// Stopping, Stopped or Closed blocks: these run on goroutines of their own.
// Shutdown may be called again, to wait again. From its beginning nothing can be
// spawned below the guardian of the user. An actor of the system that calls it
// waits for itself.
func (s *System) Shutdown(ctx context.Context) error {
	for _, g := range []*guardian{&s.user, &s.system} {
		g.stopAll(draining)
		if !g.living.wait(ctx) {
			s.user.stopAll(halting)
			s.system.stopAll(halting)
			return fmt.Errorf("shut down actors: %w", ctx.Err())
		}
	}
	s.shutdown.Do(s.goroutines.unpin)
	if !s.goroutines.wait(ctx) {
		return fmt.Errorf("shut down actors: %w", ctx.Err())
	}
	s.watch.stop()
	s.wheel.Close()
	return nil
}
