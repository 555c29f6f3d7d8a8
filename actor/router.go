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

// routerPause is how long a [Router] waits before it replaces a member that has
// stopped more than once within a minute.
var routerPause = Backoff{Min: 100 * time.Millisecond, Max: time.Minute}

// A Router sends each message to one of a group of actors: without a key to the
// members in turn, where one that refuses is passed over; with one, all messages of
// a key to one member, as [ConsistentHash] does. It is not an actor, so it adds no
// mailbox on the way, and may be used by any goroutine. What all members refuse is
// refused with [ErrMailboxFull] if one of them is full, else with [ErrStopped].
type Router[M any] struct {
	key     func(M) string
	turn    atomic.Uint64
	keeper  Ref[int]                 // of a group that is kept whole
	mu      sync.Mutex               // for changes of members
	members atomic.Pointer[[]Ref[M]] // never changed in place
}

// NewRouter returns a router to actors that live on their own. Key may be nil.
func NewRouter[M any](key func(M) string, members ...Ref[M]) *Router[M] {
	r := &Router[M]{key: key}
	members = slices.Clone(members)
	r.members.Store(&members)
	return r
}

// SpawnRouter spawns an actor with n children of one sort, named 0, 1 and so on,
// and returns the router to them. A member that has stopped, for whatever reason, is
// replaced by a fresh one in its place: at once the first time in a minute, then
// after pauses that grow from 0.1 s to a minute. Key may be nil. The options are for
// the members. If one of them cannot be spawned, none is left.
func SpawnRouter[M any](p Parent, name string, n int, key func(M) string, fresh func() Behavior[M], opts ...Option) (*Router[M], error) {
	if fresh == nil {
		return nil, fmt.Errorf("spawn router %q: %w: function is nil", name, ErrInvalid)
	}
	r := NewRouter[M](key)
	k := &keeper[M]{r: r, fresh: fresh, opts: opts}
	var err error
	if r.keeper, err = Spawn[int](p, name, k); err != nil {
		return nil, fmt.Errorf("spawn router: %w", err)
	}
	whole := false
	defer func() { // also if fresh panics
		if !whole {
			r.StopNow()
		}
	}()
	c := &Context[int]{a: r.keeper.a}
	for i := range n {
		if err := k.spawn(c, i, true); err != nil {
			return nil, fmt.Errorf("spawn router: %w", err)
		}
	}
	whole = true
	return r, nil
}

// Tell is [Ref.Tell] to a member.
func (r *Router[M]) Tell(m M) error {
	return r.each(m, func(to Ref[M]) (bool, error) {
		err := to.Tell(m)
		return err == nil, err
	})
}

// TellWait is [Ref.TellWait] to a member. Without a key it waits only if no member
// has room, and then for the one whose turn it is.
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

// AskRouter is [Ask] of a member. With a key, message is called once more before,
// with the zero [Reply], to know the key of its message.
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

// each lets try send to one member after another until one has accepted.
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

// Address returns the address of the actor above the members. It is the zero
// Address for a router of [NewRouter].
func (r *Router[M]) Address() Address { return r.keeper.Address() }

// Stop stops the members of [SpawnRouter] as [Ref.Stop] does.
func (r *Router[M]) Stop() { r.keeper.Stop() }

// StopNow stops the members of [SpawnRouter] as [Ref.StopNow] does.
func (r *Router[M]) StopNow() { r.keeper.StopNow() }

// A keeper is the parent of the members of a router. Its messages are the places of
// members that are to be replaced.
type keeper[M any] struct {
	r     *Router[M]
	fresh func() Behavior[M]
	opts  []Option
	stops map[int]*tally
}

// spawn puts a fresh member in a place. The first one of a place does not replace
// another, which has come there because the first has stopped already.
func (k *keeper[M]) spawn(c *Context[int], place int, first bool) error {
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

// Receive replaces a member. If that fails, it is tried again after a longer pause.
func (k *keeper[M]) Receive(c *Context[int], place int) {
	key := strconv.Itoa(place)
	c.SetTimer(key, k.pause(place), place)
	if err := k.spawn(c, place, false); err != nil {
		c.Fail(err)
	}
	c.CancelTimer(key)
	t := k.stops[place]
	t.at = t.at[:len(t.at)-1] // it was no failure
}

// Failed goes on: what has failed is the making of a member.
func (*keeper[M]) Failed(*Failure) Directive { return Resume }

// ChildStopped replaces a member, the first time in a minute at once.
func (k *keeper[M]) ChildStopped(c *Context[int], t Terminated) {
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

// pause counts a stop of a member, or a try to replace it, and returns how long to
// wait before the next try.
func (k *keeper[M]) pause(place int) time.Duration {
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
