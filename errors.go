package perdure

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/perdure/perdure/internal/core/entity"
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

// Error returns the message, or the name of the code if there is none.
func (e *Error) Error() string {
	if e.Message == "" {
		return e.Code.Error()
	}
	return e.Message
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
	var code Code
	if errors.As(err, &code) {
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
	// ErrOverloaded: too many calls are waiting, for the entity or in the engine. The error
	// is an [*OverloadedError].
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
	// answered before. The error is a [*KeyReusedError].
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
	ErrNested = errors.New("call from inside a rule")
)

// An OverloadedError names the bound that a call exceeded. It matches [ErrOverloaded]
// and [ResourceExhausted].
type OverloadedError struct {
	// Key is the entity that has too many calls. It is zero if the engine as a whole has
	// too many.
	Key store.Key
	// CallsMax is the bound: [Config.EntityCallsMax] or [Config.CallsMax].
	CallsMax int
}

func (e *OverloadedError) Error() string {
	if e.Key.IsZero() {
		return fmt.Sprintf("engine is overloaded: %d calls are waiting", e.CallsMax)
	}
	return fmt.Sprintf("%v is overloaded: %d calls are waiting", e.Key, e.CallsMax)
}

// Is reports whether target is [ErrOverloaded] or [ResourceExhausted].
func (e *OverloadedError) Is(target error) bool {
	return target == ErrOverloaded || target == error(ResourceExhausted)
}

// A VersionError has the version that the caller wanted and the version of the entity.
// It matches [ErrVersion] and [Aborted].
type VersionError struct {
	Key    store.Key
	Want   store.Version
	Actual store.Version
}

func (e *VersionError) Error() string {
	return fmt.Sprintf("%v is at version %d, not %d", e.Key, e.Actual, e.Want)
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
}

func (e *PanicError) Error() string {
	if e.text != "" {
		return fmt.Sprintf("%v: %s: panic: %s", e.Key, e.Rule, e.text)
	}
	if e.Value == nil {
		return fmt.Sprintf("%v: %s: called runtime.Goexit", e.Key, e.Rule)
	}
	return fmt.Sprintf("%v: %s: panic: %v", e.Key, e.Rule, e.Value)
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

// A KeyReusedError names the idempotency key that was used for two commands. It
// matches [ErrKeyReused] and [InvalidArgument].
type KeyReusedError struct {
	Key  store.Key
	Name string
}

func (e *KeyReusedError) Error() string {
	return fmt.Sprintf("%v: idempotency key %q is used for another command", e.Key, e.Name)
}

// Is reports whether target is [ErrKeyReused] or [InvalidArgument].
func (e *KeyReusedError) Is(target error) bool {
	return target == ErrKeyReused || target == error(InvalidArgument)
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
		text := refusalText(err.Error())
		return &ruleError{text: text, refusal: &Error{Code: code, Message: text}, err: err}, nil
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

// failure returns the error of an outcome, or nil.
func failure(key store.Key, c *entity.Call, callsMax int) error {
	out := &c.Outcome
	switch out.Status {
	case entity.StatusDone:
		return nil
	case entity.StatusRefused:
		return out.Err
	case entity.StatusWrongVersion:
		return &VersionError{Key: key, Want: c.IfVersion, Actual: out.Version}
	case entity.StatusUnhandled:
		return fmt.Errorf("%v: %w: %s", key, ErrUnhandled, messageName(c.Message))
	case entity.StatusInvalid:
		return fmt.Errorf("%v: %w: %w", key, ErrInvalidDecision, out.Err)
	case entity.StatusPanicked:
		var p *entity.Panic
		errors.As(out.Err, &p)
		return &PanicError{Key: key, Rule: p.Rule, Value: p.Value, Stack: p.Stack, text: p.Text}
	case entity.StatusOverloaded:
		return &OverloadedError{Key: key, CallsMax: callsMax}
	case entity.StatusExpired:
		return fmt.Errorf("%v: not run: %w", key, out.Err)
	case entity.StatusConflict:
		return fmt.Errorf("%v: %w: %w", key, ErrContention, out.Err)
	case entity.StatusFault:
		if isSealed(out.Err) {
			return fmt.Errorf("%v: %w", key, ErrClosed)
		}
		return fmt.Errorf("%v: %w: %w", key, ErrStore, out.Err)
	case entity.StatusUnknown:
		return fmt.Errorf("%v: %w: %w", key, ErrOutcomeUnknown, out.Err)
	case entity.StatusKeyReused:
		return &KeyReusedError{Key: key, Name: c.Name}
	case entity.StatusGone:
		return fmt.Errorf("%v: %w: %w", key, ErrStateGone, out.Err)
	case entity.StatusClaimed:
		return fmt.Errorf("%v: %w: %w", key, AlreadyExists, out.Err)
	case entity.StatusMessageGone:
		return fmt.Errorf("%v: %w", key, out.Err)
	case entity.StatusClosed:
		return fmt.Errorf("%v: %w", key, ErrClosed)
	case entity.StatusFailed:
		return fmt.Errorf("%v: %w: %w", key, ErrFailed, out.Err)
	}
	panic(fmt.Sprintf("perdure: status %d", out.Status))
}

func messageName(m proto.Message) string {
	return string(m.ProtoReflect().Descriptor().FullName())
}
