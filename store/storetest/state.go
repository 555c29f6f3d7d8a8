package storetest

import (
	"fmt"

	"github.com/perdure/perdure/store"
)

var stateCases = []testCase{
	{name: "a saved state makes the next version", run: func(x *fixture) {
		x.commit(&store.Batch{Key: book("a"), Save: x.state("one")})
		x.commit(&store.Batch{Key: book("a"), Expected: 1, Save: x.state("two")})
		x.wantVersion(book("a"), 2)
		s := x.latest(book("a"))
		want(x, "version", s.Version, 2)
		want(x, "payload", string(s.Payload), "two")
	}},
	{name: "only the latest saved state is kept", run: func(x *fixture) {
		for i := range 5 {
			x.commit(&store.Batch{Key: book("a"), Expected: store.Version(i), Save: x.state(fmt.Sprint(i))})
		}
		offered, events := x.load(book("a"), never)
		want(x, "number of states offered", len(offered), 1)
		want(x, "payload", string(offered[0].Payload), "4")
		x.wantTexts("load", events)
	}},
	{name: "a saved state takes no position", run: func(x *fixture) {
		r := x.commit(&store.Batch{Key: book("a"), Save: x.state("one")})
		want(x, "position of the result", r.Position, 0)
		want(x, "position of the state", x.latest(book("a")).Position, 0)
		want(x, "heads", x.heads(), []store.Position{0})
		x.wantTexts("scan", x.scan(store.Query{}))
		x.wantTexts("read", x.read(book("a"), 0))
	}},
	{name: "a state to save at another version conflicts and stores nothing", run: func(x *fixture) {
		x.commit(&store.Batch{Key: book("a"), Save: x.state("one")})
		r := x.try(&store.Batch{Key: book("a"), Save: x.state("no")})
		x.wantConflict("result", r.Err, store.ConflictError{Key: book("a"), Actual: 1})
		want(x, "payload", string(x.latest(book("a")).Payload), "one")
	}},
	{name: "saved states of one group take their turns", run: func(x *fixture) {
		results := x.group(
			&store.Batch{Key: book("a"), Save: x.state("one")},
			&store.Batch{Key: book("a"), Expected: 1, Save: x.state("two")},
			&store.Batch{Key: book("a"), Expected: 1, Save: x.state("no")},
		)
		want(x, "error of the second", results[1].Err, nil)
		x.wantConflict("third", results[2].Err, store.ConflictError{Key: book("a"), Expected: 1, Actual: 2})
		want(x, "payload", string(x.latest(book("a")).Payload), "two")
	}},
	{name: "an entity has either events or a saved state", run: func(x *fixture) {
		x.commit(&store.Batch{Key: book("a"), Save: x.state("one")})
		x.wantError("events after a saved state", x.try(&store.Batch{Key: book("a"), Expected: 1, Events: x.events("no")}).Err, store.ErrInvalid)
		x.wantError("a snapshot after a saved state", x.try(&store.Batch{Key: book("a"), Expected: 1, Snapshot: x.state("no")}).Err, store.ErrInvalid)
		x.commit(&store.Batch{Key: book("b"), Events: x.events("one")})
		x.wantError("a state to save after events", x.try(&store.Batch{Key: book("b"), Expected: 1, Save: x.state("no")}).Err, store.ErrInvalid)
		x.wantVersion(book("a"), 1)
		want(x, "payload", string(x.latest(book("a")).Payload), "one")
		x.wantTexts("read", x.read(book("b"), 0), "one")
	}},
	{name: "a saved state of several commands has the version of the last", run: func(x *fixture) {
		x.commit(&store.Batch{Key: book("a"), Save: x.state("one")})
		results := x.group(
			&store.Batch{Key: book("a"), Expected: 1, Save: x.state("four"), Saves: 3},
			&store.Batch{Key: book("a"), Expected: 4, Save: x.state("five")},
			&store.Batch{Key: book("a"), Expected: 2, Save: x.state("no"), Saves: 3},
		)
		want(x, "error of the first", results[0].Err, nil)
		want(x, "error of the second", results[1].Err, nil)
		x.wantConflict("third", results[2].Err, store.ConflictError{Key: book("a"), Expected: 2, Actual: 5})
		x.commit(&store.Batch{Key: book("a"), Expected: 5, Save: x.state("seven"), Saves: 2})
		s := x.latest(book("a"))
		want(x, "payload", string(s.Payload), "seven")
		want(x, "version", s.Version, 7)
	}},
	{name: "a saved state is read back as it was written", run: func(x *fixture) {
		roundTripState(x, func(b *store.Batch, s *store.State) { b.Save = s })
	}},
	{name: "a snapshot is read back as it was written", run: func(x *fixture) {
		roundTripState(x, func(b *store.Batch, s *store.State) {
			b.Events, b.Snapshot = x.events("one"), s
		})
	}},
	{name: "an empty state is kept", run: func(x *fixture) {
		x.commit(&store.Batch{Key: book("a"), Save: &store.State{ID: x.id(), Type: "test.v1.State"}})
		want(x, "payload", len(x.latest(book("a")).Payload), 0)
	}},
	{name: "a snapshot has the version after the events of its batch", run: func(x *fixture) {
		x.append(book("a"), 0, "one")
		r := x.commit(&store.Batch{Key: book("a"), Expected: 1, Events: x.events("two", "three"), Snapshot: x.state("s3")})
		s := x.latest(book("a"))
		want(x, "version", s.Version, 3)
		want(x, "position", s.Position, r.Position)
		want(x, "key", s.Key, book("a"))
	}},
	{name: "a snapshot needs no event in its batch and makes no version", run: func(x *fixture) {
		r := x.append(book("a"), 0, "one", "two")
		x.append(book("b"), 0, "other")
		x.commit(&store.Batch{Key: book("a"), Expected: 2, Snapshot: x.state("s2")})
		s := x.latest(book("a"))
		want(x, "version", s.Version, 2)
		want(x, "position", s.Position, r.Position)
		x.wantVersion(book("a"), 2)
	}},
	{name: "a snapshot of a refused batch is not stored", run: func(x *fixture) {
		x.append(book("a"), 0, "one")
		x.try(&store.Batch{Key: book("a"), Expected: 3, Snapshot: x.state("no")})
		want(x, "state", x.latest(book("a")), nil)
	}},
	{name: "load without a state yields all events and accepts nothing", run: func(x *fixture) {
		x.append(book("a"), 0, "one", "two")
		offered, events := x.load(book("a"), always)
		want(x, "number of states offered", len(offered), 0)
		x.wantTexts("load", events, "one", "two")
	}},
	{name: "load of an entity that nothing has happened to yields nothing", run: func(x *fixture) {
		x.append(book("b"), 0, "other")
		offered, events := x.load(book("a"), always)
		want(x, "number of states offered", len(offered), 0)
		x.wantTexts("load", events)
	}},
	{name: "load with an accepted snapshot yields the events above it", run: func(x *fixture) {
		threeSnapshots(x)
		offered, events := x.load(book("a"), always)
		want(x, "versions offered", versionsOf(offered), []store.Version{6})
		x.wantTexts("load", events, "7")
		want(x, "version", events[0].Version, 7)
	}},
	{name: "load offers older snapshots only if newer ones are refused", run: func(x *fixture) {
		threeSnapshots(x)
		offered, events := x.load(book("a"), func(s *store.State) bool { return s.Version < 5 })
		want(x, "versions offered", versionsOf(offered), []store.Version{6, 4})
		want(x, "payload", string(offered[1].Payload), "s4")
		x.wantTexts("load", events, "5", "6", "7")
	}},
	{name: "load with no accepted snapshot yields all events", run: func(x *fixture) {
		threeSnapshots(x)
		offered, events := x.load(book("a"), never)
		want(x, "versions offered", versionsOf(offered), []store.Version{6, 4})
		x.wantTexts("load", events, "1", "2", "3", "4", "5", "6", "7")
	}},
	{name: "load without an accept function yields all events", run: func(x *fixture) {
		threeSnapshots(x)
		var texts []string
		for e, err := range x.log.Load(x.ctx, book("a"), nil) {
			x.wantNoError("load", err)
			texts = append(texts, string(e.Payload))
		}
		want(x, "load", texts, numbered("%d", 7))
	}},
	{name: "load with an accepted snapshot of the last version yields no event", run: func(x *fixture) {
		x.commit(&store.Batch{Key: book("a"), Events: x.events("one"), Snapshot: x.state("s1")})
		offered, events := x.load(book("a"), always)
		want(x, "versions offered", versionsOf(offered), []store.Version{1})
		x.wantTexts("load", events)
	}},
	{name: "load keeps the states of two entities apart", run: func(x *fixture) {
		x.commit(&store.Batch{Key: book("a"), Save: x.state("a")})
		x.commit(&store.Batch{Key: book("aa"), Save: x.state("aa")})
		x.commit(&store.Batch{Key: store.Key{Kind: "books", ID: "a"}, Save: x.state("books")})
		want(x, "a", string(x.latest(book("a")).Payload), "a")
		want(x, "aa", string(x.latest(book("aa")).Payload), "aa")
		want(x, "books", string(x.latest(store.Key{Kind: "books", ID: "a"}).Payload), "books")
	}},
	{name: "load can end early", run: func(x *fixture) {
		threeSnapshots(x)
		n := 0
		for _, err := range x.log.Load(x.ctx, book("a"), never) {
			x.wantNoError("load", err)
			if n++; n == 2 {
				break
			}
		}
		want(x, "steps", n, 2)
		x.append(book("a"), 7, "8") // an iteration that was broken off holds no lock
	}},
	{name: "only the latest two snapshots are kept", run: func(x *fixture) {
		var kept []store.Version
		for v := range store.Version(20) {
			x.commit(&store.Batch{Key: book("a"), Expected: v, Events: x.events("e"), Snapshot: x.state(fmt.Sprint(v + 1))})
			kept = append([]store.Version{v + 1}, kept...)
			kept = kept[:min(len(kept), 2)]
			offered, events := x.load(book("a"), never)
			want(x, "versions offered", versionsOf(offered), kept)
			want(x, "payload", string(offered[0].Payload), fmt.Sprint(v+1))
			want(x, "number of events", len(events), int(v+1))
		}
	}},
}

