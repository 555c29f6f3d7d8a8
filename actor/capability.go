package actor

import "reflect"

// Capabilities is a set of bits. Each bit is an optional interface that a behavior
// satisfies, such as [Started].
type capabilities uint8

const (
	canSignal capabilities = 1 << iota
	canStart
	canLearnOfChildren
	canStopping
	canStopped
	canClose

	atEnd = canStopping | canStopped | canClose // the hooks of the end of an actor
)

// A behaviorType is a type of behavior together with its capabilities.
type behaviorType struct {
	behavior reflect.Type
	has      capabilities
}

// capabilitiesOf returns the capabilities of a behavior. A type assertion for each capability
// would take as long as spawning the actor, so it keeps the capabilities of each type. The
// capabilities of the type that was asked for last are found without a map.
func (k *kind[M]) capabilitiesOf(b Behavior[M]) capabilities {
	t := reflect.TypeOf(b)
	x := k.last.Load()
	if x == nil || x.behavior != t {
		x = k.inspect(b, t)
		k.last.Store(x)
	}
	return x.has
}

func (k *kind[M]) inspect(b Behavior[M], t reflect.Type) *behaviorType {
	if x, ok := k.types.Load(t); ok {
		return x.(*behaviorType)
	}
	x := &behaviorType{behavior: t}
	note := func(ok bool, one capabilities) {
		if ok {
			x.has |= one
		}
	}
	_, ok := b.(Signaled[M])
	note(ok, canSignal)
	_, ok = b.(Started[M])
	note(ok, canStart)
	_, ok = b.(ChildStopped[M])
	note(ok, canLearnOfChildren)
	_, ok = b.(Stopping[M])
	note(ok, canStopping)
	_, ok = b.(Stopped)
	note(ok, canStopped)
	_, ok = b.(Closed[M])
	note(ok, canClose)
	k.types.Store(t, x)
	return x
}
