package actor

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// A Parent is whom an actor is spawned below: a [*System], where it lives below
// the guardian of the user, [System.Internal], or the [*Context] of an actor,
// which makes it a child of that actor. A child stops before its parent does.
type Parent interface{ adopt() lineage }

// A lineage is what an actor gets from its parent.
type lineage struct {
	guardian   *guardian
	parent     node // nil below the guardian
	middleware []Middleware
}

func (g *guardian) adopt() lineage { return lineage{guardian: g, middleware: g.middleware} }

func (s *System) adopt() lineage { return s.user.adopt() }

func (c *Context[M]) adopt() lineage {
	if c.a == nil {
		return lineage{}
	}
	l := lineage{guardian: c.a.k.sys.guardian(c.a.traits), parent: c.a}
	if s, ok := c.a.behavior.(*shell[M]); ok {
		l.middleware = inherited(s.middleware)
	}
	return l
}

// Spawn starts an actor. It is idle until somebody sends to it, unless it is
// [Started], and lives until it is stopped or fails. A name is unique among the
// living children of a parent: another with the same name gives a [*NameError].
// A name has at most [NameBytesMax] bytes, no slash, which is kept for paths, and
// does not begin with "$". The name "" makes an anonymous actor; below a
// guardian nothing but the actor is allocated for it. Spawn returns [ErrStopped]
// once the parent is to stop, or its context is over.
func Spawn[M any](p Parent, name string, b Behavior[M], opts ...Option) (Ref[M], error) {
	if b == nil {
		return Ref[M]{}, fmt.Errorf("spawn %q: %w", name, errNilBehavior)
	}
	return spawn(p, name, b, nil, opts)
}

// SpawnFrom is [Spawn] for an actor that can be restarted: fresh makes its
// behavior, now and at each [Restart]. It is called by one goroutine at a time,
// that of the caller first. What fails in it at a restart is a failure of the actor.
func SpawnFrom[M any](p Parent, name string, fresh func() Behavior[M], opts ...Option) (Ref[M], error) {
	if fresh == nil {
		return Ref[M]{}, fmt.Errorf("spawn %q: %w: function is nil", name, ErrInvalid)
	}
	b := fresh()
	if b == nil {
		return Ref[M]{}, fmt.Errorf("spawn %q: %w", name, errNilBehavior)
	}
	return spawn(p, name, b, fresh, opts)
}

// mind returns the error of a name that breaks a rule.
func mind(name string) error {
	switch {
	case name == "":
		return nil
	case len(name) > NameBytesMax:
		return fmt.Errorf("spawn: %w: name of %d bytes, at most %d are allowed", ErrInvalid, len(name), NameBytesMax)
	case strings.Contains(name, "/"):
		return fmt.Errorf("spawn %q: %w: name holds a slash", name, ErrInvalid)
	case strings.HasPrefix(name, anonymousMark):
		return fmt.Errorf("spawn %q: %w: name begins with %s", name, ErrInvalid, anonymousMark)
	}
	return nil
}

func spawn[M any](p Parent, name string, b Behavior[M], fresh func() Behavior[M], opts []Option) (Ref[M], error) {
	if err := mind(name); err != nil {
		return Ref[M]{}, err
	}
	l := p.adopt()
	if l.guardian == nil {
		return Ref[M]{}, fmt.Errorf("spawn %q: context is over: %w", name, ErrStopped)
	}
	s := l.guardian.sys
	o := options{mailboxMax: s.mailboxMax}
	for _, opt := range opts {
		o = opt.apply(o)
	}
	a := newActor[M](name, l.parent)
	a.k, a.behavior, a.max, a.traits = kindOf[M](s), b, o.mailboxMax, o.traits|l.guardian.traits
	can := a.k.can(b)
	if can&canSignal != 0 {
		a.traits |= signals
	}
	if can&canFoster != 0 {
		a.traits |= fosters
	}
	if s.executor != nil || a.traits&dropping != 0 {
		a.traits |= single
	}
	if len(l.middleware) > 0 || len(o.middleware) > 0 {
		a.surround(append(slices.Clip(l.middleware), o.middleware...))
	}
	if fresh != nil || o.onFailure != nil {
		h := a.vitals()
		if h.onFailure = o.onFailure; fresh != nil {
			h.fresh = fresh
		}
	}
	if o.strategy != nil {
		a.kin().strategy = o.strategy
	}
	if can&canStart != 0 {
		a.flags |= busy | noticed
		a.kin().notices = []notice{{what: begun}}
	}
	if err := l.enter(a, name); err != nil {
		return Ref[M]{}, err
	}
	if s.heard() {
		s.Publish(StartedEvent{Actor: Address{a}})
	}
	if can&canStart != 0 {
		s.start(a)
	}
	return Ref[M]{a}, nil
}

// newActor returns an actor, which is one piece of memory together with its
// extension if it needs that from the start.
func newActor[M any](name string, parent node) *actor[M] {
	if name == "" && parent == nil {
		return new(actor[M])
	}
	both := new(struct {
		actor[M]
		extension
	})
	both.extension = extension{name: name, parent: parent}
	both.actor.ext = &both.extension
	return &both.actor
}

// enter puts an actor below its parent.
func (l lineage) enter(n node, name string) error {
	if l.parent == nil {
		return l.guardian.add(n, name)
	}
	l.guardian.living.pin()
	err := l.parent.base().join(n, name)
	if err != nil {
		l.guardian.living.unpin()
	}
	return err
}

// surround puts middleware around the behavior of a new actor.
func (a *actor[M]) surround(around []Middleware) {
	a.behavior = &shell[M]{spawned: a.behavior, current: a.behavior, middleware: around}
	for _, m := range around {
		if m.Send != nil {
			a.traits |= sending
		}
	}
}

func kindOf[M any](s *System) *kind[M] {
	t := reflect.TypeFor[M]()
	k, ok := s.kinds.Load(t)
	if !ok {
		k, _ = s.kinds.LoadOrStore(t, newKind[M](s))
	}
	return k.(*kind[M])
}
