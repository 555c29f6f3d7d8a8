package pebble

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"math"

	"github.com/cockroachdb/pebble/v2"

	"github.com/perdure/perdure/internal/storecore"
	"github.com/perdure/perdure/store"
)

// An entityReader reads the events of one entity page by page.
type entityReader struct {
	log    *Log
	key    store.Key
	prefix []byte        // prefix of the entity's keys in bucketEntity
	next   store.Version // version of the first event of the next page
	last   store.Version // version of the entity when the first page was read
	// dense is true if the event of version next must exist if any later one exists. If it is
	// false, deleted events may be missing before the first one.
	dense bool
}

// lastUnknown is the value of a stream's field last before its first page.
const lastUnknown = store.Version(math.MaxUint64)

func (l *Log) entityReader(key store.Key) *entityReader {
	return &entityReader{log: l, key: key, prefix: entityKey(bucketEntity, key), next: 1, last: lastUnknown}
}

// part returns the smallest key of a part.
func (s *entityReader) part(part byte) []byte {
	k := make([]byte, 0, len(s.prefix)+1+8)
	return append(append(k, s.prefix...), part)
}

func (s *entityReader) stateKey() []byte { return s.part(partState) }

func (s *entityReader) snapshotKey(v store.Version) []byte {
	return binary.BigEndian.AppendUint64(s.part(partSnapshot), uint64(v))
}

func (s *entityReader) eventKey(v store.Version) []byte {
	return binary.BigEndian.AppendUint64(s.part(partEvent), uint64(v))
}

// split returns the part and version in a key of the stream. ok is false if the key is not
// one.
func (s *entityReader) split(k []byte) (part byte, v store.Version, ok bool) {
	rest, ok := bytes.CutPrefix(k, s.prefix)
	switch {
	case !ok || len(rest) == 0:
		return 0, 0, false
	case rest[0] == partState && len(rest) == 1:
		return partState, 0, true
	case rest[0] < partEnd && len(rest) == 9:
		return rest[0], store.Version(binary.BigEndian.Uint64(rest[1:])), true
	}
	return 0, 0, false
}

// Load implements [store.Log]. It sees the entity as it was when the iteration began. Load
// does not offer a snapshot if events after it are deleted, because such a snapshot cannot be
// brought up to date. If events that the iteration has not read yet are deleted, it ends with
// an error. A new Load then finds a newer snapshot.
func (l *Log) Load(ctx context.Context, key store.Key, accept func(*store.State) bool) iter.Seq2[*store.Event, error] {
	return func(yield func(*store.Event, error) bool) {
		p := storecore.NewPage()
		defer p.Release()
		s := l.entityReader(key)
		err := key.Validate()
		if err == nil {
			err = s.restore(ctx, p, accept)
		}
		if err == nil {
			s.dense = true
			err = s.yield(ctx, p, yield)
		}
		if err != nil {
			yield(nil, fmt.Errorf("load %v: %w", key, err))
		}
	}
}

// Read implements [store.Log]. It ends at the version that the entity had when the iteration
// began. It leaves out events that are deleted before it reaches them.
func (l *Log) Read(ctx context.Context, key store.Key, after store.Version) iter.Seq2[*store.Event, error] {
	return func(yield func(*store.Event, error) bool) {
		if after == math.MaxUint64 {
			return
		}
		p := storecore.NewPage()
		defer p.Release()
		s := l.entityReader(key)
		s.next = after + 1
		err := key.Validate()
		if err == nil {
			err = s.view(ctx, func(c *pebble.Iterator) error {
				return s.fill(c, p, c.SeekGE(s.eventKey(s.next)))
			})
		}
		if err == nil {
			err = s.yield(ctx, p, yield)
		}
		if err != nil {
			yield(nil, fmt.Errorf("read %v: %w", key, err))
		}
	}
}

// view runs fn with an iterator over all keys of the entity.
func (s *entityReader) view(ctx context.Context, fn func(c *pebble.Iterator) error) error {
	err := s.log.view(ctx, func(r pebble.Reader) error {
		return iterate(r, s.prefix, s.part(partEnd), fn)
	})
	if c, ok := errors.AsType[*store.CorruptError](err); ok && c.Key.IsZero() {
		return s.corrupt(err, 0, 0)
	}
	return err
}

