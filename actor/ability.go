package actor

import "reflect"

// An ability is a set of bits. Each bit is an optional interface that a behavior
// satisfies, such as [Started].
type ability uint8

const (
	canSignal ability = 1 << iota
	canStart
	canFoster
	canStopping
	canStopped
	canClose

	atEnd = canStopping | canStopped | canClose // the hooks of the end of an actor
)

// A trained is a type of behavior together with its abilities.
type trained struct {
	behavior reflect.Type
	can      ability
}

// can returns the abilities of a behavior. A type assertion for each ability would take
// as long as spawning the actor, so can keeps the abilities of each type. The abilities
// of the type that was asked for last are found without a map.
func (k *kind[M]) can(b Behavior[M]) ability {
	t := reflect.TypeOf(b)
	x := k.last.Load()
	if x == nil || x.behavior != t {
		x = k.train(b, t)
		k.last.Store(x)
	}
	return x.can
}

func (k *kind[M]) train(b Behavior[M], t reflect.Type) *trained {
	if x, ok := k.trained.Load(t); ok {
		return x.(*trained)
	}
	x := &trained{behavior: t}
	note := func(ok bool, one ability) {
		if ok {
			x.can |= one
		}
	}
	_, ok := b.(Signaled[M])
	note(ok, canSignal)
	_, ok = b.(Started[M])
	note(ok, canStart)
	_, ok = b.(ChildStopped[M])
	note(ok, canFoster)
	_, ok = b.(Stopping[M])
	note(ok, canStopping)
	_, ok = b.(Stopped)
	note(ok, canStopped)
	_, ok = b.(Closed[M])
	note(ok, canClose)
	k.trained.Store(t, x)
	return x
}
