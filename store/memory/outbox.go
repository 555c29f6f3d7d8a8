package memory

import (
	"cmp"
	"context"
	"fmt"
	"iter"
	"math"
	"slices"
	"time"

	"github.com/perdure/perdure/store"
)

// namesPerPage is the number of rows or names that a reader takes under one lock.
const namesPerPage = 128

// An outbox is the outbox of a log. Every row is in rows and in one of pending and parked.
// A halted row is also in halted, and the row of a timer in the timers of its owner.
type outbox struct {
	last    uint64 // sequence of the last message
	rows    map[uint64]*row
	pending ordered[*row] // sorted by due and sequence
	parked  ordered[*row] // sorted by sequence
	halted  ordered[*row] // parked rows that are halted, sorted by due and sequence
}

// A row is a message of the outbox. It never changes.
type row struct {
	due      int64
	sequence uint64
	parked   bool
	halted   bool
	owner    *entity // entity that enqueued the message
	timer    string
	sealed   []byte
}

func newOutbox() outbox {
	return outbox{
		rows:    make(map[uint64]*row),
		pending: ordered[*row]{compare: compareDue},
		halted:  ordered[*row]{compare: compareDue},
		parked:  ordered[*row]{compare: func(a, b *row) int { return cmp.Compare(a.sequence, b.sequence) }},
	}
}

func compareDue(a, b *row) int {
	return cmp.Or(cmp.Compare(a.due, b.due), cmp.Compare(a.sequence, b.sequence))
}

// dueKey returns a key that orders due times. The zero time is first. The first nanosecond
// of 1970 is first too, because a stored record does not distinguish it from the zero time.
func dueKey(due time.Time) int64 {
	if n := nearestNanos(due); n != 0 {
		return n
	}
	return math.MinInt64 // a record stores the first nanosecond of 1970 as no time
}

// nearestNanos returns t in nanoseconds since 1970, or the nearest value that an int64 can
// hold. The zero time gives the lowest value.
func nearestNanos(t time.Time) int64 {
	switch {
	case t.Before(time.Unix(0, math.MinInt64)):
		return math.MinInt64
	case t.After(time.Unix(0, math.MaxInt64)):
		return math.MaxInt64
	}
	return t.UnixNano()
}

func (o *outbox) list(parked bool) *ordered[*row] {
	if parked {
		return &o.parked
	}
	return &o.pending
}

// lists returns the lists that a row is in.
func (o *outbox) lists(r *row) []*ordered[*row] {
	if r.halted {
		return []*ordered[*row]{&o.parked, &o.halted}
	}
	return []*ordered[*row]{o.list(r.parked)}
}

func (o *outbox) put(m *store.Message, owner *entity) {
	r := &row{
		due: dueKey(m.Due), sequence: m.Sequence, parked: m.Parked, halted: m.Halted,
		owner: owner, timer: m.Timer, sealed: store.AppendMessage(nil, m),
	}
	o.rows[r.sequence] = r
	for _, list := range o.lists(r) {
		list.put(r)
	}
	if r.timer != "" {
		x := owner.more()
		if x.timers == nil {
			x.timers = make(map[string]uint64)
		}
		x.timers[r.timer] = r.sequence
	}
}

func (o *outbox) remove(sequence uint64) {
	r := o.rows[sequence]
	if r == nil {
		return
	}
	delete(o.rows, sequence)
	for _, list := range o.lists(r) {
		list.remove(r)
	}
	if r.timer != "" {
		delete(r.owner.rare.timers, r.timer)
	}
}

