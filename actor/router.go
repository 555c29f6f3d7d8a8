package actor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// routerPause is the back-off before a [Router] replaces a member that has stopped more
// than once within a minute.
var routerPause = Backoff{Min: 100 * time.Millisecond, Max: time.Minute}

// A Router sends each message to one of a group of actors. Without a key function it
// sends to the members in turn, and skips a member that refuses. With a key function it
// sends all messages with the same key to the same member, as [ConsistentHash] does. A
// Router is not an actor, so it adds no mailbox on the way, and any goroutine may use
// it. If all members refuse a message, the error is [ErrMailboxFull] if one of them is
// full, else [ErrStopped].
type Router[M any] struct {
	key     func(M) string
	turn    atomic.Uint64
	parent  Ref[int]                 // parent of the members of SpawnRouter
	mu      sync.Mutex               // guards changes of members
	members atomic.Pointer[[]Ref[M]] // never changed in place
}

// NewRouter returns a router to existing actors, which it neither stops nor replaces.
// Key may be nil.
func NewRouter[M any](key func(M) string, members ...Ref[M]) *Router[M] {
	r := &Router[M]{key: key}
	members = slices.Clone(members)
	r.members.Store(&members)
	return r
}

// SpawnRouter spawns an actor with n children of the same behavior, named 0, 1 and so
// on, and returns the router to them. A member that has stopped, for any reason, is
// replaced by a fresh one in its place: at once the first time in a minute, then after
// pauses that grow from 0.1 s to a minute. Key may be nil. The options are for the
// members. If one of them cannot be spawned, SpawnRouter stops the others and returns
// the error.
func SpawnRouter[M any](p Parent, name string, n int, key func(M) string, fresh func() Behavior[M], opts ...Option) (*Router[M], error) {
	if fresh == nil {
		return nil, fmt.Errorf("spawn router %q: %w: function is nil", name, ErrInvalid)
	}
	r := NewRouter[M](key)
	k := &routerParent[M]{r: r, fresh: fresh, opts: opts}
	var err error
	if r.parent, err = Spawn[int](p, name, k); err != nil {
		return nil, fmt.Errorf("spawn router: %w", err)
	}
	whole := false
	defer func() { // deferred: fresh may panic
		if !whole {
			r.StopNow()
		}
	}()
	c := &Context[int]{a: r.parent.a}
	for i := range n {
		if err := k.spawn(c, i, true); err != nil {
			return nil, fmt.Errorf("spawn router: %w", err)
		}
	}
	whole = true
	return r, nil
}

// Tell sends m to a member as [Ref.Tell] does.
func (r *Router[M]) Tell(m M) error {
	return r.each(m, func(to Ref[M]) (bool, error) {
		err := to.Tell(m)
		return err == nil, err
	})
}

// TellWait sends m to a member as [Ref.TellWait] does. Without a key function it waits
// only if no member has room, and then for the member whose turn it is.
func (r *Router[M]) TellWait(ctx context.Context, m M) error {
	if r.key == nil {
		if err := r.Tell(m); !errors.Is(err, ErrMailboxFull) {
			return err
		}
	}
	return r.each(m, func(to Ref[M]) (bool, error) {
		err := to.TellWait(ctx, m)
		return !errors.Is(err, ErrStopped), err
	})
}

// AskRouter asks a member as [Ask] does. If the router has a key function, AskRouter
// first calls message once with the zero [Reply], to compute the key.
func AskRouter[R, M any](ctx context.Context, r *Router[M], message func(Reply[R]) M) (v R, err error) {
	var key M
	if r.key != nil {
		key = message(Reply[R]{})
	}
	err = r.each(key, func(to Ref[M]) (accepted bool, err error) {
		v, accepted, err = ask(ctx, nil, to, message)
		return accepted, err
	})
	return v, err
}

// each calls try with one member after another until one has accepted the message.
func (r *Router[M]) each(m M, try func(to Ref[M]) (accepted bool, err error)) error {
	members := *r.members.Load()
	n := uint64(len(members))
	switch {
	case n == 0:
		return ErrStopped
	case r.key != nil:
		_, err := try(members[rendezvous(r.key(m), len(members))])
		return err
	}
	first := r.turn.Add(1) - 1
	refused := ErrStopped
	for i := range n {
		accepted, err := try(members[(first+i)%n])
		if accepted {
			return err
		}
		if errors.Is(err, ErrMailboxFull) {
			refused = err
		}
	}
	return refused
}

// Members returns the refs of the members, in their order.
func (r *Router[M]) Members() []Ref[M] { return slices.Clone(*r.members.Load()) }

// Address returns the address of the parent of the members. For a router of [NewRouter]
// it returns the zero Address.
func (r *Router[M]) Address() Address { return r.parent.Address() }

// Stop stops the members of [SpawnRouter] as [Ref.Stop] does.
func (r *Router[M]) Stop() { r.parent.Stop() }

// StopNow stops the members of [SpawnRouter] as [Ref.StopNow] does.
func (r *Router[M]) StopNow() { r.parent.StopNow() }

// A routerParent is the parent of the members of a router. Its messages are the places of the
// members to replace.
type routerParent[M any] struct {
	r     *Router[M]
	fresh func() Behavior[M]
	opts  []Option
	stops map[int]*tally
}

// spawn puts a fresh member in a place. With first, it does not replace a member that
// is in the place already: the first member may have stopped, and been replaced, before
// spawn got here.
func (k *routerParent[M]) spawn(c *Context[int], place int, first bool) error {
	ref, err := SpawnFrom(c, strconv.Itoa(place), k.fresh, k.opts...)
	if err != nil {
		return err
	}
	k.r.mu.Lock()
	defer k.r.mu.Unlock()
	members := slices.Clone(*k.r.members.Load())
	switch {
	case place == len(members):
		members = append(members, ref)
	case !first:
		members[place] = ref
	}
	k.r.members.Store(&members)
	return nil
}

// Receive replaces a member. If that fails, the routerParent tries again after a longer
// pause.
func (k *routerParent[M]) Receive(c *Context[int], place int) {
	key := strconv.Itoa(place)
	c.SetTimer(key, k.pause(place), place)
	if err := k.spawn(c, place, false); err != nil {
		c.Fail(err)
	}
	c.CancelTimer(key)
	t := k.stops[place]
	t.at = t.at[:len(t.at)-1] // the replacement succeeded, so it does not count
}

// Failed makes the routerParent go on: only making a member can fail in it, and a timer is
// set that tries again.
func (*routerParent[M]) Failed(*Failure) Directive { return Resume }

// ChildStopped replaces a member, the first time in a minute at once.
func (k *routerParent[M]) ChildStopped(c *Context[int], t Terminated) {
	place, err := strconv.Atoi(t.Actor.Name())
	if err != nil {
		return
	}
	if pause := k.pause(place); pause > routerPause.Min {
		c.SetTimer(t.Actor.Name(), pause, place)
		return
	}
	k.Receive(c, place)
}

// pause counts a stop of a member, or an attempt to replace it, and returns the pause
// before the next attempt.
func (k *routerParent[M]) pause(place int) time.Duration {
	if k.stops == nil {
		k.stops = make(map[int]*tally)
	}
	t := k.stops[place]
	if t == nil {
		t = new(tally)
		k.stops[place] = t
	}
	n, _ := t.add(time.Now(), &Strategy{RestartsMax: RestartsMaxMax})
	return routerPause.pause(n)
}
