package library

import (
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/perdure/perdure"
	libraryv1 "github.com/perdure/perdure/examples/library/proto/library/v1"
)

// A Reason is why a book or a reader refuses a command or a query.
type Reason = libraryv1.Refusal_Reason

// The reasons of a refusal.
const (
	// Incomplete: the command lacks something that it cannot do without.
	Incomplete = libraryv1.Refusal_REASON_INCOMPLETE
	// AlreadyRegistered: a book is registered once.
	AlreadyRegistered = libraryv1.Refusal_REASON_ALREADY_REGISTERED
	// NotRegistered: nobody has registered the book.
	NotRegistered = libraryv1.Refusal_REASON_NOT_REGISTERED
	// AlreadyLent: the book is out.
	AlreadyLent = libraryv1.Refusal_REASON_ALREADY_LENT
	// NotLent: the book is in.
	NotLent = libraryv1.Refusal_REASON_NOT_LENT
	// OtherLoan: the book is out, but on another loan.
	OtherLoan = libraryv1.Refusal_REASON_OTHER_LOAN
	// BeforeLent: the book would come back before it was lent.
	BeforeLent = libraryv1.Refusal_REASON_BEFORE_LENT
)

// codes says by which gRPC code a reason goes.
var codes = map[Reason]perdure.Code{
	Incomplete:        perdure.InvalidArgument,
	AlreadyRegistered: perdure.AlreadyExists,
	NotRegistered:     perdure.NotFound,
	AlreadyLent:       perdure.FailedPrecondition,
	NotLent:           perdure.FailedPrecondition,
	OtherLoan:         perdure.FailedPrecondition,
	BeforeLent:        perdure.InvalidArgument,
}

// refuse makes a refusal that says why to people and, in its details, to programs.
func refuse(why Reason, format string, args ...any) error {
	return &perdure.Error{
		Code:    codes[why],
		Message: fmt.Sprintf(format, args...),
		Details: []proto.Message{&libraryv1.Refusal{Reason: why}},
	}
}

// ReasonOf returns why a book or a reader has refused. It returns false if err
// is no refusal of theirs, such as a failure of the store.
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