// checkSettle returns the reason why the settlements of b cannot be applied, or nil. They
// take effect one after another, so a row that one removes does not exist for the next.
func (l *Log) checkSettle(b *store.Batch) error {
	var gone map[uint64]bool
	for i := range b.Settle {
		s := &b.Settle[i]
		r := l.outbox.rows[s.Sequence]
		if r == nil || gone[s.Sequence] {
			if s.Required {
				return &store.MessageGoneError{Sequence: s.Sequence}
			}
			continue
		}
		if s.Message == nil && !s.Conditional {
			if gone == nil {
				gone = make(map[uint64]bool)
			}
			gone[s.Sequence] = true
			continue
		}
		old, err := store.DecodeMessage(r.sealed)
		if err != nil {
			return fmt.Errorf("settle outbox message %d: %w", s.Sequence, where(err, store.Key{}, 0, 0))
		}
		switch {
		case s.Misses(old) && s.Required:
			return &store.MessageGoneError{Sequence: s.Sequence}
		case s.Misses(old):
			continue
		case s.Message == nil:
			if gone == nil {
				gone = make(map[uint64]bool)
			}
			gone[s.Sequence] = true
			continue
		}
		if m := s.Message; m.ID != old.ID || m.Source != old.Source || m.Timer != old.Timer || !m.Time.Equal(old.Time) {
			return fmt.Errorf("settle outbox message %d: %w: the new message has another id, source, timer or time",
				s.Sequence, store.ErrInvalid)
		}
	}
	return nil
}

// misses reports whether a checked settlement counts a row as gone.
func (l *Log) misses(s *store.Settlement, r *row) bool {
	if !s.Conditional {
		return false
	}
	old, err := store.DecodeMessage(r.sealed)
	return err != nil || s.Misses(old)
}

func (l *Log) settle(b *store.Batch) {
	for i := range b.Settle {
		s := &b.Settle[i]
		r := l.outbox.rows[s.Sequence]
		if r == nil || l.misses(s, r) {
			continue
		}
		l.outbox.remove(s.Sequence)
		if s.Message != nil {
			m := *s.Message
			m.Sequence = s.Sequence
			l.outbox.put(&m, r.owner)
		}
	}
}

func (l *Log) cancel(e *entity, names []string) {
	if e == nil || e.rare == nil {
		return
	}
	for _, name := range names {
		l.outbox.remove(e.rare.timers[name]) // no row has sequence 0
	}
}

func (l *Log) enqueue(e *entity, b *store.Batch, r *store.Result) {
	for i := range b.Enqueue {
		m := &b.Enqueue[i]
		if m.Timer != "" {
			l.outbox.remove(e.more().timers[m.Timer])
		}
		l.outbox.last++
		m.Sequence, m.Source, m.Time = l.outbox.last, b.Key, r.Time
		l.outbox.put(m, e)
		r.Sequence = m.Sequence
	}
}

// Messages implements [store.Outbox]. Rows that come or go during the iteration
// may or may not be seen.
func (l *Log) Messages(ctx context.Context, q store.MessageQuery) iter.Seq2[*store.Message, error] {
	return l.messages(ctx, q, false)
}

// Undelivered implements [store.Outbox].
func (l *Log) Undelivered(ctx context.Context, q store.MessageQuery) iter.Seq2[*store.Message, error] {
	q.Parked = false
	return l.messages(ctx, q, true)
}

func (l *Log) messages(ctx context.Context, q store.MessageQuery, halted bool) iter.Seq2[*store.Message, error] {
	return func(yield func(*store.Message, error) bool) {
		page := make([]*row, 0, namesPerPage)
		last := &row{due: dueKey(q.AfterDue), sequence: q.After}
		for {
			var err error
			page, err = l.rowsAbove(ctx, q.Parked, halted, last, page[:0])
			if err != nil {
				yield(nil, fmt.Errorf("outbox: %w", err))
				return
			}
			for _, last = range page {
				if !q.Parked && !q.DueBy.IsZero() && last.due > nearestNanos(q.DueBy) {
					return
				}
				m, err := store.DecodeMessage(last.sealed)
				if err != nil {
					m, err = nil, fmt.Errorf("outbox message %d: %w", last.sequence, where(err, store.Key{}, 0, 0))
				}
				if !yield(m, err) {
					return
				}
			}
			if len(page) < cap(page) {
				return
			}
		}
	}
}

func (l *Log) rowsAbove(ctx context.Context, parked, halted bool, last *row, page []*row) ([]*row, error) {
	unlock, err := l.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	page = l.outbox.list(parked).above(last, page)
	if halted && l.outbox.halted.length > 0 {
		most := cap(page)
		page = append(page, l.outbox.halted.above(last, make([]*row, 0, most))...)
		slices.SortFunc(page, compareDue)
		page = page[:min(len(page), most):most]
	}
	return page, nil
}
