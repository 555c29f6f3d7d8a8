package hooktest

import (
	"context"
	"log/slog"
	"time"
)

// A Context has hooks in its methods, such as "context.Context.Err".
type Context struct {
	context.Context // the type is a context itself
	Hook            *Hook
}

// Err calls the hook first.
func (c Context) Err() error {
	c.Hook.Reached("context.Context.Err")
	return c.Context.Err()
}

// Done calls the hook first.
func (c Context) Done() <-chan struct{} {
	c.Hook.Reached("context.Context.Done")
	return c.Context.Done()
}

// Deadline calls the hook first.
func (c Context) Deadline() (time.Time, bool) {
	c.Hook.Reached("context.Context.Deadline")
	return c.Context.Deadline()
}

// Value calls the hook first.
func (c Context) Value(key any) any {
	c.Hook.Reached("context.Context.Value")
	return c.Context.Value(key)
}

// A Handler has a hook in its method Handle, "slog.Handler.Handle".
type Handler struct {
	slog.Handler
	Hook *Hook
}

// Handle calls the hook first.
func (s Handler) Handle(ctx context.Context, r slog.Record) error {
	s.Hook.Reached("slog.Handler.Handle")
	return s.Handler.Handle(ctx, r)
}
