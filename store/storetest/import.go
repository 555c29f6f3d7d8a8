package storetest

import (
	"errors"
	"fmt"

	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/admin"
)

// importCases test that a log is copied into an empty one, and the methods that do so.
var importCases = []testCase{
	{name: "a copy has everything as it was", run: func(x *fixture) {
		fill(x)
		y := x.copy()
		for _, key := range filled {
			want(x, "events", y.read(key, 0), x.read(key, 0))
			offered, later := x.load(key, never)
			offered2, later2 := y.load(key, never)
			want(x, "states", offered2, offered)
			want(x, "events of a load", later2, later)
			want(x, "receipts", y.receipts(key), x.receipts(key))
		}
		want(x, "scan", y.scan(store.Query{}), x.scan(store.Query{}))
		want(x, "heads", y.heads(), x.heads())
		for _, q := range []store.MessageQuery{{}, {Parked: true}} {
			want(x, "messages", y.messages(q), x.messages(q))
		}
		want(x, "claims", y.claims("address"), x.claims("address"))
		want(x, "checkpoints", y.checkpoints(), x.checkpoints())
		want(x, "entities", y.entities("book", ""), x.entities("book", ""))
		want(x, "counts", y.counts(), x.counts())
		x.wantNoFaults(y.log)
	}},
	{name: "a copy of a damaged log has the rest, and the damage in its place", needs: []need{damage}, run: func(x *fixture) {
		fill(x)
		records := x.allExported()
		seen := make(map[store.RecordKind]bool)
		damaged := int64(0)
		var event *store.Event
		for i, r := range records {
			s := store.RecordKindOf(r)
			if ev, ok := r.(*store.Event); seen[s] || ok && ev.Key != book("a") {
				continue // take one record of each sort, but an event that others follow
			} else if ok {
				event = ev
			}
			seen[s] = true
			x.damage(r, flips[i%len(flips)].flip)
			damaged++
		}
		y := x.another()
		report, err := admin.Copy(x.ctx, x.log, y.log, nil)
		x.wantNoError("copy", err)
		want(x, "damaged and found again", report.Damaged+report.Recovered, damaged)
		x.wantError("report", report.Err(), store.ErrCorrupt)
		want(x, "records", report.Records+report.Damaged, int64(len(records)))
		if report.Recovered == 0 {
			x.wantError("read", first(x, "read", y.log.Read(x.ctx, event.Key, event.Version-1)), store.ErrCorrupt)
			x.wantError("scan", first(x, "scan", y.log.Scan(x.ctx, store.Query{After: event.Position - 1})), store.ErrCorrupt)
		}
		want(x, "scan behind the damage", y.scan(store.Query{After: event.Position}), x.scan(store.Query{After: event.Position}))
		want(x, "heads", y.heads(), x.heads())
		if report.Damaged > 0 && x.verify(y.log).FaultCount == 0 {
			x.Errorf("a copy with %d damaged records is called whole", report.Damaged)
		}
		if x.features.Reopen != nil {
			y.reopen()
		}
		again, err := admin.Copy(x.ctx, y.log, x.another().log, nil)
		x.wantNoError("copy the copy", err)
		want(x, "difference", report.Digest.Difference(again.Digest), "")
		want(x, "damaged", again.Damaged, report.Damaged)
	}},
	{name: "a copy in many partitions has everything as it was", needs: []need{partitions}, setup: Setup{Partitions: 3}, run: func(x *fixture) {
		for i := range 20 {
			x.append(book(fmt.Sprint(i)), 0, "1", "2")
		}
		y := x.copy()
		for p := range 3 {
			q := store.Query{After: store.NewPosition(p, 0)}
			want(x, "scan", y.scan(q), x.scan(q))
		}
		x.wantNoFaults(y.log)
	}},
	{name: "a copy goes on where its origin was", run: func(x *fixture) {
		fill(x)
		heads := x.heads()
		y := x.copy()
		y.ids.Store(1 << 20)
		r := y.commit(&store.Batch{Key: book("a"), Expected: 7, Events: y.events("8"), Snapshot: y.state("s8")})
		want(x, "position", r.Position, heads[0]+1)
		y.commit(&store.Batch{Key: book("new"), Events: y.events("1")})
		y.commit(&store.Batch{Key: store.Key{Kind: "shelf", ID: "s"}, Expected: 2, Save: y.state("3")})
		r = y.commit(&store.Batch{Key: book("a"), Expected: 8, Enqueue: []store.Message{y.timer("t", "again", noon)}})
		want(x, "sequence", r.Sequence, 5) // sequence 4 was settled before the copy
		y.wantMessages("the timer is replaced", y.messages(store.MessageQuery{}), "m", "again")
		x.wantError("an answered command", y.try(&store.Batch{Key: book("a"), Expected: 8, Receipts: []store.Receipt{{Name: "r"}}}).Err, store.ErrAnswered)
		x.wantError("a claimed value", y.try(&store.Batch{Key: book("b"), Expected: 1, Claim: []store.Claim{ada}}).Err, store.ErrClaimed)
		if x.features.Reopen != nil {
			y.reopen()
		}
		x.wantNoFaults(y.log)
	}},
	{name: "a copy keeps the gaps of deleted events", run: func(x *fixture) {
		threeSnapshots(x)
		x.append(book("b"), 0, "other")
		x.deleteEvents(book("a"), 4, all)
		y := x.copy()
		y.wantTexts("read", y.read(book("a"), 0), "4", "5", "6", "7")
		want(x, "scan", y.scan(store.Query{}), x.scan(store.Query{}))
		x.wantNoFaults(y.log)
		want(x, "deleted later", y.deleteEvents(book("a"), 6, all), 2)
		x.wantNoFaults(y.log)
	}},
	{name: "a log that is not empty cannot be filled", run: func(x *fixture) {
		x.append(book("a"), 0, "1")
		_, err := x.log.Import(x.ctx, store.Origin{Heads: []store.Position{0}})
		x.wantError("import", err, store.ErrInvalid)
		x.wantTexts("read", x.read(book("a"), 0), "1")
		x.append(book("a"), 1, "2")
	}},
	{name: "a log whose commits were all refused is empty", run: func(x *fixture) {
		refuse := func(y *fixture) {
			b := &store.Batch{Key: book("a"), Expected: 7, Events: y.events("1"), Enqueue: []store.Message{y.message("refused")}}
			y.wantError("commit", y.try(b).Err, store.ErrConflict)
			z := &store.Batch{Key: book("a"), Expected: 8, Events: y.events("1"), Enqueue: []store.Message{y.message("refused")}}
			y.wantError("commit", y.try(z).Err, store.ErrConflict)
		}
		refuse(x)
		x.copy() // of nothing
		y := x.another()
		refuse(y)
		x.commit(&store.Batch{Key: book("a"), Events: x.events("1"), Enqueue: []store.Message{x.message("first")}})
		report, err := admin.Copy(x.ctx, x.log, y.log, nil)
		x.wantNoError("copy to a log whose commits were all refused", err)
		want(x, "difference", report.Digest.Difference(x.digest(y.log)), "")
		y.wantNoFaults(y.log)
		last := x.messages(store.MessageQuery{})[0].Sequence
		r := y.commit(&store.Batch{Key: book("b"), Events: y.events("1"), Enqueue: []store.Message{y.message("second")}})
		if r.Sequence <= last {
			x.Errorf("sequence of the next message: got %d, want one above %d", r.Sequence, last)
		}
	}},
	{name: "a log with other partitions cannot be filled", run: func(x *fixture) {
		_, err := x.log.Import(x.ctx, store.Origin{Heads: []store.Position{0, store.NewPosition(1, 0)}})
		x.wantError("import", err, store.ErrInvalid)
		x.append(book("a"), 0, "1")
	}},
	{name: "a log that is being filled answers nothing", run: func(x *fixture) {
		in := x.beginImport(0)
		_, err := x.log.Commit(x.ctx, []*store.Batch{{Key: book("a"), Events: x.events("1")}})
		x.wantError("commit", err, store.ErrUnfinished)
		x.wantError("commit", err, store.ErrNotStored)
		x.wantError("read", first(x, "read", x.log.Read(x.ctx, book("a"), 0)), store.ErrUnfinished)
		_, err = x.log.Heads(x.ctx)
		x.wantError("heads", err, store.ErrUnfinished)
		_, err = x.log.Export(x.ctx)
		x.wantError("export", err, store.ErrUnfinished)
		_, err = x.log.Import(x.ctx, store.Origin{Heads: []store.Position{0}})
		x.wantError("import", err, store.ErrUnfinished)
		x.wantNoError("finish", in.Finish(x.ctx))
		x.append(book("a"), 0, "1")
		x.wantError("add after the end", in.Add(x.ctx, x.stored(book("b"), 1, 2)), store.ErrClosed)
		x.wantNoError("close", in.Close())
		x.wantTexts("read", x.read(book("a"), 0), "1")
	}},
	{name: "an import that is broken off leaves a log that answers nothing", run: func(x *fixture) {
		in := x.beginImport(1)
		x.wantNoError("add", in.Add(x.ctx, x.stored(book("a"), 1, 1)))
		x.wantNoError("close", in.Close())
		x.wantError("finish", in.Finish(x.ctx), store.ErrClosed)
		x.wantError("read", first(x, "read", x.log.Read(x.ctx, book("a"), 0)), store.ErrUnfinished)
	}},
	{name: "an import refuses to end without the last events", run: func(x *fixture) {
		in := x.beginImport(2)
		x.wantNoError("add", in.Add(x.ctx, x.stored(book("a"), 1, 1)))
		x.wantError("finish", in.Finish(x.ctx), store.ErrInvalid)
		x.wantError("read", first(x, "read", x.log.Read(x.ctx, book("a"), 0)), store.ErrUnfinished)
	}},
	{name: "an import takes only what fits", run: func(x *fixture) {
		for what, records := range map[string][]store.Record{
			"a version after a gap":       {x.stored(book("a"), 1, 1), x.stored(book("a"), 3, 2)},
			"a version again":             {x.stored(book("a"), 1, 1), x.stored(book("a"), 1, 2)},
			"a position again":            {x.stored(book("a"), 1, 1), x.stored(book("b"), 1, 1)},
			"a lower position":            {x.stored(book("a"), 1, 2), x.stored(book("b"), 1, 1)},
			"a position above the head":   {x.stored(book("a"), 1, 9)},
			"version 0":                   {x.stored(book("a"), 0, 1)},
			"a position of no partition":  {x.stored(book("a"), 1, store.NewPosition(1, 1))},
			"a snapshot without events":   {&store.State{ID: x.id(), Type: "t", Key: book("a"), Version: 1, Position: 1}},
			"a state beside events":       {x.stored(book("a"), 1, 1), &store.State{ID: x.id(), Type: "t", Key: book("a"), Version: 1}},
			"an event after a state":      {&store.State{ID: x.id(), Type: "t", Key: book("b"), Version: 1}, x.stored(book("a"), 1, 1)},
			"an event without an id":      {&store.Event{Type: "t", Key: book("a"), Version: 1, Position: 1}},
			"an entity without a kind":    {x.stored(store.Key{ID: "a"}, 1, 1)},
			"a message above the last":    {&store.Message{ID: x.id(), Type: "t", Sequence: 9, Source: book("a")}},
			"a message without a source":  {&store.Message{ID: x.id(), Type: "t", Sequence: 1}},
			"two receipts of one name":    {&store.Receipt{Entity: book("a"), Name: "r"}, &store.Receipt{Entity: book("a"), Name: "r"}},
			"two owners of one value":     {&store.Claimed{Claim: ada, Owner: book("a")}, &store.Claimed{Claim: ada, Owner: book("b")}},
			"a claim of nobody":           {&store.Claimed{Claim: ada}},
			"a checkpoint without a name": {&store.Checkpoint{Position: 1}},
			"a message before an earlier": {&store.Message{ID: x.id(), Type: "t", Sequence: 2, Source: book("a")}, &store.Message{ID: x.id(), Type: "t", Sequence: 1, Source: book("a")}},
		} {
			y := x.another()
			in := y.beginImport(3)
			err := in.Add(x.ctx, records...)
			x.wantError(what, err, store.ErrInvalid)
			x.wantError("finish after "+what, in.Finish(x.ctx), store.ErrInvalid)
		}
	}},
	closed("exporter", func(x *fixture, check func(string, error)) {
		_, err := x.log.Export(x.ctx)
		check("export", err)
	}),
	closed("importer", func(x *fixture, check func(string, error)) {
		_, err := x.log.Import(x.ctx, store.Origin{Heads: []store.Position{0}})
		check("import", err)
	}),
	closed("verifier", func(x *fixture, check func(string, error)) {
		check("verify", x.log.VerifyFiles(x.ctx, func(err error) { x.Errorf("fault of a closed log: %v", err) }))
	}),
}

