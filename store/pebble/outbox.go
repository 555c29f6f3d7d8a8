package pebble

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"

	"github.com/cockroachdb/pebble/v2"

	"github.com/perdure/perdure/internal/storecore"
	"github.com/perdure/perdure/store"
)

// A message of the outbox has one entry under its sequence, and one in the list of due
// messages if it is pending or in the list of parked ones if it is not. It has another entry
// in the list of halted messages if it is halted, and one in the list of timers if it is a
// timer.

func (w *writer) settle(settle []store.Settlement) error {
	for i := range settle {
		s := &settle[i]
		old, err := w.message(s.Sequence)
		if err != nil {
			return err
		}
		if old == nil || s.Misses(old) {
			continue
		}
		if err := w.removeMessage(old); err != nil {
			return err
		}
		if s.Message != nil {
			m := *s.Message
			m.Sequence = s.Sequence
			if err := w.putMessage(&m); err != nil {
				return err
			}
		}
	}
	return nil
}

// cancel removes the timer of an entity if it is set.
func (w *writer) cancel(key store.Key, name string) error {
	m, err := w.timer(key, name)
	if m == nil || err != nil {
		return err
	}
	return w.removeMessage(m)
}

func (w *writer) enqueue(b *store.Batch, r *store.Result) error {
	for i := range b.Enqueue {
		m := &b.Enqueue[i]
		if m.Timer != "" {
			if err := w.cancel(b.Key, m.Timer); err != nil {
				return err
			}
		}
		w.counters.sequence++
		m.Sequence, m.Source, m.Time = w.counters.sequence, b.Key, w.now
		if err := w.putMessage(m); err != nil {
			return err
		}
		r.Sequence = m.Sequence
	}
	return nil
}

func (w *writer) putMessage(m *store.Message) error {
	k := sequenceKey(bucketMessage, m.Sequence)
	if err := w.put(k, store.AppendMessage(w.sum(k), m)); err != nil {
		return err
	}
	if m.Timer != "" {
		if err := w.putNumber(nameKey(bucketTimer, m.Source, m.Timer), m.Sequence); err != nil {
			return err
		}
	}
	if m.Halted {
		if err := w.putNumber(haltedKey(m), m.Sequence); err != nil {
			return err
		}
	}
	if m.Parked {
		w.counters.parked++
		return w.putNumber(sequenceKey(bucketParked, m.Sequence), m.Sequence)
	}
	w.counters.pending++
	return w.putNumber(dueKey(m), m.Sequence)
}

func (w *writer) removeMessage(m *store.Message) error {
	if err := w.delete(sequenceKey(bucketMessage, m.Sequence)); err != nil {
		return err
	}
	if m.Timer != "" {
		if err := w.delete(nameKey(bucketTimer, m.Source, m.Timer)); err != nil {
			return err
		}
	}
	if m.Halted {
		if err := w.delete(haltedKey(m)); err != nil {
			return err
		}
	}
	if m.Parked {
		w.counters.parked--
		return w.delete(sequenceKey(bucketParked, m.Sequence))
	}
	w.counters.pending--
	return w.delete(dueKey(m))
}

// message returns a message of the outbox, or nil if it does not exist.
func (w *writer) message(sequence uint64) (*store.Message, error) {
	record, err := getRecord(w.reader(), sequenceKey(bucketMessage, sequence))
	if record == nil || err != nil {
		return nil, err
	}
	return decodeMessage(sequence, record)
}

// timer returns the message of a timer, or nil if the timer is not set.
func (w *writer) timer(key store.Key, name string) (*store.Message, error) {
	k := nameKey(bucketTimer, key, name)
	sequence, ok, err := getNumber(w.reader(), k)
	if !ok || err != nil {
		return nil, err
	}
	m, err := w.message(sequence)
	if err == nil && (m == nil || m.Source != key || m.Timer != name) {
		err = corruptKey(k, fmt.Sprintf("message %d is not this timer", sequence))
	}
	return m, err
}

func decodeMessage(sequence uint64, record []byte) (*store.Message, error) {
	if len(record) == 0 {
		return nil, corruptKey(sequenceKey(bucketMessage, sequence), "the message is missing or not the one of its key")
	}
	m, err := store.DecodeMessage(record)
	if err == nil && m.Sequence != sequence {
		err = corruptKey(sequenceKey(bucketMessage, sequence), fmt.Sprintf("found message %d in its place", m.Sequence))
	}
	return m, err
}

