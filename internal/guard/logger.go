package guard

import (
	"context"
	"log/slog"
	"slices"
)

// Logger returns a logger that hands records to the handler of a user. The handler,
// and the methods of what is logged, may panic or end the goroutine that calls them:
// then the record is lost, since there is no place to tell of it, and the caller
// goes on. A handler that blocks holds its caller up. The handler is called on a
// goroutine of its own, so this is for what is logged rarely, such as failures.
func Logger(l *slog.Logger) *slog.Logger {
	if _, ok := l.Handler().(*handler); ok {
		return l
	}
	return slog.New(&handler{inner: l.Handler()})
}

type handler struct {
	inner slog.Handler
	with  []func(slog.Handler) slog.Handler // what the inner handler is asked for first
}

// Enabled implements [slog.Handler]. The inner handler is asked by Handle.
func (h *handler) Enabled(context.Context, slog.Level) bool { return true }

// Handle implements [slog.Handler].
func (h *handler) Handle(ctx context.Context, record slog.Record) error {
	_, err := Apart(context.Background(), "handler of a log", func() (struct{}, error) {
		inner := h.inner
		for _, with := range h.with {
			inner = with(inner)
		}
		if !inner.Enabled(ctx, record.Level) {
			return struct{}{}, nil
		}
		return struct{}{}, inner.Handle(ctx, record)
	})
	return err
}

// WithAttrs implements [slog.Handler].
func (h *handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return h.later(func(inner slog.Handler) slog.Handler { return inner.WithAttrs(attrs) })
}

// WithGroup implements [slog.Handler].
func (h *handler) WithGroup(name string) slog.Handler {
	return h.later(func(inner slog.Handler) slog.Handler { return inner.WithGroup(name) })
}

// later returns a handler for which the inner one is asked with each record, where it
// is guarded.
func (h *handler) later(with func(slog.Handler) slog.Handler) slog.Handler {
	return &handler{h.inner, append(slices.Clip(h.with), with)}
}