// restore offers the states of the entity to accept, latest first. It fills the first page
// with the events after the accepted state. Each state and its page come from one read.
func (s *entityReader) restore(ctx context.Context, p *storecore.Page, accept func(*store.State) bool) error {
	below := lastUnknown
	for {
		var found store.Version
		err := s.view(ctx, func(c *pebble.Iterator) (err error) {
			ok := c.First()
			if accept != nil {
				found, ok, err = s.copyState(c, p, ok, below)
			} else if ok && c.Key()[len(s.prefix)] < partEvent {
				ok = c.SeekGE(s.eventKey(0))
			}
			if err != nil {
				return err
			}
			s.next, s.last, s.dense = found+1, lastUnknown, found > 0
			return s.fill(c, p, ok)
		})
		switch {
		case errors.Is(err, storecore.ErrDeleted) && below == lastUnknown:
			return s.corrupt(&store.CorruptError{
				What: "event", Reason: "events after the latest snapshot are missing",
			}, found+1, 0)
		case errors.Is(err, storecore.ErrDeleted):
			accept = nil // events are deleted after all older snapshots too
			continue
		case err != nil || found == 0:
			return err
		}
		if err := p.Decoder.State(p.Sealed, &p.State); err != nil {
			return s.corrupt(err, found, 0)
		}
		if p.State.Key != s.key || p.State.Version != found {
			return s.corrupt(&store.CorruptError{
				What: "state", Reason: fmt.Sprintf("found version %d of %v in its place", p.State.Version, p.State.Key),
			}, found, 0)
		}
		if accept(&p.State) {
			return nil
		}
		below = found
	}
}

// copyState copies the latest state below a version, and returns its version or 0. It expects
// c at the first entry of the entity, and moves it to the first event above that version. It
// returns whether there is such an event.
func (s *entityReader) copyState(c *pebble.Iterator, p *storecore.Page, ok bool, below store.Version) (found store.Version, more bool, err error) {
	saved := false
	for ; ok; ok = c.Next() { // at most two snapshots
		part, version, mine := s.split(c.Key())
		if !mine {
			return 0, false, corruptKey(c.Key(), "it is of no known part")
		}
		if part == partEvent {
			break
		}
		if version >= below || part == partState && below != lastUnknown {
			continue
		}
		v, err := c.ValueAndErr()
		if err != nil {
			return 0, false, err
		}
		record, fault := storecore.Sealed(c.Key(), v)
		if fault != nil {
			return 0, false, corruptKey(c.Key(), fault.Error())
		}
		p.Sealed = append(p.Sealed[:0], record...)
		found, saved = version, part == partState
	}
	if err := c.Error(); err != nil {
		return 0, false, err
	}
	if saved {
		if err := p.Decoder.State(p.Sealed, &p.State); err != nil {
			return 0, false, s.corrupt(err, 0, 0)
		}
		found = p.State.Version
	}
	if found > 0 {
		ok = c.SeekGE(s.eventKey(found + 1))
	}
	return found, ok, nil
}

// fill copies the next page of events and moves next behind the page. The iterator c must be
// at the first event at or above version next; ok says whether there is one.
func (s *entityReader) fill(c *pebble.Iterator, p *storecore.Page, ok bool) error {
	p.Reset()
	ok, err := s.first(c, ok)
	if err != nil {
		return err
	}
	for ; ok && s.next <= s.last; ok = c.Next() {
		part, version, mine := s.split(c.Key())
		if !mine || part != partEvent {
			return s.corrupt(corruptKey(c.Key(), "it is not an event"), s.next, 0)
		}
		if version != s.next {
			return s.corrupt(gap(s.next, version), s.next, 0)
		}
		if p.Full() {
			if s.last == lastUnknown && c.Last() {
				_, s.last, _ = s.split(c.Key())
			}
			return c.Error()
		}
		v, err := c.ValueAndErr()
		if err != nil {
			return err
		}
		p.Add(nil, v)
		s.next++
	}
	if err := c.Error(); err != nil {
		return err
	}
	if s.last != lastUnknown && s.next <= s.last {
		return s.corrupt(gap(s.next, s.last+1), s.next, 0)
	}
	s.last = s.next - 1
	return nil
}

