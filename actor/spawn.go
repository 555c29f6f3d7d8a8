package actor

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// A Parent is the place in the tree where an actor is spawned: a [*System] puts it
// below the guardian "user", [System.Internal] below the guardian "system", and the
// [*Context] of an actor makes it a child of that actor. A child stops before its
// parent does.
type Parent interface{ placement() placement }

// A placement holds what an actor gets from its parent: guardian, parent and middleware.
type placement struct {
	guardian   *guardian
	parent     node // nil below the guardian
	middleware []Middleware
}

func (g *guardian) placement() placement { return placement{guardian: g, middleware: g.middleware} }

func (s *System) placement() placement { return s.user.placement() }

func (c *Context[M]) placement() placement {
	if c.a == nil {
		return placement{}
	}
	var around []Middleware
	if s, ok := c.a.behavior.(*wrapper[M]); ok {
		around = inherited(s.middleware)
	}
	return placement{guardian: c.a.k.sys.guardian(c.a.traits), parent: c.a, middleware: around}
}

// Spawn starts an actor. The actor is idle until the first message, unless its behavior
// is [Started], and lives until it is stopped or fails. A name is unique among the
// living children of a parent: a second actor with the same name gives a [*NameError].
// A name has at most [NameBytesMax] bytes, contains no slash (paths use it) and does
// not begin with "$". The name "" makes an anonymous actor; below a guardian, Spawn
// allocates only the actor itself for it. Spawn returns [ErrStopped] if the context is
// no longer valid, once the system shuts down, and once the parent has called
// [Context.Stop], has failed without a restart or has no messages left after a Stop. A
// parent that was stopped by [Ref.Stop] may still spawn while it handles the messages
// that its mailbox has accepted. Spawn returns [ErrInvalid] if the name, the behavior,
// an option or the [Strategy] of the system breaks a rule.
func Spawn[M any](p Parent, name string, b Behavior[M], opts ...Option) (Ref[M], error) {
	return spawn(p, name, b, nil, opts)
}

// SpawnFrom spawns an actor that can be restarted, and is otherwise as [Spawn]: fresh
// makes its behavior, now and at each [Restart]. One goroutine at a time calls fresh;
// the first call is on the goroutine of the caller. A failure of fresh at a restart is
// a failure of the actor.
func SpawnFrom[M any](p Parent, name string, fresh func() Behavior[M], opts ...Option) (Ref[M], error) {
	if fresh == nil {
		return Ref[M]{}, fmt.Errorf("spawn %q: %w: function is nil", name, ErrInvalid)
	}
	return spawn(p, name, fresh(), fresh, opts)
}

// checkSpawn returns an error if the behavior is nil, the name breaks a rule, or the context
// is no longer valid.
func checkSpawn(name string, without, over bool) error {
	switch {
	case without:
		return fmt.Errorf("spawn %q: %w", name, errNilBehavior)
	case len(name) > NameBytesMax:
		return fmt.Errorf("spawn: %w: name of %d bytes, at most %d are allowed", ErrInvalid, len(name), NameBytesMax)
	case strings.Contains(name, "/"):
		return fmt.Errorf("spawn %q: %w: name holds a slash", name, ErrInvalid)
	case strings.HasPrefix(name, anonymousMark):
		return fmt.Errorf("spawn %q: %w: name begins with %s", name, ErrInvalid, anonymousMark)
	case over:
		return fmt.Errorf("spawn %q: context is over: %w", name, ErrStopped)
	}
	return nil
}