// threeSnapshots gives book a seven events and snapshots at versions 2, 4 and 6.
func threeSnapshots(x *fixture) {
	x.Helper()
	for v := range store.Version(7) {
		b := &store.Batch{Key: book("a"), Expected: v, Events: x.events(fmt.Sprint(v + 1))}
		if v%2 == 1 {
			b.Snapshot = x.state(fmt.Sprint("s", v+1))
		}
		x.commit(b)
	}
}

func versionsOf(states []*store.State) []store.Version {
	var versions []store.Version
	for _, s := range states {
		versions = append(versions, s.Version)
	}
	return versions
}

func roundTripState(x *fixture, put func(*store.Batch, *store.State)) {
	x.Helper()
	b := &store.Batch{Key: book("a")}
	s := &store.State{
		ID: x.id(), Type: "test.v1.State", Payload: []byte{0, 0xff, 7}, Fingerprint: 0xfedcba9876543210, Fold: []byte{8, 0, 0xff},
		Metadata: store.Metadata{
			CausationID: x.id(), CorrelationID: "c", TraceParent: "p", TraceState: "s",
			Values: map[string]string{"user": "ada"},
		},
	}
	wanted := s.Clone()
	put(b, s)
	r := x.commit(b)
	wanted.Key, wanted.Version, wanted.Position, wanted.Time = book("a"), 1, r.Position, r.Time.UTC()
	want(x, "state", x.latest(book("a")), wanted)
}