// another returns a fixture around a new, empty log of the same store.
func (x *fixture) another() *fixture { return x.around(x.open(x.TB, x.setup)) }

func (x *fixture) around(log store.Log) *fixture {
	y := &fixture{TB: x.TB, open: x.open, features: x.features, setup: x.setup, log: log, ctx: x.ctx}
	x.Cleanup(func() {
		if err := y.log.Close(); err != nil && !errors.Is(err, store.ErrClosed) {
			x.Errorf("close at the end of the case: %v", err)
		}
	})
	return y
}

// copy copies the log to a new one.
func (x *fixture) copy() *fixture {
	x.Helper()
	y := x.another()
	report, err := admin.Copy(x.ctx, x.log, y.log, nil)
	x.wantNoError("copy", err)
	want(x, "difference", report.Digest.Difference(x.digest(x.log)), "")
	return y
}

// beginImport begins to fill the log with the given number of events.
func (x *fixture) beginImport(events uint64) store.Import {
	x.Helper()
	in, err := x.log.Import(x.ctx, store.Origin{Heads: []store.Position{store.NewPosition(0, events)}, Sequence: 2})
	x.wantNoError("import", err)
	return in
}

// stored returns an event as a log returns it.
func (x *fixture) stored(key store.Key, version store.Version, position store.Position) *store.Event {
	e := x.event(fmt.Sprint(version))
	e.Key, e.Version, e.Position, e.Time = key, version, position, noon
	return &e
}

// counts returns the counts in the log's statistics.
func (x *fixture) counts() [5]int64 {
	x.Helper()
	s, err := x.log.Stats(x.ctx)
	x.wantNoError("stats", err)
	return [...]int64{s.Events, s.Entities, s.Snapshots, s.Pending, s.Parked}
}
