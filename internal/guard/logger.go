package guard

import (
	"context"
	"log/slog"
	"slices"
)

// Logger returns a logger that passes records to the handler of a user. The handler, and
// the methods of logged values, may panic or end their goroutine: then the record is lost,
// since there is no place to report the loss, and the caller continues. A handler that
// blocks delays its caller. Each record is handled on a goroutine of its own, so use the
// logger for rare records, such as failures.
func Logger(l *slog.Logger) *slog.Logger {
	if _, ok := l.Handler().(*handler); ok {
		return l
	}
	return slog.New(&handler{inner: l.Handler()})
}

type handler struct {
	inner slog.Handler
	with  []func(slog.Handler) slog.Handler // calls to make on the inner handler before each record
}

// Enabled implements [slog.Handler]. Handle asks the inner handler.
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

// later returns a handler that makes a call on the inner handler before each record, in
// Handle, where a panic is caught.
func (h *handler) later(with func(slog.Handler) slog.Handler) slog.Handler {
	return &handler{h.inner, append(slices.Clip(h.with), with)}
}