// first checks that c is where the stream continues: at version next, or after deleted events
// at the first one that is kept, or at the end.
func (s *entityReader) first(c *pebble.Iterator, ok bool) (bool, error) {
	if !ok {
		if err := c.Error(); err != nil || !s.dense {
			return false, err
		}
		// The event with the version of a snapshot exists if it is the last event, because
		// the last event is never deleted. An entity with a saved state has no events.
		var last store.Version
		if c.SeekLT(s.eventKey(s.next)) {
			part, version, _ := s.split(c.Key())
			if part == partState {
				return false, nil
			}
			if part == partEvent {
				last = version
			}
		}
		if last+1 != s.next && c.Error() == nil {
			return false, s.corrupt(gap(last+1, s.next), s.next, 0)
		}
		return false, c.Error()
	}
	_, version, _ := s.split(c.Key())
	if version == s.next {
		return true, nil
	}
	if c.Prev() {
		if part, _, _ := s.split(c.Key()); part == partEvent {
			return false, s.corrupt(gap(s.next, version), s.next, 0)
		}
	}
	if err := c.Error(); err != nil {
		return false, err
	}
	if s.dense {
		return false, storecore.ErrDeleted
	}
	s.next = version
	return c.SeekGE(s.eventKey(version)), nil
}

// end returns the version of the entity. The iterator c may cover more keys than those of the
// entity.
func (s *entityReader) end(c *pebble.Iterator) (storecore.Head, error) {
	if !c.SeekLT(s.part(partEnd)) {
		return storecore.Head{}, c.Error()
	}
	part, version, ok := s.split(c.Key())
	if !ok {
		return storecore.Head{}, nil // the key belongs to another entity
	}
	v, err := c.ValueAndErr()
	if err != nil {
		return storecore.Head{}, err
	}
	switch part {
	case partEvent:
		_, err := s.decode(v, version)
		return storecore.Head{Version: version}, err
	case partSnapshot:
		return storecore.Head{}, s.corrupt(corruptKey(c.Key(), "a snapshot of an entity without events"), version, 0)
	}
	var d store.Decoder
	state := new(store.State)
	record, fault := storecore.Sealed(c.Key(), v)
	switch {
	case fault != nil:
		err = corruptKey(c.Key(), fault.Error())
	default:
		err = d.State(record, state)
	}
	if err == nil && state.Key != s.key {
		err = &store.CorruptError{What: "state", Reason: fmt.Sprintf("found one of %v in its place", state.Key)}
	}
	return storecore.Head{Version: state.Version, Saved: true}, s.corrupt(err, 0, 0)
}

// event returns the event of a version. It is an error if the event does not exist.
func (s *entityReader) event(r pebble.Reader, version store.Version) (*store.Event, error) {
	v, err := get(r, s.eventKey(version))
	if err != nil {
		return nil, err
	}
	if v == nil {
		return nil, s.corrupt(&store.CorruptError{What: "event", Reason: "it is missing"}, version, 0)
	}
	return s.decode(v, version)
}

func (s *entityReader) decode(sealed []byte, version store.Version) (*store.Event, error) {
	var d store.Decoder
	e := new(store.Event)
	err := d.Event(sealed, e)
	if err == nil && (e.Key != s.key || e.Version != version) {
		err = misplaced(e)
	}
	return e, s.corrupt(err, version, 0)
}

// yield yields the events of the page and of all pages after it.
func (s *entityReader) yield(ctx context.Context, p *storecore.Page, yield func(*store.Event, error) bool) error {
	version := s.next - store.Version(len(p.Rows))
	for {
		for _, r := range p.Rows {
			err := p.Decoder.Event(p.Value(r), &p.Event)
			if err == nil && (p.Event.Key != s.key || p.Event.Version != version) {
				err = misplaced(&p.Event)
			}
			if err != nil {
				return s.corrupt(err, version, 0)
			}
			if err := ctx.Err(); err != nil {
				return err
			}
			if !yield(&p.Event, nil) {
				return nil
			}
			version++
		}
		if s.next > s.last {
			return nil
		}
		err := s.view(ctx, func(c *pebble.Iterator) error {
			return s.fill(c, p, c.SeekGE(s.eventKey(s.next)))
		})
		if err != nil {
			return err
		}
		version = s.next - store.Version(len(p.Rows))
	}
}

// corrupt adds the wanted entity, version and position to an error about a corrupt record.
func (s *entityReader) corrupt(err error, version store.Version, position store.Position) error {
	if c, ok := errors.AsType[*store.CorruptError](err); ok {
		c.Key, c.Version, c.Position = s.key, version, position
	}
	return s.log.locate(err)
}

func gap(from, to store.Version) error {
	return &store.CorruptError{What: "event", Reason: fmt.Sprintf("the versions from %d to %d are missing", from, to-1)}
}

// misplaced returns the error for an event that is intact but not the wanted one.
func misplaced(e *store.Event) error {
	return &store.CorruptError{
		What:   "event",
		Reason: fmt.Sprintf("found version %d of %v, position %v, in its place", e.Version, e.Key, e.Position),
	}
}
