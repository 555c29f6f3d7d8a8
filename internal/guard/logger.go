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
	return LoggerTo(l, func(ctx context.Context, r *Record) error {
		_, err := Apart(context.Background(), "handler of a log", func() (struct{}, error) {
			return struct{}{}, r.Handle(ctx)
		})
		return err
	})
}

// LoggerTo returns a logger that calls no method of the handler of l. It passes each record
// to take instead, which may keep it and call [Record.Handle] once, at a time and on a
// goroutine that it chooses.
func LoggerTo(l *slog.Logger, take func(context.Context, *Record) error) *slog.Logger {
	return slog.New(&handler{inner: l.Handler(), take: take})
}

// A Record is a log record for the handler of a user.
type Record struct {
	to     *handler
	record slog.Record
}

// Handle passes the record to the handler of the user, if that is enabled for its level.
// The handler may panic, end the goroutine, or block.
func (r *Record) Handle(ctx context.Context) error {
	inner := r.to.inner
	for _, with := range r.to.with {
		inner = with(inner)
	}
	if !inner.Enabled(ctx, r.record.Level) {
		return nil
	}
	return inner.Handle(ctx, r.record)
}

type handler struct {
	inner slog.Handler
	take  func(context.Context, *Record) error
	with  []func(slog.Handler) slog.Handler // calls to make on the inner handler before each record
}

// Enabled implements [slog.Handler]. [Record.Handle] asks the inner handler.
func (h *handler) Enabled(context.Context, slog.Level) bool { return true }

// Handle implements [slog.Handler].
func (h *handler) Handle(ctx context.Context, record slog.Record) error {
	return h.take(ctx, &Record{h, record.Clone()})
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
// [Record.Handle], whose caller is prepared for user code.
func (h *handler) later(with func(slog.Handler) slog.Handler) slog.Handler {
	return &handler{h.inner, h.take, append(slices.Clip(h.with), with)}
}
