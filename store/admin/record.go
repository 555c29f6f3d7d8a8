package admin

import (
	"cmp"
	"fmt"
	"strings"

	"github.com/perdure/perdure/store"
)

// recordKinds is the number of the kinds that have records of their own.
const recordKinds = int(store.KindVersion)

// setDamage makes r a damaged record. Without a reason, the record says that it is missing.
func setDamage(r store.Record, reason string) {
	reason = cmp.Or(reason, "it is missing")
	reason = reason[:min(len(reason), store.DamageBytesMax)]
	switch r := r.(type) {
	case *store.Event:
		r.Damage = reason
	case *store.State:
		r.Damage = reason
	case *store.Message:
		r.Damage = reason
	case *store.Receipt:
		r.Damage = reason
	case *store.Claimed:
		r.Damage = reason
	case *store.Checkpoint:
		r.Damage = reason
	}
}

// entityOf returns the entity that a record belongs to.
func entityOf(r store.Record) store.Key {
	switch r := r.(type) {
	case *store.Event:
		return r.Key
	case *store.State:
		return r.Key
	case *store.Receipt:
		return r.Entity
	}
	return store.Key{}
}

func compareKeys(a, b store.Key) int {
	return cmp.Or(strings.Compare(a.Kind, b.Kind), strings.Compare(a.ID, b.ID))
}

// cloneRecord returns a copy of a record that stays valid after the next step of the iteration.
func cloneRecord(r store.Record) store.Record {
	switch r := r.(type) {
	case *store.Event:
		return r.Clone()
	case *store.State:
		return r.Clone()
	case *store.Message:
		c := *r
		return &c
	case *store.Receipt:
		c := *r
		return &c
	case *store.Claimed:
		c := *r
		return &c
	case *store.Checkpoint:
		c := *r
		return &c
	}
	panic(fmt.Sprintf("store: a %T is no record", r))
}

// placeOf returns a record with only the identifying fields of r.
func placeOf(r store.Record) store.Record {
	switch r := r.(type) {
	case *store.Event:
		return &store.Event{Key: r.Key, Version: r.Version, Position: r.Position}
	case *store.State:
		return &store.State{Key: r.Key, Version: r.Version, Position: r.Position}
	case *store.Message:
		return &store.Message{Sequence: r.Sequence}
	case *store.Receipt:
		return &store.Receipt{Entity: r.Entity, Name: r.Name}
	case *store.Claimed:
		return &store.Claimed{Claim: r.Claim}
	case *store.Checkpoint:
		return &store.Checkpoint{Name: r.Name, Position: store.NewPosition(r.Position.Partition(), 0)}
	}
	return nil
}

// compareRecords compares two records of one kind by their places.
func compareRecords(a, b store.Record) int {
	switch a := a.(type) {
	case *store.State:
		b := b.(*store.State)
		return cmp.Or(compareKeys(a.Key, b.Key), cmp.Compare(a.Version, b.Version))
	case *store.Message:
		return cmp.Compare(a.Sequence, b.(*store.Message).Sequence)
	case *store.Receipt:
		b := b.(*store.Receipt)
		return cmp.Or(compareKeys(a.Entity, b.Entity), strings.Compare(a.Name, b.Name))
	case *store.Claimed:
		b := b.(*store.Claimed)
		return cmp.Or(strings.Compare(a.Claim.Space, b.Claim.Space), strings.Compare(a.Claim.Value, b.Claim.Value))
	case *store.Checkpoint:
		b := b.(*store.Checkpoint)
		return cmp.Or(strings.Compare(a.Name, b.Name), cmp.Compare(a.Position.Partition(), b.Position.Partition()))
	}
	return 0
}
