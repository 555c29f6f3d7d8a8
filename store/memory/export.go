package memory

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"

	"github.com/perdure/perdure/store"
)

// An export is a consistent read view of a log. Events and states are not copied, since
// they never change; the lists of them are.
type export struct {
	origin   store.Origin
	stats    store.Stats
	sections []section
	chunks   [][]byte
	entities []exported   // by kind and id
	rows     []*row       // by sequence
	claims   []claimed    // by space and value
	marks    []checkpoint // by name and partition
}

// An exported entity is an entity in a read view.
type exported struct {
	history
	receipts []named
}

type claimed struct {
	space string
	named
}

type checkpoint struct {
	checkpointKey
	sealed []byte
}

// Export implements [store.Exporter]. It copies the lists of all entities, messages and
// names under the lock; commits wait during that time.
func (l *Log) Export(ctx context.Context) (store.Export, error) {
	x, err := l.export(ctx)
	if err != nil {
		return nil, fmt.Errorf("export: %w", err)
	}
	slices.SortFunc(x.entities, func(a, b exported) int { return compareKeys(a.key, b.key) })
	slices.SortFunc(x.rows, func(a, b *row) int { return cmp.Compare(a.sequence, b.sequence) })
	slices.SortFunc(x.claims, func(a, b claimed) int {
		return cmp.Or(strings.Compare(a.space, b.space), strings.Compare(a.name, b.name))
	})
	slices.SortFunc(x.marks, func(a, b checkpoint) int {
		return cmp.Or(strings.Compare(a.name, b.name), cmp.Compare(a.partition, b.partition))
	})
	return x, nil
}

func (l *Log) export(ctx context.Context) (*export, error) {
	unlock, err := l.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	x := &export{stats: l.figures(), chunks: l.arena.chunks, origin: store.Origin{Sequence: l.outbox.last}}
	for i := range l.partitions {
		p := &l.partitions[i]
		x.origin.Heads = append(x.origin.Heads, store.NewPosition(i, p.head))
		x.sections = append(x.sections, section{pages: p.pages, chunks: x.chunks, to: p.head})
	}
	for name, k := range l.kinds {
		for id, e := range k.entities {
			at := exported{history: history{key: store.Key{Kind: name, ID: id}, version: e.version, events: e.events, chunks: x.chunks}}
			if e.rare != nil {
				at.states = e.rare.states
				at.receipts = e.rare.receipts.all()
			}
			x.entities = append(x.entities, at)
		}
	}
	x.rows = slices.AppendSeq(make([]*row, 0, len(l.outbox.rows)), maps.Values(l.outbox.rows))
	for space, names := range l.claims {
		for _, n := range names.all() {
			x.claims = append(x.claims, claimed{space, n})
		}
	}
	for key, sealed := range l.checkpoints {
		x.marks = append(x.marks, checkpoint{key, sealed})
	}
	return x, nil
}

// all returns a copy of the elements in order.
func (o *ordered[T]) all() []T {
	all := make([]T, 0, o.length)
	for _, b := range o.blocks {
		all = append(all, b...)
	}
	return all
}

func compareKeys(a, b store.Key) int {
	return cmp.Or(strings.Compare(a.Kind, b.Kind), strings.Compare(a.ID, b.ID))
}

func (x *export) Origin() store.Origin { return x.origin }
func (x *export) Stats() store.Stats   { return x.stats }
func (x *export) Close() error         { return nil }

// Records implements [store.Export].
func (x *export) Records(ctx context.Context, s store.RecordKind) iter.Seq2[store.Record, error] {
	return func(yield func(store.Record, error) bool) {
		n := 0
		// hand yields one decoded record, and checks the context from time to time.
		hand := func(r store.Record, err error) bool {
			if n++; n%contextEvery == 0 && ctx.Err() != nil {
				yield(nil, fmt.Errorf("export %vs: %w", s, ctx.Err()))
				return false
			}
			if err != nil {
				return yield(nil, fmt.Errorf("export %vs: %w", s, err))
			}
			return yield(r, nil)
		}
		if err := ctx.Err(); err != nil {
			yield(nil, fmt.Errorf("export %vs: %w", s, err))
			return
		}
		x.each(s, hand)
	}
}

func (x *export) each(s store.RecordKind, hand func(store.Record, error) bool) {
	switch s {
	case store.KindEvent:
		x.events(hand)
	case store.KindVersion:
		x.versions(hand)
	case store.KindState:
		x.states(hand)
	case store.KindMessage:
		for _, r := range x.rows {
			m, err := store.DecodeMessage(r.sealed)
			if err == nil && m.Sequence != r.sequence {
				err = &store.CorruptError{What: "message", Reason: fmt.Sprintf("found message %d in its place", m.Sequence)}
			}
			err = ofRecord(err, &store.Message{Sequence: r.sequence})
			if !hand(m, about(err, fmt.Sprintf("outbox message %d", r.sequence), store.Key{})) {
				return
			}
		}
	case store.KindReceipt:
		for i := range x.entities {
			for _, n := range x.entities[i].receipts {
				r, err := store.DecodeReceipt(n.sealed)
				err = ofRecord(err, &store.Receipt{Entity: x.entities[i].key, Name: n.name})
				if !hand(r, about(err, fmt.Sprintf("receipt %q", n.name), x.entities[i].key)) {
					return
				}
			}
		}
	case store.KindClaim:
		for _, n := range x.claims {
			c, err := store.DecodeClaimed(n.sealed)
			err = ofRecord(err, &store.Claimed{Claim: store.Claim{Space: n.space, Value: n.name}})
			if !hand(c, about(err, fmt.Sprintf("claim %q in %q", n.name, n.space), store.Key{})) {
				return
			}
		}
	case store.KindCheckpoint:
		for _, n := range x.marks {
			b, err := store.DecodeCheckpoint(n.sealed)
			err = ofRecord(err, &store.Checkpoint{Name: n.name, Position: store.NewPosition(n.partition, 0)})
			if !hand(b, about(err, fmt.Sprintf("checkpoint %q of partition %d", n.name, n.partition), store.Key{})) {
				return
			}
		}
	}
}

