package perdure

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/perdure/perdure/internal/core/entity"
	"github.com/perdure/perdure/internal/errtext"
	perdurev1 "github.com/perdure/perdure/proto/perdure/v1"
	"github.com/perdure/perdure/store"
)

// A Code is the reason of a refusal, with the numbers of gRPC. A Code is an error
// itself: errors.Is(err, perdure.NotFound) reports whether err is a refusal with that
// code.
type Code uint32

// The codes with which an entity can refuse. Their meanings are those of gRPC.
const (
	Canceled           Code = 1
	Unknown            Code = 2
	InvalidArgument    Code = 3
	DeadlineExceeded   Code = 4
	NotFound           Code = 5
	AlreadyExists      Code = 6
	PermissionDenied   Code = 7
	ResourceExhausted  Code = 8
	FailedPrecondition Code = 9
	Aborted            Code = 10
	OutOfRange         Code = 11
	Unimplemented      Code = 12
	Internal           Code = 13
	Unavailable        Code = 14
	DataLoss           Code = 15
	Unauthenticated    Code = 16
)

var codeNames = [...]string{
	"ok", "canceled", "unknown", "invalid argument", "deadline exceeded", "not found", "already exists",
	"permission denied", "resource exhausted", "failed precondition", "aborted", "out of range", "unimplemented",
	"internal", "unavailable", "data loss", "unauthenticated",
}

// Error returns the name of the code, such as "not found".
func (c Code) Error() string {
	if int(c) < len(codeNames) {
		return codeNames[c]
	}
	return fmt.Sprintf("code %d", uint32(c))
}

// Bounds of a refusal, in bytes; see [Error].
const (
	refusalMessageBytesMax = 64 << 10
	refusalDetailsBytesMax = 1 << 20
)

// An Error is a refusal: the answer of an entity to a command or query that it does not
// accept. It is safe to show to the caller. Make one with [Reject].
//
// The engine copies a refusal when the rule returns it, in the form in which a receipt
// stores it: text that is valid UTF-8, and the details that can be encoded. So a repeated
// command gets exactly the first answer, and the details may be parts of the state. Of a
// text above 64 KiB it keeps the beginning, followed by the number of bytes left out. If
// the details together are larger than 1 MiB, it leaves out the first detail that does not
// fit and all details after it.
//
// A rule may return an error of any other type. The engine takes its text and its code
// when the rule returns. The code is [Unknown], unless the error wraps an Error or is a
// [Code]. The caller gets an error with that text and code, which matches everything
// that the rule's error matches. The rule's own error is not copied; [errors.As] finds
// it.
type Error struct {
	Code    Code
	Message string
	// Details explain the refusal to programs. The caller owns them.
	Details []proto.Message
}

// Error returns the name of the code and the message, such as "not found: no such book". It
// leaves out an empty message, and before a message the code [Unknown] or zero.
func (e *Error) Error() string {
	switch {
	case e.Message == "":
		return e.Code.Error()
	case e.Code == Unknown, e.Code == 0:
		return e.Message
	}
	return e.Code.Error() + ": " + e.Message
}

// Is reports whether target is the code of e, or a refusal with the same code.
func (e *Error) Is(target error) bool {
	switch t := target.(type) {
	case Code:
		return t == e.Code
	case *Error:
		return t.Code == e.Code
	}
	return false
}

// Reject returns a refusal for a Decide, Update or Answer rule to return. The
// message is formatted like [fmt.Sprintf].
func Reject(code Code, format string, args ...any) error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...)}
}

