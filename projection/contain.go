package projection

import (
	"errors"
	"fmt"
	"reflect"
	"runtime/debug"
	"sync"
)

// Rules, targets, logs and errors are code that this package does not know. Where it
// calls them, a panic and a goroutine that is ended become an error of that call:
// the process, the other projections and the other events go on.

// errExited says that what was called has called runtime.Goexit.
var errExited = errors.New("what was called has ended its goroutine, by runtime.Goexit or FailNow of a test")

// A panicError is a panic of what was called.
type panicError struct {
	value any
	stack []byte
}

func (e *panicError) Error() string { return fmt.Sprintf("panic: %v\n%s", e.value, e.stack) }

// guard makes an error of a panic.
func guard(fn func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = &panicError{r, debug.Stack()}
		}
	}()
	return fn()
}

// contained runs fn on a goroutine of its own and waits for it. It makes an error of
// a panic, and of the end of that goroutine.
func contained(fn func() error) error {
	err := errExited
	done := make(chan struct{})
	go func() {
		defer close(done)
		err = guard(fn)
	}()
	<-done
	return err
}

// untilDone runs fn on a goroutine, and on another one if a clock has ended that, until
// it has returned. Then it calls end, if that is not nil.
func untilDone(wait *sync.WaitGroup, fn, end func()) {
	wait.Go(func() {
		returned := false
		defer func() {
			switch {
			case !returned:
				untilDone(wait, fn, end)
			case end != nil:
				end()
			}
		}()
		fn()
		returned = true
	})
}

// A ruleError is an error that a rule has returned, with the text that it had.
type ruleError struct {
	text  string
	cause error
}

func (e *ruleError) Error() string { return e.text }
func (e *ruleError) Unwrap() error { return e.cause }

// A probe is no error that a rule can return.
type probe struct{}

func (*probe) Error() string { return "probe" }

// sound returns an error of a rule as one whose text can be asked for at any time. If
// its methods panic, or it is a nil pointer, the result says so in its place.
func sound(err error) error {
	if v := reflect.ValueOf(err); v.Kind() == reflect.Pointer && v.IsNil() {
		return &ruleError{text: fmt.Sprintf("rule has returned a nil %T as its error, which is not equal to nil: return nil itself", err)}
	}
	s := &ruleError{cause: err}
	if bad := contained(func() error {
		s.text = err.Error()
		_ = errors.Is(err, &probe{})
		_, _ = errors.AsType[*probe](err)
		return nil
	}); bad != nil {
		why := any(bad)
		if p, ok := errors.AsType[*panicError](bad); ok {
			why = p.value
		}
		return &ruleError{text: fmt.Sprintf("rule has returned an error of type %T that cannot be read, since its methods fail: %v", err, why)}
	}
	return s
}
