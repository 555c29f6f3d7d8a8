package perdure

// An OrderOption is an option both of a kind and of a [Perform] rule.
type OrderOption interface {
	KindOption
	EffectOption
}

type orderOption struct{}

func (orderOption) kindOption(c *compiler)     { c.keepOrder = true }
func (orderOption) effectOption(r *effectRule) { r.policy.KeepOrder = true }

// KeepOrder keeps messages in order when one fails for good. Such a message is halted, and the
// later messages of its flow wait in the store until an operator decides. A flow is the queue
// of messages from one entity to one entity, or from one entity to one [Perform] rule; other
// flows continue. Without KeepOrder, a message that fails for good is parked, and the next one
// of its flow is delivered. As an option of a kind, KeepOrder applies to messages to the
// entities of that kind. As an option of a Perform rule, it applies to the effects of that
// rule. For example:
//
//	perdure.Perform(sendToLedger, perdure.KeepOrder())
//
// [Engine.Parked] lists halted messages together with parked ones; [store.Message.Halted] tells
// which they are. [Engine.Unpark] makes the engine deliver a halted message again, in its
// place, and [Engine.Drop] removes it; either way its flow then continues. If several engines
// share a log, an engine that delivers the message itself learns of the decision at once. The
// other engines learn of it when they next read all pending messages, at least once in
// Config.RescueAfter.
//
// Timers and [Unordered] messages have no flow; they are parked. An engine without this option,
// and a program of a version that does not know it, treat a halted message as a parked one:
// they do not deliver it, but they deliver the later messages of its flow. Therefore give all
// engines on a log the same options. An engine halts at most 32768 flows. Above that, a message
// that fails for good is retried again and again, which is logged. If the store does not have
// the method Undelivered, Open returns an error that matches [errors.ErrUnsupported].
func KeepOrder() OrderOption { return orderOption{} }

// keepsOrder reports whether any message halts its flow.
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
