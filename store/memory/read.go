package memory

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"sync"

	"github.com/perdure/perdure/store"
)

// contextEvery is the number of events after which a reader checks its context.
const contextEvery = 256

// A reader holds the values into which an iteration decodes. Readers are pooled. That is
// possible because an event is valid only until the next step of its iteration.
type reader struct {
	decoder store.Decoder
	event   store.Event
	state   store.State
}

var readers = sync.Pool{New: func() any { return new(reader) }}

// A history is a consistent read view of one entity.
type history struct {
	key     store.Key
	version store.Version
	events  []ref
	states  []state
	chunks  [][]byte
}

func (l *Log) history(ctx context.Context, key store.Key) (h history, err error) {
	unlock, err := l.begin(ctx)
	if err != nil {
		return h, err
	}
	defer unlock()
	h.key = key
	e := l.find(key)
	if e == nil {
		return h, nil
	}
	h.version, h.events, h.chunks = e.version, e.events, l.arena.chunks
	if e.rare != nil {
		h.states = e.rare.states
	}
	return h, nil
}

// first returns the version of the first event that is kept.
func (h *history) first() store.Version {
	return h.version - store.Version(len(h.events)) + 1
}

// Load implements [store.Log]. The whole read sees the entity as it was when the iteration
// began. It does not offer a snapshot if events after it are deleted, because the state
// cannot be rebuilt from such a snapshot.
func (l *Log) Load(ctx context.Context, key store.Key, accept func(*store.State) bool) iter.Seq2[*store.Event, error] {
	return func(yield func(*store.Event, error) bool) {
		h, err := l.history(ctx, key)
		if err != nil {
			yield(nil, fmt.Errorf("load %v: %w", key, err))
			return
		}
		r := readers.Get().(*reader)
		defer readers.Put(r)
		after, err := h.offer(r, accept)
		if err != nil {
			yield(nil, fmt.Errorf("load %v: %w", key, err))
			return
		}
		h.yield(ctx, r, after, "load", yield)
	}
}

// offer calls accept with the states, latest first, and returns the version of the state
// that it accepts, or 0.
func (h *history) offer(r *reader, accept func(*store.State) bool) (store.Version, error) {
	if accept == nil {
		return 0, nil
	}
	for _, s := range slices.Backward(h.states) {
		if s.version+1 < h.first() {
			break
		}
		if err := r.decoder.State(s.sealed, &r.state); err != nil {
			return 0, where(err, h.key, s.version, 0)
		}
		if accept(&r.state) {
			return s.version, nil
		}
	}
	return 0, nil
}

// Read implements [store.Log]. It sees the entity as it was when the iteration began.
func (l *Log) Read(ctx context.Context, key store.Key, after store.Version) iter.Seq2[*store.Event, error] {
	return func(yield func(*store.Event, error) bool) {
		h, err := l.history(ctx, key)
		if err != nil {
			yield(nil, fmt.Errorf("read %v: %w", key, err))
			return
		}
		r := readers.Get().(*reader)
		defer readers.Put(r)
		h.yield(ctx, r, after, "read", yield)
	}
}

// yield yields the events above a version.
func (h *history) yield(ctx context.Context, r *reader, after store.Version, doing string, yield func(*store.Event, error) bool) {
	first := h.first()
	if len(h.events) == 0 || after >= h.version {
		return
	}
	skip := store.Version(0)
	if after >= first {
		skip = after - first + 1
	}
	for i, at := range h.events[skip:] {
		version := first + skip + store.Version(i)
		err := r.decoder.Event(at.bytes(h.chunks), &r.event)
		if err == nil && (r.event.Version != version || r.event.Key != h.key) {
			err = misplaced(&r.event)
		}
		if err != nil {
			err = where(err, h.key, version, 0)
		} else if i%contextEvery == contextEvery-1 {
			err = ctx.Err()
		}
		if err != nil {
			yield(nil, fmt.Errorf("%s %v: %w", doing, h.key, err))
			return
		}
		if !yield(&r.event, nil) {
			return
		}
	}
}

// Scan implements [store.Log]. It ends at the head that the partition had when
// the iteration began, and leaves out events that had been deleted by then.
func (l *Log) Scan(ctx context.Context, q store.Query) iter.Seq2[*store.Event, error] {
	return func(yield func(*store.Event, error) bool) {
		s, err := l.section(ctx, &q)
		if err != nil {
			yield(nil, fmt.Errorf("scan after %v: %w", q.After, err))
			return
		}
		r := readers.Get().(*reader)
		defer readers.Put(r)
		if err := s.yield(ctx, r, &q, yield); err != nil {
			yield(nil, fmt.Errorf("scan after %v: %w", q.After, err))
		}
	}
}

// A section is a consistent read view of the part of a partition that a scan reads: the
// sequences above from, up to and including to.
type section struct {
	pages    []*page
	chunks   [][]byte
	from, to uint64
}

func (l *Log) section(ctx context.Context, q *store.Query) (s section, err error) {
	unlock, err := l.begin(ctx)
	if err != nil {
		return s, err
	}
	defer unlock()
	number := q.After.Partition()
	if number >= len(l.partitions) {
		return s, fmt.Errorf("%w: partition %d of a log with %d", store.ErrInvalid, number, len(l.partitions))
	}
	p := &l.partitions[number]
	s = section{pages: p.pages, chunks: l.arena.chunks, from: q.After.Sequence(), to: p.head}
	if q.Through != 0 {
		if q.Through.Partition() != number {
			return s, fmt.Errorf("%w: it ends in another partition, at %v", store.ErrInvalid, q.Through)
		}
		s.to = min(s.to, q.Through.Sequence())
	}
	return s, nil
}

// yield yields the events of the section that q selects. It returns an error that the
// caller must yield.
func (s *section) yield(ctx context.Context, r *reader, q *store.Query, yield func(*store.Event, error) bool) error {
	for i := s.from; i < s.to; i++ {
		at := s.pages[i/pageRefs][i%pageRefs]
		if at.length == 0 {
			continue
		}
		if i%contextEvery == 0 {
			if err := ctx.Err(); err != nil {
				return err
			}
		}
		position := store.NewPosition(q.After.Partition(), i+1)
		err := r.decoder.Event(at.bytes(s.chunks), &r.event)
		if err == nil && r.event.Position != position {
			err = misplaced(&r.event)
		}
		if err != nil {
			return where(err, store.Key{}, 0, position)
		}
		if q.Match(&r.event) && !yield(&r.event, nil) {
			return nil
		}
	}
	return nil
}

// misplaced returns the error for an intact event that is not the expected one.
func misplaced(e *store.Event) error {
	return &store.CorruptError{
		What:   "event",
		Reason: fmt.Sprintf("found version %d of %v, position %v, in its place", e.Version, e.Key, e.Position),
	}
}

// where adds the place to an error about a corrupt record, and returns other errors
// unchanged.
func where(err error, key store.Key, version store.Version, position store.Position) error {
	if c, ok := errors.AsType[*store.CorruptError](err); ok {
		c.Where, c.Key, c.Version, c.Position = "memory", key, version, position
	}
	return err
}
