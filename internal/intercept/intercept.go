// Package intercept runs interceptors: functions around a piece of work.
package intercept

import (
	"context"
	"fmt"

	"github.com/perdure/perdure/store"
)

// A Func is an interceptor around work that C describes. It calls next to run the work.
type Func[C any] = func(ctx context.Context, c *C, next func(context.Context) error) error

// A Work is the work that interceptors are around.
type Work interface {
	// Run does the work.
	Run(ctx context.Context) error
}

// A Chain runs interceptors around a work, the first one outermost. It is for one run, on one
// goroutine.
//
//  1. The work runs at most once, and only if each interceptor has called next.
//  2. Once next has returned, it runs nothing again: an interceptor cannot repeat those inside
//     of it, or the work without them.
//  3. If the work has run, its error is the error of the chain, whatever the interceptors return.
//     If it has not run, the chain has an error.
//
// The work is an interface and not a function so that a type that holds both needs one
// allocation.
type Chain[C any] struct {
	list []Func[C]
	call *C
	work Work
	next func(context.Context) error // the method step, bound once
	at   int                         // index of the next interceptor
	over bool                        // next has returned, or the work runs
	ran  bool                        // the work has returned
	err  error                       // the error of the work
}

// Run runs the interceptors and the work.
func (x *Chain[C]) Run(ctx context.Context, list []Func[C], call *C, work Work) error {
	x.list, x.call, x.work = list, call, work
	x.next = x.step
	return x.step(ctx)
}

// Ran reports whether the work has returned, and its error.
func (x *Chain[C]) Ran() (ran bool, err error) { return x.ran, x.err }

// errRepeated is the error of a further call of next.
var errRepeated = fmt.Errorf("%w: interceptor has called next again (call it once)", store.ErrInvalid)

// step runs the next interceptor, or the work.
func (x *Chain[C]) step(ctx context.Context) error {
	switch {
	case x.over:
		return errRepeated
	case ctx == nil:
		return fmt.Errorf("%w: interceptor has called next with a nil context", store.ErrInvalid)
	case x.at == len(x.list):
		x.over = true
		x.err = x.work.Run(ctx)
		x.ran = true
		return x.err
	}
	i := x.at
	x.at++
	err := x.list[i](ctx, x.call, x.next)
	x.over = true
	switch {
	case x.ran:
		return x.err
	case err == nil:
		return fmt.Errorf("%w: interceptor %d has returned nil and has not called next (return an error to refuse)", store.ErrInvalid, i)
	}
	return err
}

// Around is [Chain.Run] for work that is a function.
func Around[C any](ctx context.Context, list []Func[C], call *C, work func(context.Context) error) error {
	if len(list) == 0 {
		return work(ctx)
	}
	var x Chain[C]
	return x.Run(ctx, list, call, WorkFunc(work))
}

// A WorkFunc is a function that is a [Work].
type WorkFunc func(context.Context) error

// Run implements [Work].
func (w WorkFunc) Run(ctx context.Context) error { return w(ctx) }
