package projection

import (
	"bytes"
	"context"
	"iter"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/perdure/perdure/store"
)

// Consume declares a consumer: a projection without a read model, which calls a handler for each
// event, for example to send mail. [InLog] keeps its notes in the log itself, so a consumer needs
// no database:
//
//	var Mails = projection.Consume("mails", projection.Handle(onLent), projection.Handle(onReturned))
//
//	runner := Mails.Into(projection.InLog(log)) // and projection.Service(runner), or projection.Run
//
// The promises of projections hold for consumers too. Each handler gets the events of one entity
// in order. The entities are divided into [Parallelism], 8 of them by default,
// which work at the same time; each segment makes one call at a time. The runner calls a
// handler that fails again, with growing pauses, see [Retry]. Then it parks the entity: later
// events of the entity wait until [Runner.Retry], while the other entities go on. Several programs
// may run a consumer on one log: one of them works, and another one goes on if it stops.
//
// Each event is handled at least once. The event is handled again if the program ends, or another
// one takes over, before the note of the segment is written. That happens after at most [BatchMax]
// events of a segment, by default 64. If one handler of a batch fails, the
// handlers that have returned nil are not called again for their events. When the runner is
// stopped, the context of the handlers ends. If all handlers of the batch return nil, the batch
// is still noted; if one returns an error, the batch is handled again.
//
// A consumer with a higher [Version] and [SwitchWhenLive] goes on where the version before it
// was, with other rules or other segments. Events that the version before has handled are not
// handled again. The same holds after [Runner.Reset] and [Runner.Remove]. To handle all events
// once more, give the consumer another name.
//
// Its options begin with these defaults, with [AdoptCopies], and with a [ParkedMax] of
// 64 and a [DeadLettersMax] of 256 in each segment.
// These bounds are low because every batch writes all notes.
func Consume(name string, handlers ...Rule[*Consumer]) *Projection[*Consumer] {
	nothing := func(context.Context, *Consumer) error { return nil }
	return New(name, append(slices.Clip(handlers), Clear(nothing))...).With(
		Parallelism(8), BatchMax(64), ParkedMax(64), DeadLettersMax(256),
		AdoptCopies(), option(func(s *settings) { s.limits.FlushAfter = time.Second }),
	)
}

// Handle returns the rule of a consumer for events of type M.
func Handle[M proto.Message](fn func(ctx context.Context, e Event[M]) error) Rule[*Consumer] {
	if fn == nil {
		return On[*Consumer, M](nil)
	}
	return On(func(ctx context.Context, c *Consumer, e Event[M]) error {
		return c.once(ctx, e.Event, e.Part, func() error { return fn(ctx, e) })
	})
}

// HandleAny returns the rule of a consumer for events of all types, or of the types that [Types]
// names. It gets them one by one, and takes the place of [Handle] rules.
func HandleAny(fn func(ctx context.Context, e AnyEvent) error) Rule[*Consumer] {
	if fn == nil {
		return OnBatch[*Consumer](nil)
	}
	return OnBatch(func(ctx context.Context, c *Consumer, events []AnyEvent) error {
		for i, e := range events {
			if err := c.once(ctx, e.Event, 0, func() error { return fn(ctx, e) }); err != nil {
				return FailedAt(i, err)
			}
		}
		return nil
	})
}

// A Consumer is a transaction of [InLog]. Handlers do not use it: [Handle] and [HandleAny] make
// the rules of consumers.
type Consumer struct {
	plain   *External[struct{}]
	target  *inLog
	writes  bool   // the transaction is an Update
	segment string // the key of the segment's note, once it has been read
}

// once calls a handler, unless another version does the effects of the event, or this handler has
// handled the event since the note of the segment was written.
func (c *Consumer) once(ctx context.Context, e *store.Event, part int, handle func() error) error {
	at := done{e.Position, part}
	if Replaying(ctx) || c.target.done(c.segment, at) {
		return nil
	}
	err := handle()
	if err == nil {
		c.target.did(c.segment, at)
	}
	return err
}

// InLog returns a target for consumers, see [Consume]. It keeps their notes in the log that the
// runner reads: the notes of each projection are the state of one entity of the kind [NotesKind].
// Copies and backups of the log include them.
func InLog(log store.Log) Target[*Consumer] {
	return &inLog{
		plain:    &plainTarget[*notesTx, struct{}]{target: &logNotes{log: log, turn: make(chan struct{}, 1)}},
		segments: make(map[string]*handled),
	}
}

type inLog struct {
	plain *plainTarget[*notesTx, struct{}]

	mu       sync.Mutex
	segments map[string]*handled // by the key of the segment's note
}

// handled is the set of messages that were handled since the note of a segment was written: at most
// one batch of them.
type handled struct {
	note []byte
	at   map[done]bool
}

// A done names a handled message: an event, and the part of it if it has become several messages.
type done struct {
	position store.Position
	part     int
}

func (t *inLog) done(segment string, at done) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	h := t.segments[segment]
	return h != nil && h.at[at]
}

func (t *inLog) did(segment string, at done) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if h := t.segments[segment]; h != nil {
		h.at[at] = true
	}
}

// read takes note of the value of a segment's note. If the value has changed, nothing was handled
// since.
func (t *inLog) read(segment string, note []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if h := t.segments[segment]; h == nil || !bytes.Equal(h.note, note) {
		t.segments[segment] = &handled{note: note, at: make(map[done]bool)}
	}
}

// Update implements [Target].
func (t *inLog) Update(ctx context.Context, do func(*Consumer) error) error {
	return t.plain.Update(ctx, func(b *External[struct{}]) error { return do(&Consumer{plain: b, target: t, writes: true}) })
}

// View implements [Target].
func (t *inLog) View(ctx context.Context, do func(*Consumer) error) error {
	return t.plain.View(ctx, func(b *External[struct{}]) error { return do(&Consumer{plain: b, target: t}) })
}

// Note implements [Target]. The first note of a segment that a transaction reads belongs to the
// segment whose events it handles.
func (t *inLog) Note(ctx context.Context, c *Consumer, key string) ([]byte, error) {
	if c.writes { // also after the handlers, when the runner may have been stopped
		var cancel context.CancelFunc
		ctx, cancel = lasting(ctx)
		defer cancel()
	}
	v, err := t.plain.Note(ctx, c.plain, key)
	if err == nil && c.segment == "" && isSegmentKey(key) {
		c.segment = key
		t.read(key, bytes.Clone(v))
	}
	return v, err
}

// SetNote implements [Target].
func (t *inLog) SetNote(ctx context.Context, c *Consumer, key string, value []byte) error {
	return t.plain.SetNote(ctx, c.plain, key, value)
}

// Notes implements [Target].
func (t *inLog) Notes(ctx context.Context, c *Consumer, prefix string) iter.Seq2[Note, error] {
	return t.plain.Notes(ctx, c.plain, prefix)
}
