package perdure

import (
	"context"
	"log/slog"
	"slices"
	"strings"

	"github.com/perdure/perdure/internal/core/entity"
	"github.com/perdure/perdure/store"
)

// LogHandler returns a handler that adds to each record what the context of a rule or of a
// [Perform] handler says, and passes the record to inner. The attributes are:
//
//   - entity: the entity of the rule, or the entity that has sent the effect, such as "acc/1";
//   - command or effect: the id of the command, or of the effect;
//   - correlation: the correlation id of the conversation;
//   - causation: the id of the command that has sent the message, if the command or the effect
//     came in a message;
//   - trace_id and span_id: those of the W3C trace context, if there is one.
//
// They are outside of the groups of [slog.Logger.WithGroup]. A record with another context is
// passed on as it is. For example:
//
//	slog.SetDefault(slog.New(perdure.LogHandler(slog.NewJSONHandler(os.Stderr, nil))))
//
//	slog.InfoContext(ctx, "limit is reached") // in a rule
func LogHandler(inner slog.Handler) slog.Handler {
	return &logHandler{root: inner, inner: inner}
}

// A logHandler keeps the handler without attributes and groups, and how to add these: attributes of
// a context come before the first group.
type logHandler struct {
	root, inner slog.Handler
	with        []func(slog.Handler) slog.Handler
}

func (h *logHandler) Enabled(ctx context.Context, l slog.Level) bool { return h.inner.Enabled(ctx, l) }

func (h *logHandler) Handle(ctx context.Context, r slog.Record) error {
	attrs := contextAttrs(ctx)
	if attrs == nil {
		return h.inner.Handle(ctx, r)
	}
	inner := h.root.WithAttrs(attrs)
	for _, with := range h.with {
		inner = with(inner)
	}
	return inner.Handle(ctx, r)
}

func (h *logHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return h.and(func(inner slog.Handler) slog.Handler { return inner.WithAttrs(attrs) })
}

func (h *logHandler) WithGroup(name string) slog.Handler {
	if name == "" {
		return h
	}
	return h.and(func(inner slog.Handler) slog.Handler { return inner.WithGroup(name) })
}

func (h *logHandler) and(with func(slog.Handler) slog.Handler) *logHandler {
	return &logHandler{root: h.root, inner: with(h.inner), with: append(slices.Clip(h.with), with)}
}

// contextAttrs returns the attributes for the records of a context, or nil.
func contextAttrs(ctx context.Context) []slog.Attr {
	if ctx == nil {
		return nil
	}
	if i := entity.InfoFrom(ctx); i != nil {
		var m store.Metadata
		if i.Metadata != nil {
			m = *i.Metadata
		}
		cause := m.CausationID
		if m.CorrelationID == "" && !i.Command.IsZero() {
			m.CorrelationID = i.Command.String()
		}
		return metadataAttrs(i.Key, "command", i.Command, &m, cause)
	}
	if d := EffectInfoFrom(ctx); d != nil {
		return metadataAttrs(d.Source, "effect", d.ID, &d.Metadata, d.Metadata.CausationID)
	}
	return nil
}

func metadataAttrs(key store.Key, name string, id store.ID, m *store.Metadata, cause store.ID) []slog.Attr {
	attrs := make([]slog.Attr, 1, 6)
	attrs[0] = slog.String("entity", key.String())
	if !id.IsZero() {
		attrs = append(attrs, slog.String(name, id.String()))
	}
	if c := m.Correlation(); c != "" {
		attrs = append(attrs, slog.String("correlation", c))
	}
	if !cause.IsZero() {
		attrs = append(attrs, slog.String("causation", cause.String()))
	}
	// version-trace-span-flags, see https://www.w3.org/TR/trace-context
	if parts := strings.Split(m.TraceParent, "-"); len(parts) >= 4 {
		attrs = append(attrs, slog.String("trace_id", parts[1]), slog.String("span_id", parts[2]))
	}
	return attrs
}