// CodeOf returns the code of an error, to answer a caller over a transport that knows the
// codes of gRPC. The code of a refusal is its own, wrapped or not. Failures have these
// codes:
//
//   - [Canceled] and [DeadlineExceeded]: the context of the call ended, also if the error
//     matches [ErrOutcomeUnknown].
//   - [Unknown]: any other [ErrOutcomeUnknown], and errors that are not of this package. A
//     client must not repeat such a command without an idempotency key.
//   - [InvalidArgument]: [ErrInvalid], [ErrKeyReused].
//   - [AlreadyExists]: a [*store.ClaimedError].
//   - [ResourceExhausted]: [ErrOverloaded].
//   - [Aborted]: [ErrVersion], [ErrContention].
//   - [OutOfRange]: [ErrStateGone].
//   - [Unimplemented]: [ErrUnhandled].
//   - [Internal]: [ErrInvalidDecision], [ErrPanicked], [ErrFailed], [ErrNested],
//     [ErrSnapshot].
//   - [Unavailable]: [ErrStore], [ErrClosed]. Nothing of the command is stored.
//
// CodeOf(nil) is 0, which is OK in gRPC.
func CodeOf(err error) Code {
	if err == nil {
		return 0
	}
	var refusal *Error
	if errors.As(err, &refusal) && refusal != nil {
		return refusal.Code
	}
	for _, f := range failureCodes {
		if errors.Is(err, f.err) {
			return f.code
		}
	}
	if code, ok := errors.AsType[Code](err); ok {
		return code
	}
	return Unknown
}

// failureCodes lists the failures that callers may see, with their codes. An error that matches
// several of them has the code of the first.
var failureCodes = []struct {
	err  error
	code Code
}{
	{context.Canceled, Canceled},
	{context.DeadlineExceeded, DeadlineExceeded},
	{ErrOutcomeUnknown, Unknown},
	{ErrOverloaded, ResourceExhausted},
	{ErrVersion, Aborted},
	{ErrUnhandled, Unimplemented},
	{ErrInvalidDecision, Internal},
	{ErrPanicked, Internal},
	{ErrSnapshot, Internal},
	{ErrStore, Unavailable},
	{ErrContention, Aborted},
	{ErrFailed, Internal},
	{ErrClosed, Unavailable},
	{ErrKeyReused, InvalidArgument},
	{ErrStateGone, OutOfRange},
	{ErrNested, Internal},
	{ErrInvalid, InvalidArgument},
}

// The errors of a call, besides a refusal. All of them mean that the command is not
// stored, with two exceptions: after [ErrOutcomeUnknown] it may be stored, and after
// [ErrStateGone] it is.
var (
	// ErrOutcomeUnknown: the command may be stored or not. The store failed, or the
	// caller's context ended while the command was on its way. To find out, repeat the
	// command with the same idempotency key; see [WithIdempotencyKey].
	ErrOutcomeUnknown = errors.New("outcome is unknown")
	// ErrOverloaded: too many calls are waiting, for the entity or in the engine. The text
	// names the bound, [Config.EntityCallsMax] or [Config.CallsMax]. The error matches
	// [ResourceExhausted] too.
	ErrOverloaded = errors.New("overloaded")
	// ErrVersion: the entity is not at the version that [IfVersion] asks for.
	// The error is a [*VersionError].
	ErrVersion = errors.New("wrong version")
	// ErrUnhandled: the kind has no rule for the message.
	ErrUnhandled = errors.New("no rule for the message")
	// ErrInvalidDecision: a rule returned a decision or an error that cannot be stored. For
	// instance, an event has no Evolve rule, a timer has no name, or the error is a nil
	// pointer.
	ErrInvalidDecision = errors.New("invalid decision")
	// ErrPanicked: a rule panicked. The error is a [*PanicError].
	ErrPanicked = errors.New("rule panicked")
	// ErrStore: the store failed, and nothing of the command is stored.
	ErrStore = errors.New("store failed")
	// ErrSnapshot: the kind cannot read the snapshot of the entity, and the events below
	// the snapshot are deleted; see [RetainEvents] and [MigrateSnapshot]. Nothing is
	// damaged. The error matches [ErrStore] too.
	ErrSnapshot = entity.ErrSnapshot
	// ErrContention: other writers changed the entity first, more often than
	// [Config.ConflictsMax] times.
	ErrContention = errors.New("too many conflicts")
	// ErrFailed: the entity failed outside of its rules, because of a bug in the engine or
	// in a value that the engine was given. The next call loads the entity from the store.
	ErrFailed = errors.New("entity has failed")
	// ErrClosed: the engine is closed or closing.
	ErrClosed = errors.New("engine is closed")
	// ErrKeyReused: the idempotency key belongs to another command of the entity, which was
	// answered before. The error matches [InvalidArgument] too.
	ErrKeyReused = errors.New("idempotency key is used for another command")
	// ErrStateGone: the command was stored before, under the same idempotency key, and the
	// state after it is no longer kept. [Ref.Do] and [WithReceipt] still return its
	// version. Within the window of [KeepReceipts] this happens only if the state is larger
	// than [store.PayloadBytesMax].
	ErrStateGone = errors.New("command is stored, and the state after it is no longer kept")
	// ErrInvalid: an argument, an option, a kind or the configuration is wrong. The text
	// names the mistake. It is [store.ErrInvalid], so it matches the mistakes that a store
	// finds too.
	ErrInvalid = store.ErrInvalid
	// ErrNested: a rule called an entity. A rule is a function of its arguments. To send a
	// command to another entity, return a decision with [Decision.EnqueueTo].
	ErrNested = errors.New("call from inside a rule (use Decision.EnqueueTo)")
)

