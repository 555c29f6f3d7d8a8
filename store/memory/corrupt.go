package memory

import (
	"errors"
	"fmt"
	"slices"

	"github.com/perdure/perdure/store"
)

// errNoRecord says that the record to corrupt does not exist.
var errNoRecord = errors.New("the log has no such record")

// Corrupt makes flip change the stored form of one record, its checksum included, as a
// broken disk or memory would. It is for tests. The record is a [*store.Event],
// [*store.State], [*store.Message], [*store.Receipt], [*store.Claimed] or [*store.Checkpoint]
// as the log returned it. Flip must keep the length. Iterations that have begun still see
// the old form.
func (l *Log) Corrupt(record any, flip func(sealed []byte)) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	damaged := func(sealed []byte) []byte {
		sealed = slices.Clone(sealed)
		flip(sealed)
		return sealed
	}
	ok := false
	switch r := record.(type) {
	case *store.Event:
		ok = l.corruptEvent(r, damaged)
	case *store.State:
		ok = l.corruptState(r, damaged)
	case *store.Message:
		var old *row
		if old, ok = l.outbox.rows[r.Sequence]; ok {
			fresh := *old
			fresh.sealed = damaged(old.sealed)
			l.outbox.rows[r.Sequence] = &fresh
			for _, list := range l.outbox.lists(&fresh) {
				list.put(&fresh)
			}
		}
	case *store.Receipt:
		if e := l.find(r.Entity); e != nil && e.rare != nil {
			ok = corruptNamed(&e.rare.receipts, r.Name, damaged)
		}
	case *store.Claimed:
		if space := l.claims[r.Claim.Space]; space != nil {
			ok = corruptNamed(space, r.Claim.Value, damaged)
		}
	case *store.Checkpoint:
		key := checkpointKey{r.Name, r.Position.Partition()}
		var sealed []byte
		if sealed, ok = l.checkpoints[key]; ok {
			l.checkpoints[key] = damaged(sealed)
		}
	}
	if !ok {
		return fmt.Errorf("corrupt %T: %w", record, errNoRecord)
	}
	return nil
}

// corruptEvent replaces the event by a damaged copy in a chunk of its own, both in the list
// of its entity and in its partition.
func (l *Log) corruptEvent(r *store.Event, damaged func([]byte) []byte) bool {
	e := l.find(r.Key)
	if e == nil || r.Version == 0 || r.Version > e.version || e.version-r.Version >= store.Version(len(e.events)) {
		return false
	}
	i := len(e.events) - 1 - int(e.version-r.Version)
	old := e.events[i]
	fresh := l.arena.whole(damaged(old.bytes(l.arena.chunks)))
	e.events = slices.Clone(e.events)
	e.events[i] = fresh
	l.partitions[r.Position.Partition()].replace(map[uint64]ref{r.Position.Sequence(): fresh})
	l.arena.release(old)
	return true
}

func (l *Log) corruptState(r *store.State, damaged func([]byte) []byte) bool {
	e := l.find(r.Key)
	if e == nil || e.rare == nil {
		return false
	}
	i := slices.IndexFunc(e.rare.states, func(s state) bool { return s.version == r.Version })
	if i < 0 {
		return false
	}
	e.rare.states = slices.Clone(e.rare.states)
	e.rare.states[i].sealed = damaged(e.rare.states[i].sealed)
	return true
}

func corruptNamed(list *ordered[named], name string, damaged func([]byte) []byte) bool {
	n, ok := list.get(named{name: name})
	if ok {
		n.sealed = damaged(n.sealed)
		list.put(n)
	}
	return ok
}