// spawn is the common part of Spawn and SpawnFrom. It often runs inside a behavior, on
// the rest of its stack, so rare work is in functions of its own.
func spawn[M any](p Parent, name string, b Behavior[M], fresh func() Behavior[M], opts []Option) (Ref[M], error) {
	l := p.placement()
	if name != "" || b == nil || l.guardian == nil {
		if err := checkSpawn(name, b == nil, l.guardian == nil); err != nil {
			return Ref[M]{}, err
		}
	}
	s := l.guardian.sys
	if s.invalid != nil {
		return Ref[M]{}, fmt.Errorf("spawn %q: %w", name, s.invalid)
	}
	a := newActor[M](name, l.parent)
	a.k, a.behavior, a.max = kindOf[M](s), b, s.mailboxMax
	a.traits |= l.guardian.traits
	if len(opts) > 0 || len(l.middleware) > 0 || fresh != nil {
		if err := a.configure(l.middleware, fresh, opts); err != nil {
			return Ref[M]{}, fmt.Errorf("spawn %q: %w", name, err)
		}
	}
	can := a.k.capabilitiesOf(b)
	if can&canSignal != 0 {
		a.traits |= signals
	}
	if can&canLearnOfChildren != 0 {
		a.traits |= watchesChildren
	}
	if s.executor != nil || a.traits&dropping != 0 {
		a.traits |= single
	}
	if can&canStart != 0 {
		a.begin()
	}
	if err := l.register(a, name); err != nil {
		return Ref[M]{}, err
	}
	if s.hasSubscribers() {
		s.Publish(StartedEvent{Actor: Address{a}})
	}
	if can&canStart != 0 {
		s.start(a)
	}
	return Ref[M]{a}, nil
}

// newActor returns an actor. If the actor needs its extension from the start, both are
// one allocation.
func newActor[M any](name string, parent node) *actor[M] {
	if name == "" && parent == nil {
		return new(actor[M])
	}
	both := new(struct {
		actor[M]
		extension
	})
	both.extension.name, both.extension.parent = name, parent
	both.actor.ext, both.actor.traits = &both.extension, placed
	return &both.actor
}

// configure applies the options to a new actor, adds the middleware that it inherits from its
// parent, and keeps the function that makes a fresh behavior.
func (a *actor[M]) configure(around []Middleware, fresh func() Behavior[M], opts []Option) error {
	o := options{mailboxMax: a.max}
	for _, opt := range opts {
		o = opt.apply(o)
	}
	a.max = o.mailboxMax
	a.traits |= o.traits
	if len(around) > 0 || len(o.middleware) > 0 {
		a.addMiddleware(append(slices.Clip(around), o.middleware...))
	}
	if fresh != nil || o.onFailure != nil {
		h := a.supervision()
		if h.onFailure = o.onFailure; fresh != nil {
			h.fresh = fresh
		}
	}
	if o.strategy == nil {
		return nil
	}
	a.relations().strategy = o.strategy
	return o.strategy.check("Supervise")
}

// register puts an actor below its parent. The number of living actors chooses the shard of
// an actor without a name: it costs nothing, and actors that are spawned one after
// another, or at the same time, get different shards.
func (l placement) register(n node, name string) (err error) {
	living := l.guardian.living.add()
	if l.guardian.sys.executor == nil { // else see shardOf
		n.base().shard = uint8(living % shardsMax)
	}
	if l.parent == nil {
		err = l.guardian.add(n, name)
	} else {
		err = l.parent.base().addChild(n, name)
	}
	if err != nil {
		l.guardian.living.done()
	}
	return err
}

// addMiddleware puts middleware around the behavior of a new actor.
func (a *actor[M]) addMiddleware(around []Middleware) {
	a.behavior = &wrapper[M]{spawned: a.behavior, current: a.behavior, middleware: around}
	for _, m := range around {
		if m.Send != nil {
			a.traits |= sending
		}
	}
}

// kindOf returns the kind of the message type M. The kind that was asked for last is
// found without a map.
func kindOf[M any](s *System) *kind[M] {
	if last := s.lastKind.Load(); last != nil {
		if k, ok := (*last).(*kind[M]); ok {
			return k
		}
	}
	t := reflect.TypeFor[M]()
	x, ok := s.kinds.Load(t)
	if !ok {
		k := newKind[M](s)
		k.self = k
		x, _ = s.kinds.LoadOrStore(t, k)
	}
	k := x.(*kind[M])
	s.lastKind.Store(&k.self)
	return k
}
