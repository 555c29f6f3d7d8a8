package storecore

import (
	"errors"
	"fmt"

	"github.com/perdure/perdure/internal/errtext"
	"github.com/perdure/perdure/store"
)

var (
	// ErrReadOnly is the error of writes to a log that is opened read-only. It matches
	// [errors.ErrUnsupported].
	ErrReadOnly = errtext.New("log is opened read-only", errors.ErrUnsupported)
	// ErrHeld is the error of a log that an engine of this process holds. It matches
	// [store.ErrInUse].
	ErrHeld = errtext.New("log is held by another engine", store.ErrInUse)
	// ErrDeleted is the error of an iteration whose next events were deleted.
	ErrDeleted = errors.New("events were deleted during the read")
)

// CheckOrder returns an error if a record of an import comes after a record of a later kind.
func CheckOrder(kind, before store.RecordKind) error {
	if kind < before {
		return fmt.Errorf("%w: records out of order: %v after %v", store.ErrInvalid, kind, before)
	}
	return nil
}
