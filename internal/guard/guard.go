// Package guard calls user code that may panic, end its goroutine, or block.
package guard

import (
	"context"
	"fmt"
	"runtime/debug"
)

// Call calls a function and turns a panic into an error. The error begins with what, such
// as "the store". A [runtime.Goexit] still ends the goroutine of the caller.
func Call[T any](what string, fn func() (T, error)) (result T, err error) {
	defer func() {
		if v := recover(); v != nil {
			err = panicked(what, v)
		}
	}()
	return fn()
}

func panicked(what string, v any) error {
	return fmt.Errorf("%s: panic: %v\n%s", what, v, debug.Stack())
}

// Loop runs a loop until it returns, and then closes ended. If user code ends the goroutine
// of the loop, Loop calls exited and runs the loop again on another goroutine. A panic of
// the loop is not recovered.
func Loop(loop, exited func(), ended chan<- struct{}) {
	returned := false
	defer func() {
		if returned {
			close(ended)
			return
		}
		exited()
		go Loop(loop, exited, ended)
	}()
	loop()
	returned = true
}

// Apart calls a function on a goroutine of its own, and turns a panic or a [runtime.Goexit]
// into an error. It waits until the context ends at most: then the error is the context's,
// the function may still be running, and its result is lost.
func Apart[T any](ctx context.Context, what string, fn func() (T, error)) (T, error) {
	type outcome struct {
		result T
		err    error
	}
	ended := make(chan outcome, 1)
	go func() {
		o := outcome{err: fmt.Errorf("%s has called runtime.Goexit", what)}
		defer func() { ended <- o }()
		o.result, o.err = Call(what, fn)
	}()
	select {
	case o := <-ended:
		return o.result, o.err
	case <-ctx.Done():
		var none T
		return none, fmt.Errorf("%s has not returned: %w", what, ctx.Err())
	}
}
