package perdure

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/perdure/perdure/internal/guard"
)

// reportsMax bounds the log records that wait for the caller's handler.
const reportsMax = 4096

// reportsWait bounds the time for which Close waits for the caller's handler.
const reportsWait = time.Second

// A reporter passes log records to the caller's slog handler, on a goroutine of its own. The
// handler is user code, which may wait, panic, or call the engine; so are the Error methods of
// logged errors. The engine never waits for the reporter. If the handler is too slow, records
// are dropped and counted.
type reporter struct {
	lost  atomic.Uint64
	ended chan struct{}

	mu     sync.Mutex
	closed bool
	queue  chan report
}

type report struct {
	ctx    context.Context //nolint:containedctx // it goes with the record
	record *guard.Record
}

// newReporter returns a reporter and the logger that writes to it.
func newReporter(l *slog.Logger) (*reporter, *slog.Logger) {
	r := &reporter{queue: make(chan report, reportsMax), ended: make(chan struct{})}
	go r.run()
	return r, guard.LoggerTo(l, r.take)
}

// take queues a record without waiting.
func (r *reporter) take(ctx context.Context, record *guard.Record) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil
	}
	select {
	case r.queue <- report{context.WithoutCancel(ctx), record}:
	default:
		r.lost.Add(1)
	}
	return nil
}

func (r *reporter) run() {
	ended := false
	defer func() {
		if ended {
			close(r.ended)
		} else {
			go r.run() // the handler has ended the goroutine
		}
	}()
	for x := range r.queue {
		x.hand()
	}
	ended = true
}

func (x *report) hand() {
	defer func() { _ = recover() }() // a panic of the handler cannot be logged
	_ = x.record.Handle(x.ctx)
}

// close passes the remaining records to the handler, and waits for it up to reportsWait.
func (r *reporter) close(ctx context.Context) {
	r.mu.Lock()
	r.closed = true
	close(r.queue)
	r.mu.Unlock()
	t := time.NewTimer(reportsWait)
	defer t.Stop()
	select {
	case <-r.ended:
	case <-ctx.Done():
	case <-t.C:
	}
}

// textOf calls then with the text of an error. The error's methods are user code: if they panic
// or end the goroutine, the text says so.
func textOf(err error, then func(text string)) {
	text := "the Error method of the error called runtime.Goexit"
	defer func() { then(text) }()
	text = safeText(err)
}

// safeText returns the text of an error, even if the error's method panics.
func safeText(err error) (text string) {
	defer func() {
		if v := recover(); v != nil {
			text = fmt.Sprintf("the Error method of a %T panicked: %v", err, v)
		}
	}()
	return err.Error()
}
