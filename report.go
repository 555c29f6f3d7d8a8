package perdure

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// reportsMax bounds the log records that wait for the handler of the caller.
const reportsMax = 4096

// reportsWait bounds how long Close waits for the handler of the caller.
const reportsWait = time.Second

// A reporter hands log records to the slog handler of the caller, on a goroutine of
// its own: a handler is user code, which may wait, panic, or call the engine, and
// so do the Error methods of what is logged. Nothing in the engine waits for it. If
// the handler cannot follow, records are left out and counted.
type reporter struct {
	inner slog.Handler
	lost  atomic.Uint64
	ended chan struct{}

	mu     sync.Mutex
	closed bool
	queue  chan report
}

type report struct {
	handler *reportHandler
	ctx     context.Context //nolint:containedctx // it goes with the record
	record  slog.Record
}

// newReporter returns a reporter and the logger that feeds it.
func newReporter(l *slog.Logger) (*reporter, *slog.Logger) {
	r := &reporter{inner: l.Handler(), queue: make(chan report, reportsMax), ended: make(chan struct{})}
	go r.run()
	return r, slog.New(&reportHandler{reporter: r})
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
	defer func() { _ = recover() }() // there is no place to tell of it
	handler := x.handler.reporter.inner
	for _, with := range x.handler.with {
		handler = with(handler)
	}
	if handler.Enabled(x.ctx, x.record.Level) {
		_ = handler.Handle(x.ctx, x.record)
	}
}

// close hands over what is left, and waits for that if it does not take long.
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

// A reportHandler is a [slog.Handler] that never waits.
type reportHandler struct {
	reporter *reporter
	with     []func(slog.Handler) slog.Handler // what the inner handler is asked for first
}

// Enabled implements [slog.Handler]. The inner handler is asked later.
func (h *reportHandler) Enabled(context.Context, slog.Level) bool { return true }

// Handle implements [slog.Handler].
func (h *reportHandler) Handle(ctx context.Context, record slog.Record) error {
	r := h.reporter
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil
	}
	select {
	case r.queue <- report{h, context.WithoutCancel(ctx), record.Clone()}:
	default:
		r.lost.Add(1)
	}
	return nil
}

// WithAttrs implements [slog.Handler].
func (h *reportHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return h.later(func(inner slog.Handler) slog.Handler { return inner.WithAttrs(attrs) })
}

// WithGroup implements [slog.Handler].
func (h *reportHandler) WithGroup(name string) slog.Handler {
	return h.later(func(inner slog.Handler) slog.Handler { return inner.WithGroup(name) })
}

// later returns a handler for which the inner one is asked with each record, on the
// goroutine that calls the code of the user.
func (h *reportHandler) later(with func(slog.Handler) slog.Handler) slog.Handler {
	return &reportHandler{h.reporter, append(slices.Clip(h.with), with)}
}

// textOf returns the text of an error whose methods are user code: it may panic, or
// end the goroutine, and then that is the text.
func textOf(err error, then func(text string)) {
	text := "the Error method of the error called runtime.Goexit"
	defer func() { then(text) }()
	text = safeText(err)
}

// safeText returns the text of an error, whatever its method does.
func safeText(err error) (text string) {
	defer func() {
		if v := recover(); v != nil {
			text = fmt.Sprintf("the Error method of a %T panicked: %v", err, v)
		}
	}()
	return err.Error()
}
