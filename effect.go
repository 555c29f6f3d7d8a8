package perdure

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/perdure/perdure/internal/core/outbox"
	"github.com/perdure/perdure/store"
)

// An EffectRule handles the messages of one type that decisions give to
// [Decision.Enqueue] or [Decision.AfterCommit]. Make one with [Perform].
type EffectRule interface{ effect() *effectRule }

type effectRule struct {
	message reflect.Type
	perform func(context.Context, proto.Message) error
	policy  outbox.Policy
	timeout time.Duration // limit of one attempt; zero means no limit
	upcast  *upcast       // conversion to the type that is performed instead; nil for most
	err     error
}

func (r *effectRule) effect() *effectRule { return r }

// mistake adds a mistake to the error that [Open] returns.
func (r *effectRule) mistake(format string, args ...any) {
	r.err = errors.Join(r.err, fmt.Errorf(format, args...))
}

// Perform is the rule for an effect M. It does work outside of Perdure: it sends a mail,
// or calls another service. If it returns an error, an enqueued message is retried with
// exponential backoff until it is parked; see [RetryPolicy] and [Park]. Several
// goroutines may call fn at the same time.
//
// An enqueued message is performed at least once: a process may die after a handler has
// done its work and before the store knows it. The id of the message is the same in
// every attempt; see [EffectInfoFrom]. The handler, or the service that it calls, can use
// the id to recognize a repeated attempt.
func Perform[M proto.Message](fn func(ctx context.Context, message M) error, options ...EffectOption) EffectRule {
	t := reflect.TypeFor[M]()
	r := &effectRule{message: t, policy: effectRetries.policy()}
	switch {
	case fn == nil:
		r.mistake("Perform rule for %v is nil", t)
	case t.Kind() != reflect.Pointer || t.Elem().Kind() != reflect.Struct:
		r.mistake("Perform rule: %v is not a generated message type", t)
	default:
		r.perform = func(ctx context.Context, m proto.Message) error { return fn(ctx, m.(M)) }
	}
	for i, o := range options {
		if o == nil {
			r.mistake("Perform rule for %v: option %d is nil", t, i)
			continue
		}
		o.effectOption(r)
	}
	return r
}

// PerformElsewhere is the rule for an effect M that commands of this engine enqueue, and
// that other engines on the same log perform with a [Perform] rule. Use it if one
// program creates work and another program does it. Several engines must share the log;
// otherwise the messages wait until an engine with the Perform rule opens it. Such an
// effect can be enqueued, but is none for [Decision.AfterCommit].
func PerformElsewhere[M proto.Message]() EffectRule {
	t := reflect.TypeFor[M]()
	r := &effectRule{message: t, policy: effectRetries.policy()}
	if t.Kind() != reflect.Pointer || t.Elem().Kind() != reflect.Struct {
		r.mistake("PerformElsewhere rule: %v is not a generated message type", t)
	}
	return r
}

// UpcastEffect is the rule for effects of an old type, Old, that still wait in the
// outbox, or are parked there, after a program has renamed or changed the type. It
// converts each to a New, which is performed instead. New needs a [Perform] rule, a
// [PerformElsewhere] rule or another UpcastEffect; the options of that rule apply. For
// example:
//
//	perdure.UpcastEffect(func(m *mailv1.Welcome) *mailv1.Mail {
//		return &mailv1.Mail{To: m.GetAddress(), Template: "welcome"}
//	})
//
// The stored message does not change. The conversion runs in each attempt, on the
// goroutine of the attempt, and must be a pure function. A panic is a failed attempt. If
// it returns nil, the message is parked. See [UpcastCommand] for commands.
func UpcastEffect[Old, New proto.Message](fn func(Old) New) EffectRule {
	from, to := reflect.TypeFor[Old](), reflect.TypeFor[New]()
	r := &effectRule{message: from}
	if fn == nil {
		r.mistake("UpcastEffect rule for %v is nil", from)
		return r
	}
	for _, t := range []reflect.Type{from, to} {
		if t.Kind() != reflect.Pointer || t.Elem().Kind() != reflect.Struct {
			r.mistake("UpcastEffect rule: %v is not a generated message type", t)
			return r
		}
	}
	r.upcast = &upcast{to: to, fn: func(m proto.Message) proto.Message { return fn(m.(Old)) }}
	return r
}

// An EffectOption is an argument of [Perform]: a [RetryPolicy] or [KeepOrder].
type EffectOption interface{ effectOption(*effectRule) }

