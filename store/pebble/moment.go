package pebble

import (
	"bytes"
	"context"
	"errors"
	"slices"

	"github.com/cockroachdb/pebble/v2"

	"github.com/perdure/perdure/internal/storekit"
	"github.com/perdure/perdure/store"
)

// A moment is the log as it was after one commit, for those who read all of it.
// It is used by one goroutine at a time.
//
// While it is held, compactions keep what has been replaced since. Closing the
// log lets go of it; then reads end with [store.ErrClosed].
type moment struct {
	log      *Log
	snapshot *snapshot // nil once let go of; guarded by viewMu of the log
	counters counters
	heads    []uint64
}

// moment begins a read of the whole log. The caller closes it.
func (l *Log) moment(ctx context.Context) (*moment, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	// So that snapshot, counters and heads are those of one commit, and no Close
	// runs meanwhile.
	l.writing.Lock()
	defer l.writing.Unlock()
	if err := l.usable(); err != nil {
		return nil, err
	}
	m := &moment{log: l, counters: l.writer.durable, heads: make([]uint64, len(l.heads))}
	for i := range l.heads {
		m.heads[i] = l.heads[i].Load()
	}
	l.viewMu.Lock()
	defer l.viewMu.Unlock()
	m.snapshot = l.snapshot
	m.snapshot.refs++
	if l.moments == nil {
		l.moments = make(map[*moment]struct{})
	}
	l.moments[m] = struct{}{}
	return m, nil
}

// Close lets go of the moment. It may be called more than once.
func (m *moment) Close() error {
	l := m.log
	l.reading.RLock()
	defer l.reading.RUnlock()
	return l.guard(m.letGo)
}

func (m *moment) letGo() error {
	l := m.log
	l.viewMu.Lock()
	s := m.snapshot
	m.snapshot = nil
	delete(l.moments, m)
	l.viewMu.Unlock()
	if l.broken.Load() != nil {
		return nil // Pebble's locks may never come free
	}
	return l.release(s)
}

// letGoOfMoments lets go of all moments that are held. The caller holds reading.
func (l *Log) letGoOfMoments() (err error) {
	l.viewMu.Lock()
	var held []*moment
	for m := range l.moments {
		held = append(held, m)
	}
	l.viewMu.Unlock()
	for _, m := range held {
		err = errors.Join(err, m.letGo())
	}
	return err
}

// view runs fn on the log as it was at the moment.
func (m *moment) view(ctx context.Context, fn func(r pebble.Reader) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	l := m.log
	l.reading.RLock()
	defer l.reading.RUnlock()
	if err := l.usable(); err != nil {
		return err
	}
	l.viewMu.Lock()
	s := m.snapshot
	l.viewMu.Unlock()
	if s == nil {
		return store.ErrClosed
	}
	return l.guard(func() error { return fn(s.Snapshot) })
}

// find returns a copy of the value under a key, or nil.
func (m *moment) find(ctx context.Context, k []byte) (v []byte, err error) {
	err = m.view(ctx, func(r pebble.Reader) error {
		v, err = get(r, k)
		return err
	})
	return v, err
}

// entries calls yield with all entries from lower to below upper until it
// returns false. An entry is valid until yield returns. Damage is an error
// without an entry; if yield returns true, the iteration goes on behind it. Any
// other error ends the iteration.
func (m *moment) entries(ctx context.Context, lower, upper []byte, yield func(k, v []byte, err error) bool) {
	p := storekit.NewPage()
	defer p.Release()
	for from := lower; from != nil; {
		var next []byte
		p.Reset() // for a view that fails before it reads
		err := m.view(ctx, func(r pebble.Reader) (err error) {
			next, err = fillEntries(r, p, from, upper)
			return err
		})
		last := from
		for _, r := range p.Rows {
			if !yield(p.Key(r), p.Value(r), nil) {
				return
			}
			last = p.Key(r)
		}
		if err != nil {
			if !yield(nil, nil, err) || !errors.Is(err, store.ErrCorrupt) {
				return
			}
			if next, err = m.behind(ctx, last, upper); err != nil {
				yield(nil, nil, err)
				return
			}
		}
		from = next
	}
}

// fillEntries copies a page of entries to an empty one and returns the key to go on with, or
// nil. What it has copied before an error is good.
func fillEntries(r pebble.Reader, p *storekit.Page, from, upper []byte) (next []byte, err error) {
	return fillWith(r, p, from, upper, func(_, v []byte) ([]byte, error) { return v, nil })
}

// fillWith is fillEntries for what keep makes of each value.
func fillWith(r pebble.Reader, p *storekit.Page, from, upper []byte, keep func(k, v []byte) ([]byte, error)) (next []byte, err error) {
	err = iterate(r, from, upper, func(c *pebble.Iterator) error {
		for ok := c.First(); ok; ok = c.Next() {
			if p.Full() {
				next = bytes.Clone(c.Key())
				return nil
			}
			v, err := c.ValueAndErr()
			if err == nil {
				v, err = keep(c.Key(), v)
			}
			if err != nil {
				return err
			}
			p.Add(c.Key(), v)
		}
		return nil
	})
	return next, err
}

// behind returns where to go on after damage that comes after a key: at the first
// key that can be read before the next table begins or ends, or there, since the tables
// are what Pebble finds without reading a damaged one. It returns nil if there is none.
func (m *moment) behind(ctx context.Context, k, upper []byte) (next []byte, err error) {
	next, err = m.nextTable(ctx, k, upper)
	if err != nil {
		return nil, err
	}
	end := next
	if end == nil {
		end = upper
	}
	var failure error
	within := pass(k, end, func(from []byte) (first []byte, ok bool) {
		err := m.view(ctx, func(r pebble.Reader) error {
			return iterate(r, from, end, func(c *pebble.Iterator) error {
				if c.First() {
					first = bytes.Clone(c.Key())
					_, err := c.ValueAndErr()
					return err
				}
				return nil
			})
		})
		if err != nil && !errors.Is(err, store.ErrCorrupt) {
			failure = err
		}
		return first, err == nil
	})
	if within != nil {
		next = within
	}
	return next, failure
}

// nextTable returns where the next table begins or ends after a key, or nil.
func (m *moment) nextTable(ctx context.Context, k, upper []byte) (next []byte, err error) {
	err = m.view(ctx, func(pebble.Reader) error {
		levels, err := m.log.db.SSTables()
		if err != nil {
			return err
		}
		for _, t := range slices.Concat(levels...) {
			for _, at := range [][]byte{t.Smallest.UserKey, t.Largest.UserKey, append(bytes.Clone(t.Largest.UserKey), 0)} {
				if bytes.Compare(at, k) > 0 && bytes.Compare(at, upper) < 0 && (next == nil || bytes.Compare(at, next) < 0) {
					next = bytes.Clone(at)
				}
			}
		}
		return nil
	})
	return next, err
}
