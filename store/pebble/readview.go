package pebble

import (
	"bytes"
	"context"
	"errors"
	"slices"

	"github.com/cockroachdb/pebble/v2"

	"github.com/perdure/perdure/internal/storecore"
	"github.com/perdure/perdure/store"
)

// A readView is the log as it is after one commit, for a reader of the whole log. Only one
// goroutine may use it at a time.
//
// While a read view is open, compactions keep the entries that were replaced since. Closing
// the log releases the view; reads then end with [store.ErrClosed].
type readView struct {
	log      *Log
	snapshot *snapshot // nil once released; guarded by viewMu of the log
	counters counters
	heads    []uint64
}

// readView opens a read view. The caller must close it.
func (l *Log) readView(ctx context.Context) (*readView, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	// The lock makes snapshot, counters and heads belong to the same commit, and keeps Close
	// from running at the same time.
	l.writing.Lock()
	defer l.writing.Unlock()
	if err := l.usable(); err != nil {
		return nil, err
	}
	m := &readView{log: l, counters: l.writer.durable, heads: make([]uint64, len(l.heads))}
	for i := range l.heads {
		m.heads[i] = l.heads[i].Load()
	}
	l.viewMu.Lock()
	defer l.viewMu.Unlock()
	m.snapshot = l.snapshot
	m.snapshot.refs++
	if l.views == nil {
		l.views = make(map[*readView]struct{})
	}
	l.views[m] = struct{}{}
	return m, nil
}

// Close releases the read view. It may be called more than once.
func (m *readView) Close() error {
	l := m.log
	l.reading.RLock()
	defer l.reading.RUnlock()
	return l.guard(m.release)
}

func (m *readView) release() error {
	l := m.log
	l.viewMu.Lock()
	s := m.snapshot
	m.snapshot = nil
	delete(l.views, m)
	l.viewMu.Unlock()
	if l.broken.Load() != nil {
		return nil // some of Pebble's locks may stay locked forever
	}
	return l.release(s)
}

// releaseViews releases all open read views. The caller must hold reading.
func (l *Log) releaseViews() (err error) {
	l.viewMu.Lock()
	var held []*readView
	for m := range l.views {
		held = append(held, m)
	}
	l.viewMu.Unlock()
	for _, m := range held {
		err = errors.Join(err, m.release())
	}
	return err
}

// view runs fn on the read view's snapshot.
func (m *readView) view(ctx context.Context, fn func(r pebble.Reader) error) error {
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
func (m *readView) find(ctx context.Context, k []byte) (v []byte, err error) {
	err = m.view(ctx, func(r pebble.Reader) error {
		v, err = get(r, k)
		return err
	})
	return v, err
}

// entries calls yield with all entries from lower up to, but not including, upper, until
// yield returns false. An entry is valid until yield returns. Damage is an error without an
// entry; if yield returns true, the iteration continues after the damage. Any other error
// ends the iteration.
func (m *readView) entries(ctx context.Context, lower, upper []byte, yield func(k, v []byte, err error) bool) {
	p := storecore.NewPage()
	defer p.Release()
	for from := lower; from != nil; {
		var next []byte
		p.Reset() // needed if the view fails before it reads
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

// fillEntries copies a page of entries to an empty page. It returns the key of the next page,
// or nil. The entries copied before an error are valid.
func fillEntries(r pebble.Reader, p *storecore.Page, from, upper []byte) (next []byte, err error) {
	return fillWith(r, p, from, upper, func(_, v []byte) ([]byte, error) { return v, nil })
}

// fillWith is like fillEntries, but stores the result of keep in place of each value.
func fillWith(r pebble.Reader, p *storecore.Page, from, upper []byte, keep func(k, v []byte) ([]byte, error)) (next []byte, err error) {
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

// behind returns the key at which to continue after damage that comes after k: the first
// readable key before the next boundary of a table, or else that boundary. Pebble knows the
// boundaries of tables without reading a damaged table. behind returns nil if there is no
// such key.
func (m *readView) behind(ctx context.Context, k, upper []byte) (next []byte, err error) {
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

// nextTable returns the first boundary of a table after a key, or nil.
func (m *readView) nextTable(ctx context.Context, k, upper []byte) (next []byte, err error) {
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
