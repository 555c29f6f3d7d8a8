package perdure

import (
	"errors"
	"fmt"

	"github.com/perdure/perdure/store"
)

// An OrderOption is an option both of a kind and of a [Perform] rule.
type OrderOption interface {
	KindOption
	EffectOption
}

type orderOption struct{}

func (orderOption) kindOption(c *compiler)     { c.keepOrder = true }
func (orderOption) effectOption(r *effectRule) { r.policy.KeepOrder = true }

// KeepOrder lets nothing pass a message that fails for good: the message is halted, and
// those behind it in its lane wait in the store until an operator decides. A lane is the
// messages from one entity to one entity, or to one [Perform] rule; the other lanes go
// on. Without it, a message that fails for good is parked, and the next one of its lane is
// delivered. With the option of a kind it holds for messages to the entities of the kind,
// with that of a Perform rule for its effects. For example:
//
//	perdure.Perform(sendToLedger, perdure.KeepOrder())
//
// [Engine.Parked] lists halted messages with the parked ones; [store.Message.Halted]
// tells them apart. [Engine.Unpark] has one delivered again, in its place, and
// [Engine.Drop] removes it; then its lane goes on. Where several engines share a log,
// the others learn of that at once if they deliver the message, and else when they next
// read all pending messages, at least once in Config.RescueAfter.
//
// Timers and messages that are [Unordered] have no lane; they are parked. To an engine
// without this option, and to a program of a version that does not know it, a halted
// message is a parked one: it does not deliver the message, but goes on behind it. So give
// all engines on a log the same options. An engine halts 32768 lanes at most; beyond that a
// message is tried on and on, which is logged. The store must be a [store.Halting], or
// Open returns an error that matches [errors.ErrUnsupported].
func KeepOrder() OrderOption { return orderOption{} }

// checkOrder returns an error if the configuration wants what the store cannot do.
func (e *Engine) checkOrder() error {
	if _, ok := e.log.(store.Halting); ok {
		return nil
	}
	for name, k := range e.kinds {
		if k.keepOrder {
			return fmt.Errorf("KeepOrder of kind %q: %w: a %T does not keep halted messages in their lanes, see store.Halting", name, errors.ErrUnsupported, e.log)
		}
	}
	for name, r := range e.effectTypes {
		if r.policy.KeepOrder {
			return fmt.Errorf("KeepOrder of the Perform rule for %s: %w: a %T does not keep halted messages in their lanes, see store.Halting", name, errors.ErrUnsupported, e.log)
		}
	}
	return nil
}

// keepsOrder reports whether any message halts its lane.
func (e *Engine) keepsOrder() bool {
	for _, k := range e.kinds {
		if k.keepOrder {
			return true
		}
	}
	for _, r := range e.effectTypes {
		if r.policy.KeepOrder {
			return true
		}
	}
	return false
}
