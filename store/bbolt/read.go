package bbolt

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"math"

	bolt "go.etcd.io/bbolt"

	"github.com/perdure/perdure/internal/storecore"
	"github.com/perdure/perdure/store"
)

// ---- events of one entity

// An entityReader reads the events of one entity page by page.
type entityReader struct {
	log    *Log
	key    store.Key
	prefix []byte        // prefix of the entity's keys in index and snapshot
	next   store.Version // version of the first event of the next page
	last   store.Version // version of the entity when the first page was read
	// dense is true if the event of version next must exist if any later one exists. If it is
	// false, deleted events may be missing before the first one.
	dense bool
}

// lastUnknown is the value of a stream's field last before its first page.
const lastUnknown = store.Version(math.MaxUint64)

func (l *Log) entityReader(key store.Key) *entityReader {
	return &entityReader{log: l, key: key, prefix: storecore.AppendEntity(nil, key), next: 1, last: lastUnknown}
}

// at returns the key of a version.
func (s *entityReader) at(v store.Version) []byte {
	return binary.BigEndian.AppendUint64(bytes.Clone(s.prefix), uint64(v))
}

// versionOf returns the version in a key of the stream.
func (s *entityReader) versionOf(k []byte) (store.Version, bool) {
	if len(k) != len(s.prefix)+8 || !bytes.HasPrefix(k, s.prefix) {
		return 0, false
	}
	return store.Version(binary.BigEndian.Uint64(k[len(s.prefix):])), true
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
			yield(nil, fmt.Errorf("load %v: %w", key, s.named(err)))
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
			err = l.view(ctx, func(tx *bolt.Tx) error { return s.fill(tx, p) })
		}
		if err == nil {
			err = s.yield(ctx, p, yield)
		}
		if err != nil {
			yield(nil, fmt.Errorf("read %v: %w", key, s.named(err)))
		}
	}
}

