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

// Defaults of [Consume].
const (
	ConsumeLanesDefault       = 8
	ConsumeBatchDefault       = 64
	ConsumeParkedDefault      = 64
	ConsumeDeadLettersDefault = 256
)

// Consume declares a consumer: a projection without a read model, which calls a
// handler for each event, such as one that sends mail. [InLog] keeps its notes in the
// log itself, so it needs no database:
//
//	var Mails = projection.Consume("mails", projection.Handle(onLent), projection.Handle(onReturned))
//
//	runner := Mails.Into(projection.InLog(log)) // and projection.Service(runner), or projection.Run
//
// All that is said of projections holds. Events of one entity come in order. Entities
// are divided into [Lanes], [ConsumeLanesDefault] of them, which work at the same time:
// so many calls of handlers are under way at most. A handler that fails is called again
// with growing pauses, see [Retry]; then its entity is parked, and so its later events
// wait, until [Runner.Retry], while the other entities go on. Several programs may run
// a consumer on one log: one of them works, and another one goes on if it stops.
//
// Each event is handled at least once. It is handled again if the program dies, or
// another one takes over, before what was handled is noted, which happens after at
// most [BatchMax] events of a lane, by default [ConsumeBatchDefault]. A handler that
// has returned nil is not called again for that event because another one of the batch
// has failed. When the runner is stopped, the context of the handlers ends; a batch
// of which all have returned nil is noted still, and one of which a handler returns an
// error is handled again.
//
// A consumer with a higher [Version] and [SwitchWhenLive] goes on where the former one
// was, with other rules or other lanes: what that one has handled is not handled again.
// The same holds after [Runner.Reset] and [Runner.Remove]. To have all events handled
// once more, give the consumer another name.
//
// Its options begin with those defaults, with [ParkedMax] of [ConsumeParkedDefault] and
// [DeadLettersMax] of [ConsumeDeadLettersDefault] in each lane, since every note is
// written with each batch, and with [AdoptCopies].
func Consume(name string, handlers ...Rule[*Consumer]) *Projection[*Consumer] {
	nothing := func(context.Context, *Consumer) error { return nil }
	return New(name, append(slices.Clip(handlers), Clear(nothing))...).With(
		Lanes(ConsumeLanesDefault), BatchMax(ConsumeBatchDefault), ParkedMax(ConsumeParkedDefault), DeadLettersMax(ConsumeDeadLettersDefault),
		AdoptCopies(), option(func(s *settings) { s.limits.FlushAfter = time.Second }),
	)
}

// Handle is the rule of a consumer for an event M.
func Handle[M proto.Message](fn func(ctx context.Context, e Event[M]) error) Rule[*Consumer] {
	if fn == nil {
		return On[*Consumer, M](nil)
	}
	return On(func(ctx context.Context, c *Consumer, e Event[M]) error {
		return c.once(ctx, e.Event, e.Part, func() error { return fn(ctx, e) })
	})
}

// HandleAny is the rule of a consumer for events of all types, or those that [Types]
// names, one by one. It takes the place of [Handle] rules.
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

// A Consumer is a transaction of [InLog]. Rules of consumers are made by [Handle] and
// [HandleAny], which have no use for it.
type Consumer struct {
	plain  *Plain[struct{}]
	target *inLog
	writes bool   // it is an update
	lane   string // the key of the lane's note, once it has been read
}

// once calls a handler, unless that is not for this version to do, or has been done
// since the note of the lane was written.
func (c *Consumer) once(ctx context.Context, e *store.Event, part int, handle func() error) error {
	at := done{e.Position, part}
	if Replaying(ctx) || c.target.done(c.lane, at) {
		return nil
	}
	err := handle()
	if err == nil {
		c.target.did(c.lane, at)
	}
	return err
}

// InLog returns a target for consumers, see [Consume], which keeps their notes in a
// log: as the state of an entity of the kind [NotesKind] for each name. They are part
// of its copies and backups. The runner reads the same log.
func InLog(log store.Log) Target[*Consumer] {
	return &inLog{
		plain: &plainTarget[*notesTx, struct{}]{target: &logNotes{log: log, turn: make(chan struct{}, 1)}},
		lanes: make(map[string]*handled),
	}
}

type inLog struct {
	plain *plainTarget[*notesTx, struct{}]

	mu    sync.Mutex
	lanes map[string]*handled // by the key of the lane's note
}

// handled are the events that were handled since the note of a lane was written: those
// of one batch at most.
type handled struct {
	note []byte
	at   map[done]bool
}

// A done is a message that was handled: one of those that an event has become.
type done struct {
	position store.Position
	part     int
}

func (t *inLog) done(lane string, at done) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	h := t.lanes[lane]
	return h != nil && h.at[at]
}

func (t *inLog) did(lane string, at done) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if h := t.lanes[lane]; h != nil {
		h.at[at] = true
	}
}

// read says what the note of a lane is: if it is another one, nothing was handled since.
func (t *inLog) read(lane string, note []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if h := t.lanes[lane]; h == nil || !bytes.Equal(h.note, note) {
		t.lanes[lane] = &handled{note: note, at: make(map[done]bool)}
	}
}

// Update implements [Target].
func (t *inLog) Update(ctx context.Context, do func(*Consumer) error) error {
	return t.plain.Update(ctx, func(b *Plain[struct{}]) error { return do(&Consumer{plain: b, target: t, writes: true}) })
}

// View implements [Target].
func (t *inLog) View(ctx context.Context, do func(*Consumer) error) error {
	return t.plain.View(ctx, func(b *Plain[struct{}]) error { return do(&Consumer{plain: b, target: t}) })
}

// Note implements [Target]. The first note of a lane that is read is that of the lane
// whose events are handled.
func (t *inLog) Note(ctx context.Context, c *Consumer, key string) ([]byte, error) {
	if c.writes { // also after the handlers, when the runner may have been stopped
		var cancel context.CancelFunc
		ctx, cancel = lasting(ctx)
		defer cancel()
	}
	v, err := t.plain.Note(ctx, c.plain, key)
	if err == nil && c.lane == "" && isLaneKey(key) {
		c.lane = key
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
