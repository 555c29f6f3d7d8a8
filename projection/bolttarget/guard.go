package bolttarget

import (
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/perdure/perdure/store"
)

// guard runs fn, which calls only bbolt, and turns a panic or a memory fault into an error
// matching [store.ErrCorrupt].
func (t *Target) guard(fn func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = t.corrupt(r)
		}
	}()
	return fn()
}

// recover is deferred by functions that run code of the caller. It turns a panic into an error if
// the file is to blame, and lets any other panic pass. Defer it directly: Go's recover does not
// work in a function that a deferred function calls.
func (t *Target) recover(failure *error) {
	r := recover()
	switch {
	case r == nil:
	case outOfFile(r) || ofBolt(r):
		*failure = t.corrupt(r)
	default:
		panic(r)
	}
}

func (t *Target) corrupt(r any) error {
	return &store.CorruptError{What: "file", Where: t.path, Reason: fmt.Sprint(r)}
}

// outOfFile reports whether a panic is a fault at a mapped address without a page of the file
// behind it. A nil pointer faults near address zero, and its error has no address.
func outOfFile(r any) bool {
	var fault interface {
		runtime.Error
		Addr() uintptr
	}
	err, _ := r.(error)
	return errors.As(err, &fault)
}

// framesMax bounds the frames of a stack that are searched for the origin of a panic.
const framesMax = 64

// ofBolt reports whether bbolt itself has panicked. Call it during the recovery, while the stack
// of the panic still exists. A nil pointer dereference is the handler's fault: Bucket returns nil
// for a bucket that does not exist.
func ofBolt(r any) bool {
	if err, ok := r.(runtime.Error); ok && strings.Contains(err.Error(), "nil pointer") {
		return false
	}
	pcs := make([]uintptr, framesMax)
	frames := runtime.CallersFrames(pcs[:runtime.Callers(2, pcs)])
	for panicked := false; ; {
		f, more := frames.Next()
		switch {
		case f.Function == "runtime.gopanic":
			panicked = true
		case panicked && !strings.HasPrefix(f.Function, "runtime."):
			return strings.HasPrefix(f.Function, "go.etcd.io/bbolt")
		}
		if !more {
			return false
		}
	}
}
