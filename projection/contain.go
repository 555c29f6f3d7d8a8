package projection

import (
	"errors"
	"fmt"
	"reflect"
	"runtime/debug"
	"sync"
)

// Rules, targets, logs and errors are code of other packages. Where this package calls them, a
// panic, or the end of the goroutine, becomes an error of that call: the process, the other
// projections and the other events go on.

// errExited says that the called code has called runtime.Goexit.
var errExited = errors.New("the called code has ended its goroutine, by runtime.Goexit or FailNow of a test")

// A panicError is a panic of the called code.
type panicError struct {
	value any
	stack []byte
}

func (e *panicError) Error() string { return fmt.Sprintf("panic: %v\n%s", e.value, e.stack) }

// recoverPanic turns a panic of fn into an error.
func recoverPanic(fn func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = &panicError{r, debug.Stack()}
		}
	}()
	return fn()
}

// contained runs fn on a goroutine of its own and waits for it. It turns a panic of fn, and the
// end of that goroutine, into an error.
func contained(fn func() error) error {
	err := errExited
	done := make(chan struct{})
	go func() {
		defer close(done)
		err = recoverPanic(fn)
	}()
	<-done
	return err
}

// untilDone runs fn on a goroutine until fn has returned. If a clock ends that goroutine, fn runs
// again on another one. Then untilDone calls end, if that is not nil.
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

// A ruleError is an error of a rule, with its text at that time.
type ruleError struct {
	text  string
	cause error
}

func (e *ruleError) Error() string { return e.text }
func (e *ruleError) Unwrap() error { return e.cause }

// A probe is a type of error that no rule can return.
type probe struct{}

func (*probe) Error() string { return "probe" }

// sound returns an error of a rule in a form whose text can be read at any time. If its methods
// panic, or if it is a nil pointer, the result says so instead.
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
