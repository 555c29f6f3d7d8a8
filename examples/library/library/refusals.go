package library

import (
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/perdure/perdure"
	libraryv1 "github.com/perdure/perdure/examples/library/proto/library/v1"
)

// A Reason is the reason why a book or a reader refuses a command or a query.
type Reason = libraryv1.Refusal_Reason

// The reasons of a refusal. The proto file describes them.
const (
	Incomplete        = libraryv1.Refusal_REASON_INCOMPLETE
	AlreadyRegistered = libraryv1.Refusal_REASON_ALREADY_REGISTERED
	NotRegistered     = libraryv1.Refusal_REASON_NOT_REGISTERED
	AlreadyLent       = libraryv1.Refusal_REASON_ALREADY_LENT
	NotLent           = libraryv1.Refusal_REASON_NOT_LENT
	OtherLoan         = libraryv1.Refusal_REASON_OTHER_LOAN
	BeforeLent        = libraryv1.Refusal_REASON_BEFORE_LENT
)

var codes = map[Reason]perdure.Code{
	Incomplete:        perdure.InvalidArgument,
	AlreadyRegistered: perdure.AlreadyExists,
	NotRegistered:     perdure.NotFound,
	AlreadyLent:       perdure.FailedPrecondition,
	NotLent:           perdure.FailedPrecondition,
	OtherLoan:         perdure.FailedPrecondition,
	BeforeLent:        perdure.InvalidArgument,
}

// refuse makes a refusal whose message is for people and whose details are for programs.
func refuse(why Reason, format string, args ...any) error {
	return &perdure.Error{
		Code:    codes[why],
		Message: fmt.Sprintf(format, args...),
		Details: []proto.Message{&libraryv1.Refusal{Reason: why}},
	}
}

// ReasonOf returns the reason of a refusal by a book or a reader. It returns false if err is
// another error, such as a failure of the store.
func ReasonOf(err error) (why Reason, ok bool) {
	var refusal *perdure.Error
	if !errors.As(err, &refusal) {
		return 0, false
	}
	for _, d := range refusal.Details {
		if r, ok := d.(*libraryv1.Refusal); ok {
			return r.GetReason(), true
		}
	}
	return 0, false
}

// MessageOf returns the message of a refusal without its code, and the text of another error.
func MessageOf(err error) string {
	if refusal, ok := errors.AsType[*perdure.Error](err); ok {
		return refusal.Message
	}
	return err.Error()
}