// ofRecord adds the record to an error about a corrupt record.
func ofRecord(err error, r store.Record) error {
	if c, ok := errors.AsType[*store.CorruptError](err); ok {
		c.Record = r
	}
	return err
}

// about wraps the error about a record that is found by a name.
func about(err error, what string, key store.Key) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", what, where(err, key, 0, 0))
}

func (x *export) events(hand func(store.Record, error) bool) {
	var d store.Decoder
	var e store.Event
	for number, s := range x.sections {
		for i := range s.to {
			at := s.pages[i/pageRefs][i%pageRefs]
			if at.length == 0 {
				continue
			}
			position := store.NewPosition(number, i+1)
			err := d.Event(at.bytes(x.chunks), &e)
			if err == nil && e.Position != position {
				err = misplaced(&e)
			}
			if err != nil {
				err = where(err, store.Key{}, 0, position)
			}
			if !hand(&e, err) {
				return
			}
		}
	}
}

// versions decodes each event to get its position, because an entity's list of events has
// no positions.
func (x *export) versions(hand func(store.Record, error) bool) {
	var d store.Decoder
	var e store.Event
	for i := range x.entities {
		h := &x.entities[i].history
		for n, at := range h.events {
			version := h.first() + store.Version(n)
			err := d.Event(at.bytes(x.chunks), &e)
			if err == nil && (e.Key != h.key || e.Version != version) {
				err = misplaced(&e)
			}
			if err != nil {
				err = where(err, h.key, version, 0)
			}
			if !hand(&store.Event{Key: h.key, Version: version, Position: e.Position}, err) {
				return
			}
		}
	}
}

func (x *export) states(hand func(store.Record, error) bool) {
	var d store.Decoder
	var s store.State
	for i := range x.entities {
		h := &x.entities[i].history
		for _, kept := range h.states {
			err := d.State(kept.sealed, &s)
			if err == nil && (s.Key != h.key || s.Version != kept.version) {
				err = &store.CorruptError{What: "state", Reason: fmt.Sprintf("found version %d of %v in its place", s.Version, s.Key)}
			}
			if err != nil {
				damaged := &store.State{Key: h.key, Version: kept.version}
				if len(h.events) > 0 {
					damaged.Position = 1
				}
				err = where(ofRecord(err, damaged), h.key, kept.version, 0)
			}
			if !hand(&s, err) {
				return
			}
		}
	}
}

// VerifyFiles implements [store.Verifier]. There are no files: it compares the lists of the
// log with the records in them.
func (l *Log) VerifyFiles(ctx context.Context, fault func(error)) error {
	unlock, err := l.begin(ctx)
	if err != nil {
		return fmt.Errorf("verify: %w", err)
	}
	defer unlock()
	wrong := func(what string, key store.Key, format string, args ...any) {
		fault(&store.CorruptError{What: what, Where: "memory", Key: key, Reason: fmt.Sprintf(format, args...)})
	}
	pending, parked := l.outbox.pending.all(), l.outbox.parked.all()
	if n := len(pending) + len(parked); n != len(l.outbox.rows) {
		wrong("outbox", store.Key{}, "the lists name %d messages, there are %d", n, len(l.outbox.rows))
	}
	for _, r := range l.outbox.halted.all() {
		if l.outbox.rows[r.sequence] != r || !r.halted {
			wrong("outbox", store.Key{}, "the list of halted messages names message %d, which is not halted", r.sequence)
		}
	}
	for i, r := range append(pending, parked...) {
		m, err := store.DecodeMessage(r.sealed)
		if err != nil {
			continue // an export reports it
		}
		if r.parked != (i >= len(pending)) || m.Parked != r.parked || dueKey(m.Due) != r.due || l.outbox.rows[r.sequence] != r {
			wrong("message", m.Source, "message %d is not where it belongs in the lists", r.sequence)
		}
		if m.Halted != r.halted {
			wrong("message", m.Source, "message %d is not where it belongs in the list of halted ones", r.sequence)
		}
		if m.Timer != "" && (r.owner.rare == nil || r.owner.rare.timers[m.Timer] != m.Sequence) {
			wrong("message", m.Source, "timer %q does not name message %d", m.Timer, r.sequence)
		}
	}
	for name, k := range l.kinds {
		for id, e := range k.entities {
			if e.rare == nil {
				continue
			}
			for timer, sequence := range e.rare.timers {
				if r := l.outbox.rows[sequence]; r == nil || r.timer != timer || r.owner != e {
					wrong("timer", store.Key{Kind: name, ID: id}, "timer %q names message %d, which is not it", timer, sequence)
				}
			}
		}
	}
	return nil
}