// A VersionError has the version that the caller wanted and the version of the entity.
// It matches [ErrVersion] and [Aborted].
type VersionError struct {
	Key    store.Key
	Want   store.Version
	Actual store.Version

	verb verb
}

func (e *VersionError) Error() string {
	return fmt.Sprintf("%s: entity is at version %d, not %d", e.verb.of(e.Key), e.Actual, e.Want)
}

// Is reports whether target is [ErrVersion] or [Aborted].
func (e *VersionError) Is(target error) bool {
	return target == ErrVersion || target == error(Aborted)
}

// A PanicError carries a panic of a rule. It matches [ErrPanicked].
type PanicError struct {
	Key store.Key
	// Rule names the rule, such as "Decide library.v1.LendBook".
	Rule string
	// Value is the argument of panic, a copy if it is a message. It is nil if the rule
	// called [runtime.Goexit].
	Value any
	Stack []byte

	text string // Value as text, made when the panic was caught
	verb verb
}

func (e *PanicError) Error() string {
	about := e.verb.of(e.Key)
	if e.text != "" {
		return fmt.Sprintf("%s: %s: panic: %s", about, e.Rule, e.text)
	}
	if e.Value == nil {
		return fmt.Sprintf("%s: %s: called runtime.Goexit", about, e.Rule)
	}
	return fmt.Sprintf("%s: %s: panic: %v", about, e.Rule, e.Value)
}

// Is reports whether target is [ErrPanicked] or [Internal].
func (e *PanicError) Is(target error) bool {
	return target == ErrPanicked || target == error(Internal)
}

// Unwrap returns the panic value if it is an error.
func (e *PanicError) Unwrap() error {
	err, _ := e.Value.(error)
	return err
}

// A ruleError is the error that a caller gets if a rule returned an error that is not an
// [*Error] itself. Its text and its refusal were taken when the rule returned.
type ruleError struct {
	text    string
	refusal *Error
	err     error
}

func (e *ruleError) Error() string { return e.text }

// Is matches the code of the refusal.
func (e *ruleError) Is(target error) bool { return e.refusal.Is(target) }

// As finds the copy of the refusal instead of the refusal in the rule's error.
func (e *ruleError) As(target any) bool {
	t, ok := target.(**Error)
	if ok {
		*t = e.refusal
	}
	return ok
}

func (e *ruleError) Unwrap() error { return e.err }

// refuse copies the error of a rule. It returns a mistake if the error cannot be given to a
// caller. It calls methods of the error, which may panic.
func refuse(err error) (refusal, mistake error) {
	made, itself := err.(*Error) //nolint:errorlint // the error itself, and not what it wraps
	if !itself && !errors.As(err, &made) {
		var code Code
		if !errors.As(err, &code) {
			code = Unknown
		}
		// The text of a rule's error often ends with that of the code: "lend: not found".
		text := refusalText(err.Error())
		message := strings.TrimSuffix(strings.TrimSuffix(text, code.Error()), ": ")
		return &ruleError{text: text, refusal: &Error{Code: code, Message: message}, err: err}, nil
	}
	if made == nil {
		return nil, fmt.Errorf("the error wraps a nil %T", made)
	}
	e := &Error{Code: made.Code, Message: refusalText(made.Message)}
	if mistake := e.addDetails(made.Details); mistake != nil {
		return nil, mistake
	}
	if itself {
		return e, nil
	}
	return &ruleError{text: refusalText(err.Error()), refusal: e, err: err}, nil
}