// Park wraps an error of a handler to say that a further attempt would not help: the
// message is parked at once. Park(nil) is nil: the message is handled.
func Park(err error) error {
	if err == nil {
		return nil
	}
	return &parkError{err}
}

type parkError struct{ err error }

func (e *parkError) Error() string { return e.err.Error() }
func (e *parkError) Unwrap() error { return e.err }

// An EffectInfo describes the message that a handler performs.
type EffectInfo struct {
	// ID is the id of the message. It is the same in every attempt.
	ID store.ID
	// Attempt is the number of the attempt, from 1. A message of [Decision.AfterCommit]
	// has one attempt only.
	Attempt int
	// Source is the entity whose command created the message.
	Source store.Key
	// Metadata is that of the command: its CausationID is the id of the command. The values must
	// not be changed.
	Metadata store.Metadata
	// Enqueued is the time when the message was stored. It is zero for a message of
	// [Decision.AfterCommit].
	Enqueued time.Time

	engine *Engine
}

type deliveryKey struct{}

// EffectInfoFrom returns the message and the attempt of the handler that runs with ctx, or nil if
// ctx is not the context of a handler.
func EffectInfoFrom(ctx context.Context) *EffectInfo {
	d, _ := ctx.Value(deliveryKey{}).(*EffectInfo)
	return d
}

// performResult converts a handler's error to the result of the delivery.
func performResult(err error) outbox.Result {
	var park *parkError
	switch {
	case err == nil:
		return outbox.Done
	case errors.As(err, &park):
		return outbox.Never
	}
	return outbox.Retry
}

// performs reports whether an effect has a handler.
func (e *Engine) performs(m proto.Message) bool {
	return e.effects[reflect.TypeOf(m)] != nil
}

// addEffects checks the rules for effects and indexes them.
func (e *Engine) addEffects() error {
	e.effects = make(map[reflect.Type]*effectRule, len(e.config.Effects))
	e.effectTypes = make(map[string]*effectRule, len(e.config.Effects))
	upcasts := make(map[reflect.Type]*upcast)
	var errs []error
	for i, rule := range e.config.Effects {
		if rule == nil {
			errs = append(errs, fmt.Errorf("Config.Effects[%d] is nil", i))
			continue
		}
		r := rule.effect()
		switch {
		case r.err != nil:
			errs = append(errs, r.err)
		case r.upcast != nil && upcasts[r.message] != nil:
			errs = append(errs, fmt.Errorf("two UpcastEffect rules for %s", messageName(newMessage(r.message))))
		case r.upcast != nil:
			upcasts[r.message] = r.upcast
		case e.effects[r.message] != nil:
			errs = append(errs, fmt.Errorf("two Perform rules for %s", messageName(newMessage(r.message))))
		default:
			e.effects[r.message] = r
			e.effectTypes[messageName(newMessage(r.message))] = r
		}
	}
	errs = append(errs, e.addOldEffects(upcasts))
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("%w: %w", store.ErrInvalid, err)
	}
	return nil
}

// addOldEffects adds rules for the old types of effects: each performs the type at the end of
// its chain.
func (e *Engine) addOldEffects(upcasts map[reflect.Type]*upcast) error {
	var errs []error
	resolved := make(map[reflect.Type]*effectRule, len(upcasts))
	for from := range upcasts {
		old := messageName(newMessage(from))
		if e.effects[from] != nil {
			errs = append(errs, fmt.Errorf("%s has both an UpcastEffect and a Perform rule", old))
			continue
		}
		end, convert := follow(from, upcasts)
		if convert == nil {
			errs = append(errs, fmt.Errorf("UpcastEffect of %s goes in a circle", old))
			continue
		}
		rule := e.effects[end]
		if rule == nil {
			errs = append(errs, fmt.Errorf("UpcastEffect of %s ends at %s, which has no Perform rule", old, messageName(newMessage(end))))
			continue
		}
		r := *rule
		r.message = from
		if rule.perform != nil {
			r.perform = func(ctx context.Context, m proto.Message) error {
				if m = convert(m); m == nil {
					return Park(fmt.Errorf("the UpcastEffect of %s has returned nil", old))
				}
				return rule.perform(ctx, m)
			}
		}
		resolved[from] = &r
	}
	for from, r := range resolved {
		e.effects[from], e.effectTypes[messageName(newMessage(from))] = r, r
	}
	return errors.Join(errs...)
}