// Messages implements [store.Outbox]. The iteration may or may not yield messages that are
// added or deleted while it runs.
func (l *Log) Messages(ctx context.Context, q store.MessageQuery) iter.Seq2[*store.Message, error] {
	return l.messages(ctx, q, false)
}

// Undelivered implements [store.Outbox]. The iteration may or may not yield messages that
// are added or deleted while it runs.
func (l *Log) Undelivered(ctx context.Context, q store.MessageQuery) iter.Seq2[*store.Message, error] {
	q.Parked = false
	return l.messages(ctx, q, true)
}

func (l *Log) messages(ctx context.Context, q store.MessageQuery, halted bool) iter.Seq2[*store.Message, error] {
	_, end := bounds(bucketDue)
	o := outboxReader{log: l, end: end, halted: halted}
	o.next = binary.BigEndian.AppendUint64(storecore.AppendDue([]byte{byte(bucketDue)}, q.AfterDue), q.After)
	switch {
	case q.Parked:
		_, o.end = bounds(bucketParked)
		o.next = sequenceKey(bucketParked, q.After)
	case !q.DueBy.IsZero():
		o.end = above(storecore.AppendDueBy([]byte{byte(bucketDue)}, q.DueBy))
	}
	o.next = append(o.next, 0) // the smallest key after it
	return func(yield func(*store.Message, error) bool) {
		o := o
		p := storecore.NewPage()
		defer p.Release()
		for o.next != nil {
			err := l.view(ctx, func(r pebble.Reader) error { return o.fill(r, p) })
			if err != nil {
				yield(nil, fmt.Errorf("outbox: %w", err))
				return
			}
			for _, r := range p.Rows {
				sequence := binary.BigEndian.Uint64(p.Key(r))
				if err := ctx.Err(); err != nil {
					yield(nil, fmt.Errorf("outbox: %w", err))
					return
				}
				m, err := decodeMessage(sequence, p.Value(r))
				if err != nil {
					m, err = nil, fmt.Errorf("outbox message %d: %w", sequence, l.locate(err))
				}
				if !yield(m, err) {
					return
				}
			}
		}
	}
}

// An outboxReader reads the messages of a list, a page at a time.
type outboxReader struct {
	log    *Log
	halted bool   // also read the list of halted messages, merged in order
	next   []byte // next key in the list of due or parked messages; nil at the end
	end    []byte // bound above the last key
}

// fill copies the next page of messages, each under its sequence.
func (o *outboxReader) fill(r pebble.Reader, p *storecore.Page) error {
	p.Reset()
	from := o.next
	o.next = nil
	return iterate(r, from, o.end, func(c *pebble.Iterator) error {
		if !o.halted {
			return o.page(r, p, c, nil)
		}
		from, end := bytes.Clone(from), bytes.Clone(o.end)
		from[0] = byte(bucketHalted)
		if len(end) == 1 {
			_, end = bounds(bucketHalted)
		} else {
			end[0] = byte(bucketHalted)
		}
		return iterate(r, from, end, func(halted *pebble.Iterator) error { return o.page(r, p, c, halted) })
	})
}

// page fills a page from an iterator of the list, and one of the list of halted messages or
// nil.
func (o *outboxReader) page(r pebble.Reader, p *storecore.Page, list, halted *pebble.Iterator) error {
	ok := list.First()
	more := halted != nil && halted.First()
	for ok || more {
		c := list
		if more && (!ok || bytes.Compare(halted.Key()[1:], list.Key()[1:]) < 0) {
			c = halted
		}
		v, err := c.ValueAndErr()
		if err != nil {
			return err
		}
		sequence, fault := storecore.Number(c.Key(), v)
		if fault != nil {
			return corruptKey(c.Key(), fault.Error())
		}
		if p.Full() {
			o.next = bytes.Clone(c.Key())
			if c == halted {
				o.next[0] = byte(bucketDue)
			}
			return nil
		}
		record, err := getRecord(r, sequenceKey(bucketMessage, sequence))
		if err = o.log.translate(err); err != nil && !errors.Is(err, store.ErrCorrupt) {
			return err
		}
		if c != halted || isHalted(record, err) {
			p.Add(binary.BigEndian.AppendUint64(nil, sequence), record) // a damaged message has no record; decodeMessage reports it
		}
		if c == halted {
			more = halted.Next()
		} else {
			ok = list.Next()
		}
	}
	return nil
}

// isHalted reports whether an entry of the list of halted messages counts.
func isHalted(record []byte, failure error) bool {
	if record == nil {
		return failure != nil // damaged
	}
	m, err := store.DecodeMessage(record)
	return err != nil || m.Halted
}