// addDetails copies the details of a refusal in the form in which a receipt stores them.
func (e *Error) addDetails(details []proto.Message) error {
	size := 0
	for i, d := range details {
		if d == nil || !d.ProtoReflect().IsValid() {
			return fmt.Errorf("detail %d of the refusal is nil", i)
		}
		if size += proto.Size(d); size > refusalDetailsBytesMax {
			e.Message = refusalText(fmt.Sprintf("%s (%d of %d details are left out: together they are larger than %d bytes)",
				e.Message, len(details)-i, len(details), refusalDetailsBytesMax))
			return nil
		}
		copied := d.ProtoReflect().New().Interface()
		payload, err := proto.Marshal(d)
		if err == nil {
			err = proto.Unmarshal(payload, copied)
		}
		if err != nil { // such as text that is not UTF-8
			e.Message = refusalText(fmt.Sprintf("%s (detail %d is left out: %s cannot be encoded: %v)", e.Message, i, messageName(d), err))
			continue
		}
		e.Details = append(e.Details, copied)
	}
	return nil
}

// refusalText returns a text in the form in which a receipt stores it.
func refusalText(s string) string {
	const room = 64 // for the text that is added
	s = validText(s)
	if len(s) <= refusalMessageBytesMax {
		return s
	}
	cut := refusalMessageBytesMax - room
	for !utf8.RuneStart(s[cut]) {
		cut--
	}
	return fmt.Sprintf("%s … (%d bytes are left out)", s[:cut], len(s)-cut)
}

// encodeRefusal returns a refusal in the form that a receipt stores. The entity has made the
// error with refuse, so it calls no user code.
func encodeRefusal(err error) *store.Refusal {
	var refusal *Error
	errors.As(err, &refusal)
	r := &store.Refusal{Code: uint32(refusal.Code), Message: refusal.Message}
	for _, d := range refusal.Details {
		if payload, err := proto.Marshal(d); err == nil {
			r.Details = append(r.Details, store.Detail{Type: messageName(d), Payload: payload})
		}
	}
	return r
}

func validText(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }

// decodeRefusal returns a stored refusal. It leaves out details of unknown types.
func decodeRefusal(r *store.Refusal) *Error {
	e := &Error{Code: Code(r.Code), Message: r.Message}
	for _, d := range r.Details {
		t, err := protoregistry.GlobalTypes.FindMessageByName(protoreflect.FullName(d.Type))
		if err != nil {
			continue
		}
		if m := t.New().Interface(); proto.Unmarshal(d.Payload, m) == nil {
			e.Details = append(e.Details, m)
		}
	}
	return e
}

// ReplyError returns the refusal that a reply reports, an [*Error], or nil if the target
// accepted the command.
func ReplyError(r *perdurev1.Reply) error {
	f := r.GetRefusal()
	if f == nil {
		return nil
	}
	return decodeRefusal(store.FromRefusalProto(f))
}

// A verb says what the caller of an entity wanted, for the texts of errors.
type verb uint8

const (
	verbNone verb = iota
	verbAsk
	verbDo
	verbTell
	verbDeliver // a message of the outbox
	verbQuery
	verbState
)

var verbTexts = [...]string{"", "ask ", "do ", "tell ", "deliver to ", "query ", "read state of "}

// of returns the beginning of the text of an error: the verb and the entity, such as
// "ask acc/1".
func (v verb) of(key store.Key) string { return verbTexts[v] + key.String() }

// handled says which commands or queries a kind has rules for.
func handled(rules *entity.Rules, op entity.Op) string {
	var names []string
	switch {
	case op == entity.OpQuery:
		names = typesOf(rules.Answer)
	case rules.Durable:
		names = typesOf(rules.Update)
	default:
		names = typesOf(rules.Decide)
	}
	if len(names) == 0 {
		return "it has none"
	}
	return "it has those for " + strings.Join(names, ", ")
}

