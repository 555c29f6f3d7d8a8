package bolttarget

import (
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/perdure/perdure/store"
)

// guard runs fn, which calls bbolt and nobody else, and turns a panic or a fault
// into an error matching [store.ErrCorrupt].
func (t *Target) guard(fn func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = t.corrupt(r)
		}
	}()
	return fn()
}

// recover is deferred where the caller's code has run. It turns a panic into an
// error if the file is to blame, and lets any other one pass. It must be
// deferred itself, not be called by what is.
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

// outOfFile reports whether a panic is the fault of an address that is mapped to
// nothing: those of a bug are around zero, and have none.
func outOfFile(r any) bool {
	var fault interface {
		runtime.Error
		Addr() uintptr
	}
	err, _ := r.(error)
	return errors.As(err, &fault)
}

// framesMax is how much of a stack is looked at for the origin of a panic.
const framesMax = 64

// ofBolt reports whether it is bbolt that has panicked. It is called while the
// panic is recovered from, when its stack is still there. A nil pointer is the
// handler's: a bucket that is not there is nil.
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
