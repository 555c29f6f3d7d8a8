package admin

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"

	"github.com/perdure/perdure/store"
)

// A feed is a sequence of records in the order of their entities.
type feed struct {
	next    func() (store.Record, bool)
	current store.Record // nil at the end
}

func (f *feed) step() {
	f.current, _ = f.next()
}

// is reports whether the current record belongs to an entity.
func (f *feed) is(key store.Key) bool { return f.current != nil && entityOf(f.current) == key }

// perEntity reads versions, states and receipts side by side.
func (v *verifier) perEntity(ctx context.Context) error {
	var failures [3]error
	unread := make(map[store.RecordKind]bool) // kinds with records that cannot be read
	var stops []func()
	open := func(i int, s store.RecordKind) *feed {
		next, stop := iter.Pull(v.records(ctx, s, &failures[i], func(*store.CorruptError) {
			unread[s] = true
			if s == store.KindVersion {
				v.byName.unknown = true
			}
		}))
		f := &feed{next: next}
		f.step()
		stops = append(stops, stop)
		return f
	}
	defer func() {
		for _, stop := range stops {
			stop()
		}
	}()
	e := &entityCheck{v: v, unread: unread, versions: open(0, store.KindVersion), states: open(1, store.KindState), receipts: open(2, store.KindReceipt)}
	for {
		key, ok := e.lowest()
		if !ok {
			return errors.Join(failures[:]...)
		}
		if compareKeys(key, e.key) <= 0 {
			v.faultf(store.CorruptError{What: "entity", Key: key}, "it comes after %v", e.key)
		}
		e.begin(key)
		e.check()
	}
}

// An entityCheck is the check of one entity.
type entityCheck struct {
	v        *verifier
	unread   map[store.RecordKind]bool
	versions *feed
	states   *feed
	receipts *feed

	key           store.Key
	partition     int
	first, last   store.Version // versions of its events, 0 if it has none
	position      store.Position
	covered       store.Version // version of its latest state
	savedVersion  store.Version
	stateVersions []store.Version
	name          string // name of the previous receipt
}

func (e *entityCheck) lowest() (key store.Key, ok bool) {
	for _, f := range []*feed{e.versions, e.states, e.receipts} {
		if f.current == nil {
			continue
		}
		if k := entityOf(f.current); !ok || compareKeys(k, key) < 0 {
			key, ok = k, true
		}
	}
	return key, ok
}

func (e *entityCheck) begin(key store.Key) {
	e.key, e.partition = key, store.PartitionOf(key, len(e.v.parts))
	e.first, e.last, e.position, e.covered, e.savedVersion = 0, 0, 0, 0, 0
	e.stateVersions = e.stateVersions[:0]
	e.name = ""
}

func (e *entityCheck) at(what string, version store.Version, position store.Position) store.CorruptError {
	return store.CorruptError{What: what, Key: e.key, Version: version, Position: position}
}

// check consumes all records of the entity.
func (e *entityCheck) check() {
	v := e.v
	for ; e.versions.is(e.key); e.versions.step() {
		e.version(e.versions.current.(*store.Event))
	}
	for ; e.states.is(e.key); e.states.step() {
		e.state(e.states.current.(*store.State))
	}
	if e.last > 0 || e.savedVersion > 0 {
		v.entities++
	}
	if e.first > 1 {
		v.parts[e.partition].pruned += uint64(e.first - 1)
		if e.covered+1 < e.first && !e.unread[store.KindState] {
			v.faultf(e.at("event", e.first-1, 0), "the versions before %d are missing, and no state covers them", e.first)
		}
	}
	for ; e.receipts.is(e.key); e.receipts.step() {
		e.receipt(e.receipts.current.(*store.Receipt))
	}
}

// version checks the next event of the entity, and the state of its version.
func (e *entityCheck) version(ev *store.Event) {
	v := e.v
	v.byName.add(ev)
	at := e.at("event", ev.Version, ev.Position)
	switch {
	case e.last > 0 && ev.Version != e.last+1 && !e.unread[store.KindVersion]:
		v.faultf(at, "it comes after version %d", e.last)
	case e.last > 0 && ev.Position <= e.position:
		v.faultf(at, "the version before it is at position %v", e.position)
	}
	if ev.Position.Partition() != e.partition {
		v.faultf(at, "the entity belongs to partition %d", e.partition)
	}
	if e.first == 0 {
		e.first = ev.Version
	}
	e.last, e.position = ev.Version, ev.Position
	for e.states.is(e.key) && e.states.current.(*store.State).Version <= ev.Version {
		s := e.states.current.(*store.State)
		if s.Version == ev.Version && s.Position != ev.Position {
			v.faultf(e.at("state", s.Version, s.Position), "its event is at position %v", ev.Position)
		}
		e.note(s)
		e.states.step()
	}
}

func (e *entityCheck) note(s *store.State) {
	if slices.Contains(e.stateVersions, s.Version) {
		e.v.faultf(e.at("state", s.Version, s.Position), "there is another one of this version")
	}
	e.stateVersions = append(e.stateVersions, s.Version)
	e.covered = max(e.covered, s.Version)
	if s.Position != 0 && s.Position.Partition() != e.partition {
		e.v.faultf(e.at("state", s.Version, s.Position), "the entity belongs to partition %d", e.partition)
	}
}

// state checks a state whose version no event of the entity has.
func (e *entityCheck) state(s *store.State) {
	at := e.at("state", s.Version, s.Position)
	switch {
	case s.Position != 0 && !e.unread[store.KindVersion]:
		e.v.faultf(at, "the entity is at version %d", e.last)
	case s.Position == 0 && e.last > 0:
		e.v.faultf(at, "a saved state of an entity with events")
	case s.Position == 0:
		e.savedVersion = s.Version
	}
	e.note(s)
}

func (e *entityCheck) receipt(r *store.Receipt) {
	at := e.at("receipt", r.Version, r.Position)
	at.Where = fmt.Sprintf("receipt %q", r.Name)
	if r.Name <= e.name {
		e.v.faultf(at, "it comes after receipt %q", e.name)
	}
	e.name = r.Name
	if r.Version > max(e.last, e.savedVersion) && !e.unread[store.KindVersion] && !e.unread[store.KindState] {
		e.v.faultf(at, "the entity is at version %d", max(e.last, e.savedVersion))
	}
	if r.Position == 0 {
		return
	}
	if p := r.Position.Partition(); p >= len(e.v.Origin.Heads) || r.Position > e.v.Origin.Heads[p] {
		e.v.faultf(at, "it is above the head of the partition")
	}
}