// restore offers the states of the entity to accept, latest first. It fills the first page
// with the events after the accepted state. Each state and its page come from one
// transaction.
func (s *entityReader) restore(ctx context.Context, p *storecore.Page, accept func(*store.State) bool) error {
	below := lastUnknown
	for {
		var found store.Version
		err := s.log.view(ctx, func(tx *bolt.Tx) (err error) {
			if accept != nil {
				if found, err = s.copyState(tx, p, below); err != nil {
					return err
				}
			}
			s.next, s.last, s.dense = found+1, lastUnknown, found > 0
			return s.fill(tx, p)
		})
		switch {
		case errors.Is(err, storecore.ErrDeleted) && below == lastUnknown:
			return s.corrupt(&store.CorruptError{
				What: "event", Where: "bucket index", Reason: "events after the latest snapshot are missing",
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

// copyState copies the latest state below a version and returns its version, or 0.
func (s *entityReader) copyState(tx *bolt.Tx, p *storecore.Page, below store.Version) (store.Version, error) {
	snapshots := bucketSnapshot.open(tx)
	_, _, before, err := bucketSnapshot.find(snapshots.Cursor(), s.at(below))
	if err != nil {
		return 0, s.corrupt(err, 0, 0)
	}
	if version, ok := s.versionOf(before); ok {
		v, err := bucketSnapshot.getRecord(snapshots, before)
		p.Sealed = append(p.Sealed[:0], v...)
		return version, err
	}
	if below != lastUnknown {
		return 0, nil
	}
	v, err := bucketState.getRecord(bucketState.open(tx), s.prefix)
	if v == nil || err != nil {
		return 0, err
	}
	p.Sealed = append(p.Sealed[:0], v...)
	if err := p.Decoder.State(v, &p.State); err != nil {
		return 0, s.corrupt(err, 0, 0)
	}
	return p.State.Version, nil
}

// fill copies the next page of events and moves next behind the page.
func (s *entityReader) fill(tx *bolt.Tx, p *storecore.Page) error {
	p.Reset()
	index, log := bucketIndex.open(tx).Cursor(), bucketLog.open(tx).Cursor()
	k, v, err := s.seek(tx, index)
	if err != nil {
		return err
	}
	var at uint64 // position of the cursor of log
	version, ok := s.versionOf(k)
	for ; ok && s.next <= s.last; version, ok = s.versionOf(k) {
		if version != s.next {
			return s.corrupt(gap(s.next, version), s.next, 0)
		}
		n, fault := storecore.Number(k, v)
		if fault != nil {
			return s.corrupt(bucketIndex.corrupt(k, fault.Error()), version, 0)
		}
		if p.Full() {
			if s.last == lastUnknown {
				s.last, err = s.end(index)
			}
			return err
		}
		if at, err = copyEvent(log, p, at, n); err != nil {
			return s.corrupt(err, version, store.Position(n))
		}
		s.next++
		if k, v, err = bucketIndex.step(index, k); err != nil {
			return s.corrupt(err, s.next, 0)
		}
	}
	if k != nil {
		// The entry after the last event must be intact, or it could be the next event.
		if fault := bucketIndex.check(k, v); fault != nil {
			return s.corrupt(bucketIndex.corrupt(k, fault.Error()), s.next, 0)
		}
		if _, _, err := bucketIndex.step(index, k); err != nil {
			return s.corrupt(err, s.next, 0)
		}
	}
	if s.last != lastUnknown && s.next <= s.last {
		return s.corrupt(gap(s.next, s.last+1), s.next, 0)
	}
	s.last = s.next - 1
	return nil
}

// seek moves the cursor to the entry of version next, or after deleted events to the first
// one that is kept, and returns the entry. If there is none, the returned entry belongs to
// another entity.
func (s *entityReader) seek(tx *bolt.Tx, index *bolt.Cursor) (k, v []byte, err error) {
	k, v, before, err := bucketIndex.find(index, s.at(s.next))
	if err != nil {
		return nil, nil, s.corrupt(err, s.next, 0)
	}
	version, ok := s.versionOf(k)
	last, behind := s.versionOf(before)
	switch {
	case !ok && s.dense && last+1 != s.next:
		// The event with the version of a snapshot exists if it is the last event, because
		// the last event is never deleted. An entity with a saved state has no events.
		if behind || bucketState.open(tx).Get(s.prefix) == nil {
			return nil, nil, s.corrupt(gap(last+1, s.next), s.next, 0)
		}
	case ok && version != s.next && behind:
		return nil, nil, s.corrupt(gap(s.next, version), s.next, 0)
	case ok && version != s.next && s.dense:
		return nil, nil, storecore.ErrDeleted
	case ok:
		s.next = version
	}
	return k, v, nil
}

// end returns the last version of the stream.
func (s *entityReader) end(index *bolt.Cursor) (store.Version, error) {
	_, _, before, err := bucketIndex.find(index, s.at(lastUnknown))
	if err != nil {
		return 0, s.corrupt(err, 0, 0)
	}
	version, _ := s.versionOf(before)
	return version, nil
}

// copyEvent adds the record at position n to the page, with the position as its key, and
// returns n. The argument at is the position of the cursor, or 0. The events of a batch are
// neighbours, so a cursor at n-1 takes one step instead of a search.
func copyEvent(log *bolt.Cursor, p *storecore.Page, at, n uint64) (uint64, error) {
	var want [8]byte
	binary.BigEndian.PutUint64(want[:], n)
	var k, v []byte
	if at != 0 && n == at+1 {
		k, v = log.Next()
	} else {
		k, v = log.Seek(want[:])
	}
	if !bytes.Equal(k, want[:]) {
		return 0, missing()
	}
	p.Add(k, v)
	return n, nil
}

// yield yields the events of the page and of all pages after it.
func (s *entityReader) yield(ctx context.Context, p *storecore.Page, yield func(*store.Event, error) bool) error {
	version := s.next - store.Version(len(p.Rows))
	for {
		for _, r := range p.Rows {
			position := store.Position(binary.BigEndian.Uint64(p.Key(r)))
			err := p.Decoder.Event(p.Value(r), &p.Event)
			if err == nil && (p.Event.Key != s.key || p.Event.Version != version || p.Event.Position != position) {
				err = misplaced(&p.Event)
			}
			if err != nil {
				return s.corrupt(err, version, position)
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
		err := s.log.view(ctx, func(tx *bolt.Tx) error { return s.fill(tx, p) })
		if err != nil {
			return err
		}
		version = s.next - store.Version(len(p.Rows))
	}
}

// corrupt adds the wanted entity, version and position to an error about a corrupt record.
func (s *entityReader) corrupt(err error, version store.Version, position store.Position) error {
	if err == nil {
		return nil
	}
	if c, ok := errors.AsType[*store.CorruptError](err); ok {
		c.Key, c.Version, c.Position = s.key, version, position
	}
	return s.log.locate(err)
}

// named adds the entity to an error about damage found by bbolt.
func (s *entityReader) named(err error) error {
	if c, ok := errors.AsType[*store.CorruptError](err); ok && c.Key.IsZero() {
		c.Key = s.key
	}
	return err
}

func gap(from, to store.Version) error {
	return &store.CorruptError{
		What: "event", Where: "bucket index",
		Reason: fmt.Sprintf("the versions from %d to %d are missing", from, to-1),
	}
}

// misplaced returns the error for an event that is intact but not the wanted one.
func misplaced(e *store.Event) error {
	return &store.CorruptError{
		What:   "event",
		Reason: fmt.Sprintf("found version %d of %v, position %v, in its place", e.Version, e.Key, e.Position),
	}
}

// ---- events of a partition

// Scan implements [store.Log]. It ends at the head that the partition had when the iteration
// began.
func (l *Log) Scan(ctx context.Context, q store.Query) iter.Seq2[*store.Event, error] {
	return func(yield func(*store.Event, error) bool) {
		p := storecore.NewPage()
		defer p.Release()
		if err := l.scan(ctx, p, &q, yield); err != nil {
			yield(nil, fmt.Errorf("scan after %v: %w", q.After, err))
		}
	}
}

func (l *Log) scan(ctx context.Context, p *storecore.Page, q *store.Query, yield func(*store.Event, error) bool) error {
	partition := q.After.Partition()
	if partition >= len(l.heads) {
		return fmt.Errorf("%w: partition %d of a log with %d", store.ErrInvalid, partition, len(l.heads))
	}
	last := store.NewPosition(partition, l.heads[partition].Load())
	if q.Through != 0 {
		if q.Through.Partition() != partition {
			return fmt.Errorf("%w: it ends in another partition, at %v", store.ErrInvalid, q.Through)
		}
		last = min(last, q.Through)
	}
	if last <= q.After { // an ended context or a closed log is still an error
		return l.view(ctx, func(*bolt.Tx) error { return nil })
	}
	for next := q.After + 1; next <= last; {
		from := next
		err := l.view(ctx, func(tx *bolt.Tx) (err error) {
			next, err = l.fillScan(tx, p, from, last)
			return err
		})
		if err != nil {
			return err
		}
		for _, r := range p.Rows {
			position := store.Position(binary.BigEndian.Uint64(p.Key(r)))
			err := p.Decoder.Event(p.Value(r), &p.Event)
			if err == nil && p.Event.Position != position {
				err = misplaced(&p.Event)
			}
			if err != nil {
				return l.corruptAt(err, position)
			}
			if err := ctx.Err(); err != nil {
				return err
			}
			if q.Match(&p.Event) && !yield(&p.Event, nil) {
				return nil
			}
		}
	}
	return nil
}

// fillScan copies the next page of a partition and returns the position of the next page.
// Positions have no gaps unless events have been deleted. The last event of a partition is
// never deleted, because it is the last event of its entity.
func (l *Log) fillScan(tx *bolt.Tx, p *storecore.Page, next, last store.Position) (store.Position, error) {
	p.Reset()
	c := bucketLog.open(tx).Cursor()
	k, v := c.Seek(be64(uint64(next)))
	if positionOf(k) > next && l.sparse.Load() {
		// As in find, a damaged key before this place could hide events. The key of the event
		// that the reader has just read cannot, because the reader continues after it.
		if before, v := c.Prev(); before != nil && positionOf(before)+1 != next {
			err := p.Decoder.Event(v, &p.Event)
			if err != nil || p.Event.Position != positionOf(before) || p.Event.Position >= next {
				return 0, l.corruptAt(missing(), next)
			}
		}
		k, v = c.Seek(be64(uint64(next)))
	}
	for ; ; k, v = c.Next() {
		position := positionOf(k)
		if k == nil || position < next || (position > next && !l.sparse.Load()) {
			return 0, l.corruptAt(missing(), next)
		}
		if position > last {
			if after, _ := c.Next(); positionOf(after) <= position { // see step
				return 0, l.corruptAt(missing(), next)
			}
			return last + 1, nil
		}
		p.Add(k, v)
		next = position + 1
		if next > last || p.Full() {
			return next, nil
		}
	}
}

// positionOf returns the position in a key of log.
func positionOf(k []byte) store.Position {
	if len(k) != 8 {
		return math.MaxUint64
	}
	return store.Position(binary.BigEndian.Uint64(k))
}

func missing() error {
	return &store.CorruptError{What: "event", Where: "bucket log", Reason: "it is missing"}
}

func (l *Log) corruptAt(err error, position store.Position) error {
	if c, ok := errors.AsType[*store.CorruptError](err); ok {
		c.Position = position
	}
	return l.locate(err)
}
