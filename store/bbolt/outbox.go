package bbolt

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"

	bolt "go.etcd.io/bbolt"

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
	k := be64(m.Sequence)
	if err := w.put(bucketMessage, k, store.AppendMessage(storecore.AppendKeySum(w.room(recordRoom+len(m.Payload)), k), m)); err != nil {
		return err
	}
	if m.Timer != "" {
		if err := w.putNumber(bucketTimer, timerKey(m.Source, m.Timer), m.Sequence); err != nil {
			return err
		}
	}
	if m.Halted {
		if err := w.makeHalted(); err != nil {
			return err
		}
		if err := w.putNumber(bucketHalted, dueKey(m), m.Sequence); err != nil {
			return err
		}
	}
	if m.Parked {
		w.counters.parked++
		return w.putNumber(bucketParked, k, m.Sequence)
	}
	w.counters.pending++
	return w.putNumber(bucketDue, dueKey(m), m.Sequence)
}

func (w *writer) removeMessage(m *store.Message) error {
	k := be64(m.Sequence)
	if err := w.delete(bucketMessage, k); err != nil {
		return err
	}
	if m.Timer != "" {
		if err := w.delete(bucketTimer, timerKey(m.Source, m.Timer)); err != nil {
			return err
		}
	}
	if m.Halted {
		if err := w.makeHalted(); err != nil {
			return err
		}
		if err := w.delete(bucketHalted, dueKey(m)); err != nil {
			return err
		}
	}
	if m.Parked {
		w.counters.parked--
		return w.delete(bucketParked, k)
	}
	w.counters.pending--
	return w.delete(bucketDue, dueKey(m))
}

// makeHalted creates the bucket of halted messages if it does not exist.
func (w *writer) makeHalted() (err error) {
	if w.trees[bucketHalted] == nil {
		w.trees[bucketHalted], err = w.tx.CreateBucketIfNotExists([]byte(bucketHalted.String()))
	}
	return err
}

// message returns a message of the outbox, or nil if it does not exist.
func (w *writer) message(sequence uint64) (*store.Message, error) {
	k := be64(sequence)
	record, err := bucketMessage.getRecord(w.tree(bucketMessage), k)
	if record == nil || err != nil {
		return nil, err
	}
	return decodeMessage(sequence, record)
}

// timer returns the message of a timer, or nil if the timer is not set.
func (w *writer) timer(key store.Key, name string) (*store.Message, error) {
	k := timerKey(key, name)
	sequence, ok, err := bucketTimer.getNumber(w.tree(bucketTimer), k)
	if !ok || err != nil {
		return nil, err
	}
	m, err := w.message(sequence)
	if err == nil && (m == nil || m.Source != key || m.Timer != name) {
		err = bucketTimer.corrupt(k, fmt.Sprintf("message %d is not this timer", sequence))
	}
	return m, err
}

func timerKey(key store.Key, name string) []byte {
	return append(storecore.AppendEntity(nil, key), name...)
}

func dueKey(m *store.Message) []byte {
	return binary.BigEndian.AppendUint64(storecore.AppendDue(nil, m.Due), m.Sequence)
}

func decodeMessage(sequence uint64, record []byte) (*store.Message, error) {
	if len(record) == 0 {
		return nil, bucketMessage.corrupt(be64(sequence), "the message is missing or not the one of its key")
	}
	m, err := store.DecodeMessage(record)
	if err == nil && m.Sequence != sequence {
		err = bucketMessage.corrupt(be64(sequence), fmt.Sprintf("found message %d in its place", m.Sequence))
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
	o := outboxReader{log: l, list: bucketDue, halted: halted}
	o.next = binary.BigEndian.AppendUint64(storecore.AppendDue(nil, q.AfterDue), q.After)
	switch {
	case q.Parked:
		o.list, o.next = bucketParked, be64(q.After)
	case !q.DueBy.IsZero():
		o.through = storecore.AppendDueBy(nil, q.DueBy)
	}
	o.next = append(o.next, 0) // the smallest key after it
	return func(yield func(*store.Message, error) bool) {
		o := o
		p := storecore.NewPage()
		defer p.Release()
		for o.next != nil {
			err := l.view(ctx, func(tx *bolt.Tx) error { return o.fill(tx, p) })
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
	log     *Log
	list    bucket // due or parked
	halted  bool   // also read the list of halted messages, merged in order
	next    []byte // next key in list; nil at the end
	through []byte // last due time to read, or nil for all
}

// fill copies the next page of messages, each under its sequence.
func (o *outboxReader) fill(tx *bolt.Tx, p *storecore.Page) error {
	p.Reset()
	messages := bucketMessage.open(tx)
	list, err := newListReader(o.list, o.list.open(tx), o.next)
	if err != nil {
		return err
	}
	var halted *listReader
	if t := tx.Bucket([]byte(bucketHalted.String())); o.halted && t != nil {
		if halted, err = newListReader(bucketHalted, t, o.next); err != nil {
			return err
		}
	}
	o.next = nil
	for {
		r := list
		if halted != nil && halted.k != nil && (list.k == nil || bytes.Compare(halted.k, list.k) < 0) {
			r = halted
		}
		if r.k == nil {
			return nil
		}
		sequence, fault := storecore.Number(r.k, r.v)
		if fault != nil {
			return r.corrupt(r.k, fault.Error())
		}
		if o.through != nil && bytes.Compare(r.k[:8], o.through) > 0 {
			return r.step()
		}
		if p.Full() {
			o.next = bytes.Clone(r.k)
			return nil
		}
		record, err := bucketMessage.getRecord(messages, be64(sequence))
		if err != nil && !errors.Is(err, store.ErrCorrupt) {
			return err
		}
		if r != halted || isHalted(record, err) {
			p.Add(be64(sequence), record) // a damaged message has no record; decodeMessage reports it
		}
		if err := r.step(); err != nil {
			return err
		}
	}
}

// isHalted reports whether an entry of the list of halted messages counts.
func isHalted(record []byte, failure error) bool {
	if record == nil {
		return failure != nil // damaged
	}
	m, err := store.DecodeMessage(record)
	return err != nil || m.Halted
}

// A listReader iterates over the entries of a list of messages.
type listReader struct {
	bucket
	c    *bolt.Cursor
	k, v []byte // current entry; nil at the end
}

// newListReader returns a reader at the first entry at or above a key.
func newListReader(b bucket, t *bolt.Bucket, from []byte) (*listReader, error) {
	r := &listReader{bucket: b, c: t.Cursor()}
	var err error
	r.k, r.v, _, err = b.find(r.c, from)
	return r, err
}

// step moves to the next entry.
func (r *listReader) step() (err error) {
	r.k, r.v, err = r.bucket.step(r.c, r.k)
	return err
}