// typesOf returns the names of the messages that rules are for, in order.
func typesOf[F any](rules map[reflect.Type]F) (names []string) {
	for t := range rules {
		names = append(names, messageName(newMessage(t)))
	}
	slices.Sort(names)
	return names
}

// op returns the operation on the entity.
func (v verb) op() entity.Op {
	switch v {
	case verbQuery:
		return entity.OpQuery
	case verbState:
		return entity.OpState
	}
	return entity.OpCommand
}

// rule returns the name of the rule that the operation needs.
func (v verb) rule(durable bool) string {
	switch {
	case v == verbQuery:
		return "Answer"
	case durable:
		return "Update"
	}
	return "Decide"
}

// failure returns the error of the outcome of a call to an entity, or nil.
func (c *call) failure(v verb, key store.Key) error {
	out := &c.Outcome
	about := v.of(key)
	switch out.Status {
	case entity.StatusDone:
		return nil
	case entity.StatusRefused:
		return out.Err
	case entity.StatusWrongVersion:
		return &VersionError{Key: key, Want: c.IfVersion, Actual: out.Version, verb: v}
	case entity.StatusUnhandled:
		rules := c.engine.kinds[key.Kind].options.Rules
		return errtext.New(fmt.Sprintf("%s: kind %q has no %s rule for %s (%s)", about, key.Kind,
			v.rule(rules.Durable), messageName(c.Message), handled(rules, c.Op)), ErrUnhandled)
	case entity.StatusInvalid:
		what := "decision of"
		if c.Op == entity.OpQuery {
			what = "answer to"
		}
		return errtext.New(fmt.Sprintf("%s: invalid %s %s: %v", about, what, messageName(c.Message), out.Err),
			ErrInvalidDecision, out.Err)
	case entity.StatusPanicked:
		var p *entity.Panic
		errors.As(out.Err, &p)
		return &PanicError{Key: key, Rule: p.Rule, Value: p.Value, Stack: p.Stack, text: p.Text, verb: v}
	case entity.StatusOverloaded:
		return fmt.Errorf("%s: %w", about, c.engine.overloaded())
	case entity.StatusExpired:
		return fmt.Errorf("%s: not run: %w", about, out.Err)
	case entity.StatusConflict:
		return fmt.Errorf("%s: %w: %w", about, ErrContention, out.Err)
	case entity.StatusFault:
		if isSealed(out.Err) {
			return fmt.Errorf("%s: %w", about, ErrClosed)
		}
		return fmt.Errorf("%s: %w: %w", about, ErrStore, out.Err)
	case entity.StatusUnknown:
		return fmt.Errorf("%s: %w: %w", about, ErrOutcomeUnknown, out.Err)
	case entity.StatusKeyReused:
		return errtext.New(fmt.Sprintf("%s: idempotency key %q is used for another command", about, c.Name),
			ErrKeyReused, InvalidArgument)
	case entity.StatusGone:
		return fmt.Errorf("%s: %w: %w", about, ErrStateGone, out.Err)
	case entity.StatusClaimed:
		return fmt.Errorf("%s: %w: %w", about, AlreadyExists, out.Err)
	case entity.StatusMessageGone:
		return fmt.Errorf("%s: %w", about, out.Err)
	case entity.StatusClosed:
		return fmt.Errorf("%s: %w", about, ErrClosed)
	case entity.StatusFailed:
		return fmt.Errorf("%s: %w: %w", about, ErrFailed, out.Err)
	}
	panic(fmt.Sprintf("perdure: status %d", out.Status))
}

// overloaded returns the error of a call to an entity that has too many of them.
func (e *Engine) overloaded() error {
	return errtext.New(fmt.Sprintf("entity is overloaded: %d calls are waiting (see Config.EntityCallsMax)",
		e.config.EntityCallsMax), ErrOverloaded, ResourceExhausted)
}

func messageName(m proto.Message) string {
	return string(m.ProtoReflect().Descriptor().FullName())
}
