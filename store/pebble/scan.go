package pebble

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"

	"github.com/cockroachdb/pebble/v2"

	"github.com/perdure/perdure/internal/storecore"
	"github.com/perdure/perdure/store"
)

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
		return l.view(ctx, func(pebble.Reader) error { return nil })
	}
	s := scanner{log: l, query: q, page: p, next: q.After + 1, last: last, yield: yield}
	for s.next <= s.last && !s.done {
		err := l.view(ctx, s.fill)
		// Load sparse after the read: it is set before a deletion becomes visible.
		s.sparse = l.sparse.Load()
		if err != nil {
			return err
		}
		for _, r := range p.Rows {
			if err := s.blob(ctx, p.Key(r), p.Value(r)); err != nil || s.done {
				return err
			}
		}
	}
	return nil
}

// A scanner yields the events of a partition from next to last.
type scanner struct {
	log    *Log
	query  *store.Query
	page   *storecore.Page
	next   store.Position
	last   store.Position
	sparse bool // events may have been deleted
	done   bool // the consumer has stopped the iteration
	yield  func(*store.Event, error) bool
}

// fill copies the next page of blobs. The last blob of a partition always exists, because the
// last event of a partition is also the last event of its entity, which is never deleted. So
// for every position up to last there is a blob at or after it.
func (s *scanner) fill(r pebble.Reader) error {
	s.page.Reset()
	upper := append(logKey(store.LastPosition(s.next.Partition())), 0)
	return iterate(r, logKey(s.next), upper, func(c *pebble.Iterator) error {
		ok := c.First()
		if !ok && c.Error() == nil {
			return s.missing(s.next)
		}
		for ; ok && !s.page.Full(); ok = c.Next() {
			v, err := c.ValueAndErr()
			if err != nil {
				return err
			}
			s.page.Add(c.Key(), v)
			if positionOf(c.Key()) >= s.last {
				break
			}
		}
		return nil
	})
}

// blob yields the matching events of a blob, and moves next behind the blob.
//
// Positions are dense unless events have been deleted.
func (s *scanner) blob(ctx context.Context, k, v []byte) (err error) {
	event, end := &s.page.Event, positionOf(k)
	fault := events(end, v, func(at store.Position, sealed []byte) bool {
		switch {
		case at < s.next:
			return true // before the start of the scan
		case at > s.last:
			s.next = s.last + 1
			return false
		case at > s.next && !s.sparse:
			err = s.missing(s.next)
			return false
		}
		err = s.page.Decoder.Event(sealed, event)
		if err == nil && event.Position != at {
			err = misplaced(event)
		}
		if err != nil {
			err = s.log.corruptAt(err, at)
			return false
		}
		s.next = at + 1
		if err = ctx.Err(); err == nil && s.query.Match(event) {
			s.done = !s.yield(event, nil)
		}
		return err == nil && !s.done
	})
	switch {
	case err != nil || s.done:
		return err
	case fault != nil:
		return s.log.corruptAt(corruptKey(k, fault.Error()), s.next)
	case s.next <= min(end, s.last) && !s.sparse:
		return s.missing(s.next)
	}
	s.next = max(s.next, end+1)
	return nil
}

func (s *scanner) missing(p store.Position) error {
	return s.log.corruptAt(&store.CorruptError{What: "event", Reason: "it is missing"}, p)
}

// positionOf returns the position in a key of bucketLog.
func positionOf(k []byte) store.Position { return store.Position(binary.BigEndian.Uint64(k[1:])) }

func (l *Log) corruptAt(err error, position store.Position) error {
	if c, ok := errors.AsType[*store.CorruptError](err); ok {
		c.Position = position
	}
	return l.locate(err)
}
