package actor

import (
	"cmp"
	"context"
	"fmt"
	"hash/maphash"
	"log/slog"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
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
}

// A System is a home of actors. Systems do not know each other; one that is
// made in a bubble of testing/synctest must be used in that bubble only.
type System struct {
	logger     *slog.Logger
	mailboxMax uint32
	seed       maphash.Seed
	shards     [shardsMax]shard
	inline     [shardsMax]gauge
	kinds      sync.Map // reflect.Type of M to *kind[M]
	slots      sync.Map // reflect.Type of R to *slots[R]
	workers    sync.Pool
	watch      watch

	// pins counts actors and goroutines, and one for the system until it is
	// shut down; gone is closed when it falls to zero.
	pins     atomic.Int64
	gone     chan struct{}
	shutdown sync.Once
}

// A shard is a part of the registry.
type shard struct {
	mu      sync.Mutex
	closed  bool
	members []runnable
	names   map[string]runnable
	_       [64]byte // two shards share no cache line
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
		seed:       maphash.MakeSeed(),
		gone:       make(chan struct{}),
	}
	if s.logger == nil {
		s.logger = slog.New(slog.DiscardHandler)
	}
	s.workers.New = func() any { return newWorker(s) }
	s.pins.Store(1)
	return s
}

func mailboxMax(n int) uint32 { return uint32(min(max(n, 1), MailboxMaxMax)) }

// Shutdown stops all actors as [Ref.Stop] does and waits until the last turn
// has ended and no goroutine is left. If ctx ends first, the actors are stopped
// as by [Ref.StopNow] and Shutdown returns the error of ctx without waiting for
// those that still handle a message. Shutdown may be called again, to wait
// again. From its beginning nothing can be spawned. An actor of the system
// that calls it waits for itself.
func (s *System) Shutdown(ctx context.Context) error {
	s.stopAll(draining)
	s.shutdown.Do(s.unpin)
	select {
	case <-s.gone:
	case <-ctx.Done():
		s.stopAll(halting)
		return fmt.Errorf("shut down actors: %w", ctx.Err())
	}
	s.watch.stop()
	return nil
}

// stopAll closes the registry and stops whom it holds.
func (s *System) stopAll(how uint16) {
	for i := range s.shards {
		sh := &s.shards[i]
		sh.mu.Lock()
		sh.closed = true
		members := slices.Clone(sh.members)
		sh.mu.Unlock()
		for _, r := range members {
			r.stop(how)
		}
	}
}

func (s *System) pin() { s.pins.Add(1) }

func (s *System) unpin() {
	if s.pins.Add(-1) == 0 {
		close(s.gone)
	}
}

// Spawn starts an actor. It is idle until somebody sends to it, and lives until
// it is stopped or fails. A name is unique among the living actors of a system:
// another with the same name gives a [*NameError]. A name has at most
// [NameBytesMax] bytes and no slash, which is kept for paths. The name ""
// makes an anonymous actor, for which nothing but the actor is allocated.
// Spawn returns [ErrStopped] once the system is shut down.
func Spawn[M any](s *System, name string, b Behavior[M], opts ...Option) (Ref[M], error) {
	switch {
	case b == nil:
		return Ref[M]{}, fmt.Errorf("spawn %q: %w: behavior is nil", name, ErrInvalid)
	case len(name) > NameBytesMax:
		return Ref[M]{}, fmt.Errorf("spawn: %w: name of %d bytes, at most %d are allowed", ErrInvalid, len(name), NameBytesMax)
	case strings.Contains(name, "/"):
		return Ref[M]{}, fmt.Errorf("spawn %q: %w: name holds a slash", name, ErrInvalid)
	}
	o := options{mailboxMax: s.mailboxMax}
	for _, opt := range opts {
		o = opt.apply(o)
	}
	a := &actor[M]{k: kindOf[M](s), behavior: b, max: o.mailboxMax, traits: o.traits}
	if _, ok := b.(Signaled[M]); ok {
		a.traits |= signals
	}
	if name != "" || o.onFailure != nil {
		a.ext = &extension[M]{name: name, onFailure: o.onFailure}
	}
	if name == "" {
		a.shard = uint8(rand.Uint32() % shardsMax)
	} else {
		a.shard = uint8(maphash.String(s.seed, name) % shardsMax)
	}
	if err := s.add(a, a.shard, name); err != nil {
		return Ref[M]{}, err
	}
	return Ref[M]{a}, nil
}

func kindOf[M any](s *System) *kind[M] {
	t := reflect.TypeFor[M]()
	k, ok := s.kinds.Load(t)
	if !ok {
		k, _ = s.kinds.LoadOrStore(t, newKind[M](s))
	}
	return k.(*kind[M])
}

// add enters an actor in the registry.
func (s *System) add(r runnable, shard uint8, name string) error {
	sh := &s.shards[shard]
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if sh.closed {
		return fmt.Errorf("spawn %q: system: %w", name, ErrStopped)
	}
	if name != "" {
		if _, taken := sh.names[name]; taken {
			return &NameError{Name: name}
		}
		if sh.names == nil {
			sh.names = make(map[string]runnable)
		}
		sh.names[name] = r
	}
	r.place(uint32(len(sh.members)))
	sh.members = append(sh.members, r)
	s.pin()
	return nil
}

// remove takes an actor out of the registry. The last member takes its place.
func (s *System) remove(r runnable, shard uint8) {
	name := r.name()
	sh := &s.shards[shard]
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if name != "" {
		delete(sh.names, name)
	}
	i, last := r.placed(), len(sh.members)-1
	sh.members[i] = sh.members[last]
	sh.members[i].place(i)
	sh.members[last] = nil
	sh.members = sh.members[:last]
	if c := cap(sh.members); c > shrinkMin && last < c/4 {
		sh.members = append(make([]runnable, 0, c/2), sh.members...)
	}
}

func (a *actor[M]) place(index uint32) { a.index = index }

func (a *actor[M]) placed() uint32 { return a.index }
