package memory

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/perdure/perdure/store"
)

// A filling is an import into a log.
type filling struct {
	log    *Log
	origin store.Origin
	sort   store.RecordKind // sort of the last record
	failed error
	done   bool
}

// Import implements [store.Importer].
func (l *Log) Import(ctx context.Context, from store.Origin) (store.Import, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	err := ctx.Err()
	if err == nil {
		err = l.usable()
	}
	if err == nil {
		err = from.Validate(len(l.partitions))
	}
	if err == nil && l.touched() {
		err = fmt.Errorf("%w: the log is not empty", store.ErrInvalid)
	}
	if err == nil && l.held {
		err = errHeld
	}
	if err != nil {
		return nil, fmt.Errorf("import: %w", err)
	}
	l.unfinished = true
	from.Heads = slices.Clone(from.Heads)
	return &filling{log: l, origin: from}, nil
}

// touched reports whether the log has ever stored a record.
func (l *Log) touched() bool {
	heads := slices.ContainsFunc(l.partitions, func(p partition) bool { return p.head > 0 })
	return heads || len(l.kinds)+len(l.checkpoints)+len(l.claims) > 0 || l.outbox.last > 0
}

// Add implements [store.Import].
func (f *filling) Add(ctx context.Context, records ...store.Record) error {
	l := f.log
	l.mu.Lock()
	defer l.mu.Unlock()
	if f.failed == nil {
		f.failed = ctx.Err()
	}
	for _, r := range records {
		if f.failed == nil {
			f.failed = f.add(r)
		}
	}
	if f.failed != nil {
		return fmt.Errorf("import: %w", f.failed)
	}
	return nil
}

func (f *filling) add(r store.Record) error {
	l := f.log
	switch {
	case l.closed || f.done:
		return store.ErrClosed
	case store.RecordKindOf(r) < f.sort:
		return fmt.Errorf("%w: records out of order: %v after %v", store.ErrInvalid, store.RecordKindOf(r), f.sort)
	}
	f.sort = store.RecordKindOf(r)
	if err := store.ValidateRecord(r); err != nil {
		return err
	}
	switch r := r.(type) {
	case *store.Event:
		return f.event(r)
	case *store.State:
		return f.state(r)
	case *store.Message:
		return f.message(r)
	case *store.Receipt:
		kept := &l.findOrCreate(r.Entity, false).more().receipts
		return putNew(kept, named{strings.Clone(r.Name), store.AppendReceipt(nil, r)})
	case *store.Claimed:
		space := l.claims[r.Claim.Space]
		if space == nil {
			space = &ordered[named]{compare: compareNamed}
			l.claims[strings.Clone(r.Claim.Space)] = space
		}
		return putNew(space, named{strings.Clone(r.Claim.Value), store.AppendClaimed(nil, r)})
	case *store.Checkpoint:
		l.checkpoints[checkpointKey{strings.Clone(r.Name), r.Position.Partition()}] = store.AppendCheckpoint(nil, r)
	}
	return nil
}

func putNew(list *ordered[named], n named) error {
	if _, there := list.get(n); there {
		return fmt.Errorf("%w: a second one is named %q", store.ErrInvalid, n.name)
	}
	list.put(n)
	return nil
}

func (f *filling) event(r *store.Event) error {
	l := f.log
	number := store.PartitionOf(r.Key, len(l.partitions))
	p := &l.partitions[number]
	e := l.findOrCreate(r.Key, true)
	at := fmt.Sprintf("version %d of %v at %v", r.Version, r.Key, r.Position)
	switch {
	case r.Position.Partition() != number:
		return fmt.Errorf("%w: %s belongs to partition %d", store.ErrInvalid, at, number)
	case r.Position > f.origin.Heads[number] || r.Position.Sequence() <= p.head:
		return fmt.Errorf("%w: %s comes after %d, and the head is %v", store.ErrInvalid, at, p.head, f.origin.Heads[number])
	case !f.origin.Follows(e.version, r.Version):
		return fmt.Errorf("%w: %s comes after version %d", store.ErrInvalid, at, e.version)
	}
	for p.head+1 < r.Position.Sequence() {
		p.append(ref{}) // place of a deleted event
	}
	ev := *r
	place := l.arena.event(&ev)
	p.append(place)
	e.version = r.Version
	e.events = append(e.events, place)
	l.stats.Events++
	return nil
}

func (f *filling) state(s *store.State) error {
	l := f.log
	saved := s.Position == 0
	e := l.findOrCreate(s.Key, saved)
	at := fmt.Sprintf("state %d of %v", s.Version, s.Key)
	x := e.more()
	switch {
	case saved && (len(e.events) > 0 || len(x.states) > 0):
		return fmt.Errorf("%w: %s is a saved one beside events or another", store.ErrInvalid, at)
	case !saved && s.Version > e.version && !f.origin.Damaged:
		return fmt.Errorf("%w: %s of an entity at version %d", store.ErrInvalid, at, e.version)
	case len(x.states) > 0 && x.states[len(x.states)-1].version >= s.Version:
		return fmt.Errorf("%w: %s comes after state %d", store.ErrInvalid, at, x.states[len(x.states)-1].version)
	}
	if saved {
		e.version, x.saved = s.Version, true
	}
	x.states = append(slices.Clip(x.states), state{s.Version, store.AppendState(nil, s)})
	l.stats.Snapshots++
	return nil
}

func (f *filling) message(m *store.Message) error {
	o := &f.log.outbox
	if m.Sequence <= o.last || m.Sequence > f.origin.Sequence {
		return fmt.Errorf("%w: message %d comes after %d, and the last is %d", store.ErrInvalid, m.Sequence, o.last, f.origin.Sequence)
	}
	e := f.log.findOrCreate(m.Source, false)
	if m.Timer != "" && e.more().timers[m.Timer] != 0 {
		return fmt.Errorf("%w: message %d is a second timer %q of %v", store.ErrInvalid, m.Sequence, m.Timer, m.Source)
	}
	o.last = m.Sequence
	o.put(m, e)
	return nil
}

// Finish implements [store.Import].
func (f *filling) Finish(ctx context.Context) error {
	l := f.log
	l.mu.Lock()
	defer l.mu.Unlock()
	err := f.failed
	if err == nil {
		err = ctx.Err()
	}
	if err == nil && (l.closed || f.done) {
		err = store.ErrClosed
	}
	for i := range l.partitions {
		if head := store.NewPosition(i, l.partitions[i].head); err == nil && head != f.origin.Heads[i] {
			err = fmt.Errorf("%w: the last event of partition %d is at %v, and should be at %v",
				store.ErrInvalid, i, head, f.origin.Heads[i])
		}
	}
	if err != nil {
		f.failed = err
		return fmt.Errorf("import: %w", err)
	}
	l.outbox.last = f.origin.Sequence
	l.unfinished, f.done = false, true
	return nil
}

// Close implements [store.Import].
func (f *filling) Close() error {
	f.log.mu.Lock()
	defer f.log.mu.Unlock()
	f.done = true
	return nil
}
