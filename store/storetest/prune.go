package storetest

import (
	"fmt"
	"math"

	"github.com/perdure/perdure/store"
)

// all is a position at or above all positions of partition 0.
var all = store.LastPosition(0)

var pruneCases = []testCase{
	{name: "deleted events are gone from every read", run: func(x *fixture) {
		threeSnapshots(x)
		x.append(book("b"), 0, "other")
		want(x, "deleted", x.deleteEvents(book("a"), 4, all), 3)
		x.wantTexts("read", x.read(book("a"), 0), "4", "5", "6", "7")
		x.wantTexts("read after 2", x.read(book("a"), 2), "4", "5", "6", "7")
		x.wantTexts("read after 4", x.read(book("a"), 4), "5", "6", "7")
		x.wantTexts("scan", x.scan(store.Query{}), "4", "5", "6", "7", "other")
		x.wantTexts("scan after 1", x.scan(store.Query{After: 1, Through: 5}), "4", "5")
		_, events := x.load(book("a"), always)
		x.wantTexts("load", events, "7")
	}},
	{name: "kept events keep their versions and positions", run: func(x *fixture) {
		threeSnapshots(x)
		before := x.read(book("a"), 3)
		x.deleteEvents(book("a"), 4, all)
		want(x, "events", x.read(book("a"), 0), before)
		want(x, "heads", x.heads(), []store.Position{7})
		x.wantVersion(book("a"), 7)
	}},
	{name: "versions and positions go on after a deletion", run: func(x *fixture) {
		threeSnapshots(x)
		x.deleteEvents(book("a"), 7, all)
		r := x.append(book("a"), 7, "8")
		want(x, "position", r.Position, 8)
		want(x, "version", x.read(book("a"), 7)[0].Version, 8)
	}},
	{name: "deletion keeps events that no snapshot covers", run: func(x *fixture) {
		threeSnapshots(x)
		n, err := x.log.DeleteEvents(x.ctx, book("a"), 8, all)
		x.wantError("delete", err, store.ErrInvalid)
		want(x, "deleted", n, 0)
		want(x, "number of events", len(x.read(book("a"), 0)), 7)
		want(x, "deleted up to the snapshot", x.deleteEvents(book("a"), 7, all), 6)
	}},
	{name: "deletion without a snapshot is refused", run: func(x *fixture) {
		x.append(book("a"), 0, "1", "2", "3")
		for _, below := range []store.Version{2, 3, 4, math.MaxUint64} {
			_, err := x.log.DeleteEvents(x.ctx, book("a"), below, all)
			x.wantError(fmt.Sprintf("delete below %d", below), err, store.ErrInvalid)
		}
		want(x, "deleted below 1", x.deleteEvents(book("a"), 1, all), 0)
		want(x, "deleted below 0", x.deleteEvents(book("a"), 0, all), 0)
		x.wantTexts("read", x.read(book("a"), 0), "1", "2", "3")
	}},
	{name: "deletion keeps the last event", run: func(x *fixture) {
		x.commit(&store.Batch{Key: book("a"), Events: x.events("1", "2", "3"), Snapshot: x.state("s3")})
		want(x, "deleted", x.deleteEvents(book("a"), 4, all), 2)
		x.wantTexts("read", x.read(book("a"), 0), "3")
		x.wantVersion(book("a"), 3)
		x.append(book("a"), 3, "4")
	}},
	{name: "deletion ends at the given position", run: func(x *fixture) {
		for v := range store.Version(6) {
			x.append(book("b"), v, "other")
			b := &store.Batch{Key: book("a"), Expected: v, Events: x.events(fmt.Sprint(v + 1))}
			if v == 5 {
				b.Snapshot = x.state("s6")
			}
			x.commit(b) // at positions 2, 4, 6, …
		}
		want(x, "deleted through 1", x.deleteEvents(book("a"), 6, 1), 0)
		want(x, "deleted through 4", x.deleteEvents(book("a"), 6, 4), 2)
		want(x, "deleted through 7", x.deleteEvents(book("a"), 6, 7), 1)
		x.wantTexts("read", x.read(book("a"), 0), "4", "5", "6")
		want(x, "events of the other", len(x.read(book("b"), 0)), 6)
	}},
	{name: "deletion again deletes only what is new", run: func(x *fixture) {
		threeSnapshots(x)
		want(x, "deleted", x.deleteEvents(book("a"), 4, all), 3)
		want(x, "deleted again", x.deleteEvents(book("a"), 4, all), 0)
		want(x, "deleted below less", x.deleteEvents(book("a"), 2, all), 0)
		want(x, "deleted below more", x.deleteEvents(book("a"), 6, all), 2)
	}},
	{name: "deletion of many events keeps the rest whole", run: func(x *fixture) {
		const n = 5000
		for _, key := range []store.Key{book("a"), book("b")} {
			x.commit(&store.Batch{Key: key, Events: x.events(numbered("%d", n)...), Snapshot: x.state("s")})
		}
		want(x, "deleted", x.deleteEvents(book("a"), n-10, all), n-11)
		want(x, "number of events", len(x.read(book("a"), 0)), 11)
		want(x, "number of events of the other", len(x.read(book("b"), 0)), n)
		want(x, "number of events of the log", len(x.scan(store.Query{})), n+11)
	}},
	{name: "an entity loads without a gap after a deletion", run: func(x *fixture) {
		threeSnapshots(x)
		x.deleteEvents(book("a"), 6, all)
		for _, oldest := range []store.Version{2, 4, 6, 99} {
			accepted := store.Version(0)
			_, events := x.load(book("a"), func(s *store.State) bool {
				if s.Version > oldest {
					return false
				}
				accepted = s.Version
				return true
			})
			next := store.Version(6) // version of the first event that is kept
			if accepted > 0 {
				next = accepted + 1
			}
			for _, e := range events {
				if e.Version != next {
					x.Errorf("load with state %d accepted: got version %d, want %d", accepted, e.Version, next)
				}
				next = e.Version + 1
			}
			want(x, "version after the load", next, 8)
		}
	}},
	{name: "a read that has begun is not disturbed by a deletion", run: func(x *fixture) {
		x.commit(&store.Batch{Key: book("a"), Events: x.events(numbered("%d", 1000)...), Snapshot: x.state("s")})
		last := store.Version(0)
		for e, err := range x.log.Load(x.ctx, book("a"), nil) {
			x.wantNoError("load", err)
			if e.Version != last+1 {
				x.Fatalf("load: got version %d after %d", e.Version, last)
			}
			if last = e.Version; last == 10 {
				done := make(chan error, 1)
				go func() {
					_, err := x.log.DeleteEvents(x.ctx, book("a"), 1000, all)
					done <- err
				}()
				// The store may delay the deletion until the read has ended, or not.
				defer func() { x.wantNoError("delete", <-done) }()
			}
		}
		want(x, "last version", last, 1000)
	}},
	{name: "deletion for an entity that nothing has happened to deletes nothing", run: func(x *fixture) {
		want(x, "deleted events", x.deleteEvents(book("a"), 1, all), 0)
		want(x, "deleted snapshots", x.deleteSnapshots(book("a"), 100), 0)
	}},
	{name: "deleted snapshots are not offered", run: func(x *fixture) {
		threeSnapshots(x)
		want(x, "deleted below 4", x.deleteSnapshots(book("a"), 4), 0)
		want(x, "deleted below 5", x.deleteSnapshots(book("a"), 5), 1)
		offered, events := x.load(book("a"), never)
		want(x, "versions offered", versionsOf(offered), []store.Version{6})
		want(x, "number of events", len(events), 7)
	}},
	{name: "deletion keeps the latest snapshot", run: func(x *fixture) {
		threeSnapshots(x)
		want(x, "deleted", x.deleteSnapshots(book("a"), math.MaxUint64), 1)
		want(x, "deleted again", x.deleteSnapshots(book("a"), math.MaxUint64), 0)
		offered, _ := x.load(book("a"), never)
		want(x, "versions offered", versionsOf(offered), []store.Version{6})
	}},
	{name: "deletion of snapshots leaves other entities alone", run: func(x *fixture) {
		threeSnapshots(x)
		for v := range store.Version(3) {
			x.commit(&store.Batch{Key: book("aa"), Expected: v, Events: x.events("e"), Snapshot: x.state("s")})
		}
		x.deleteSnapshots(book("a"), 7)
		offered, _ := x.load(book("aa"), never)
		want(x, "versions offered", versionsOf(offered), []store.Version{3, 2})
	}},
	{name: "a saved state is never deleted", run: func(x *fixture) {
		x.commit(&store.Batch{Key: book("a"), Save: x.state("1")})
		x.commit(&store.Batch{Key: book("a"), Expected: 1, Save: x.state("2")})
		want(x, "deleted", x.deleteSnapshots(book("a"), 99), 0)
		want(x, "payload", string(x.latest(book("a")).Payload), "2")
	}},
}

func (x *fixture) deleteEvents(key store.Key, below store.Version, through store.Position) int {
	x.Helper()
	n, err := x.log.DeleteEvents(x.ctx, key, below, through)
	if err != nil {
		x.Fatalf("delete events of %v below %d through %v: %v", key, below, through, err)
	}
	return n
}

func (x *fixture) deleteSnapshots(key store.Key, below store.Version) int {
	x.Helper()
	n, err := x.log.DeleteSnapshots(x.ctx, key, below)
	if err != nil {
		x.Fatalf("delete snapshots of %v below %d: %v", key, below, err)
	}
	return n
}
