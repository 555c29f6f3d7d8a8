package storetest

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"reflect"
	"slices"
	"time"

	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/admin"
)

// wholeCases test the methods that export, verify, fill or copy a whole log.
var wholeCases = []testCase{
	{name: "an export holds every record in its order", run: func(x *fixture) {
		fill(x)
		e := x.export()
		var events []*store.Event
		for p := range x.heads() {
			events = append(events, x.scan(store.Query{After: store.NewPosition(p, 0)})...)
		}
		want(x, "events", exported[*store.Event](x, e, store.KindEvent), events)
		var versions []*store.Event
		for _, key := range filled {
			for _, ev := range x.read(key, 0) {
				versions = append(versions, &store.Event{Key: ev.Key, Version: ev.Version, Position: ev.Position})
			}
		}
		want(x, "versions", exported[*store.Event](x, e, store.KindVersion), versions)
		var states []*store.State
		for _, key := range filled {
			offered, _ := x.load(key, never)
			slices.Reverse(offered)
			states = append(states, offered...)
		}
		want(x, "states", exported[*store.State](x, e, store.KindState), states)
		want(x, "heads", e.Origin().Heads, x.heads())
		x.exportedNames(e)
		x.wantNoError("close", e.Close())
	}},
	{name: "an export of an empty log holds nothing", run: func(x *fixture) {
		e := x.export()
		for _, s := range append(store.RecordKinds(), store.KindVersion) {
			want(x, s.String(), len(exported[store.Record](x, e, s)), 0)
		}
		want(x, "origin", e.Origin(), store.Origin{Heads: []store.Position{0}})
		x.wantNoError("close", e.Close())
	}},
	{name: "an export is of one moment", run: func(x *fixture) {
		x.append(book("a"), 0, "1", "2")
		e := x.export()
		x.append(book("a"), 2, "3")
		x.append(book("b"), 0, "other")
		want(x, "events", len(exported[*store.Event](x, e, store.KindEvent)), 2)
		want(x, "versions", len(exported[*store.Event](x, e, store.KindVersion)), 2)
		want(x, "heads", e.Origin().Heads, []store.Position{2})
		x.wantNoError("close", e.Close())
	}},
	{name: "an export whose context has ended ends with its error", run: func(x *fixture) {
		x.append(book("a"), 0, "1")
		e := x.export()
		ctx, cancel := context.WithCancel(x.ctx)
		cancel()
		for _, s := range store.RecordKinds()[:1] {
			x.wantError(s.String(), first(x, s.String(), e.Records(ctx, s)), context.Canceled)
		}
		x.wantNoError("close", e.Close())
		_, err := x.log.Export(ctx)
		x.wantError("export", err, context.Canceled)
	}},
	{name: "an export goes on behind damaged records", needs: []need{damage}, run: func(x *fixture) {
		x.append(book("a"), 0, "1", "2", "3", "4")
		x.damage(x.read(book("a"), 0)[1], flips[1].flip)
		x.damage(x.read(book("a"), 2)[0], flips[4].flip)
		e := x.export()
		var got []string
		for r, err := range e.Records(x.ctx, store.KindEvent) {
			if err != nil {
				x.wantError("a damaged event", err, store.ErrCorrupt)
				got = append(got, "damaged")
				continue
			}
			got = append(got, string(r.(*store.Event).Payload))
		}
		want(x, "events", got, []string{"1", "damaged", "damaged", "4"})
		x.wantNoError("close", e.Close())
	}},
	{name: "a whole log has no faults", run: func(x *fixture) {
		x.wantWhole(x.log)
		fill(x)
		x.wantWhole(x.log)
		x.deleteEvents(book("a"), 4, all)
		x.wantWhole(x.log)
		if x.features.Reopen != nil {
			x.reopen()
			x.wantWhole(x.log)
		}
	}},
	{name: "a whole log in many partitions has no faults", needs: []need{partitions}, setup: Setup{Partitions: 3}, run: func(x *fixture) {
		for i := range 20 {
			x.append(book(fmt.Sprint(i)), 0, "1", "2")
		}
		x.wantWhole(x.log)
	}},
	{name: "every damaged record is found", needs: []need{damage}, run: func(x *fixture) {
		fill(x)
		records := x.allExported()
		for i, r := range records {
			x.damage(r, flips[i%len(flips)].flip)
			if found := x.verify(x.log).FaultCount; found <= int64(i) {
				x.Errorf("faults after %d damaged records, the last a %v: got %d", i+1, store.RecordKindOf(r), found)
			}
		}
	}},
	{name: "nothing that a commit has taken is a fault", run: func(x *fixture) {
		epoch := x.timer("t", "due in 1970", time.Unix(0, 0))
		x.commit(&store.Batch{
			Key: book("a"), Events: x.events("1"), Receipts: []store.Receipt{{Name: "r", Version: 1}}, Enqueue: []store.Message{epoch},
			// Checkpoints of a reader that follows another log.
			Checkpoints: []store.Checkpoint{{Name: "b", Position: 9}, {Name: "c", Position: store.NewPosition(100, 0)}},
		})
		for what, b := range map[string]*store.Batch{
			"a receipt of a later version":   {Key: book("a"), Expected: 1, Events: x.events("2"), Receipts: []store.Receipt{{Name: "later", Version: 3}}},
			"a receipt of no version so far": {Key: book("b"), Receipts: []store.Receipt{{Name: "r", Version: 1}}},
		} {
			x.wantError(what, x.try(b).Err, store.ErrInvalid)
		}
		want(x, "faults", x.verify(x.log).FaultCount, 0)
		want(x, "pending messages", len(x.messages(store.MessageQuery{})), 1)
		after := x.messages(store.MessageQuery{})[0]
		want(x, "messages behind the last", len(x.messages(store.MessageQuery{AfterDue: after.Due, After: after.Sequence})), 0)
	}},
	{name: "equal logs have equal digests and others do not", run: func(x *fixture) {
		x.append(book("a"), 0, "1")
		before := x.digest(x.log)
		want(x, "difference", before.Difference(x.digest(x.log)), "")
		x.append(book("a"), 1, "2")
		want(x, "difference", before.Difference(x.digest(x.log)), "1 events and 2")
	}},

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
		x.wantWhole(y.log)
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
		x.wantWhole(y.log)
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
		x.wantWhole(y.log)
	}},
	{name: "a copy keeps the gaps of deleted events", run: func(x *fixture) {
		threeSnapshots(x)
		x.append(book("b"), 0, "other")
		x.deleteEvents(book("a"), 4, all)
		y := x.copy()
		y.wantTexts("read", y.read(book("a"), 0), "4", "5", "6", "7")
		want(x, "scan", y.scan(store.Query{}), x.scan(store.Query{}))
		x.wantWhole(y.log)
		want(x, "deleted later", y.deleteEvents(book("a"), 6, all), 2)
		x.wantWhole(y.log)
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
		y.wantWhole(y.log)
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

	{name: "a backup holds what the log holds", needs: []need{backuper}, run: func(x *fixture) {
		fill(x)
		before := x.digest(x.log)
		path := filepath.Join(x.TempDir(), "backup")
		x.wantNoError("backup", admin.Backup(x.ctx, x.log, path, admin.BackupOptions{}))
		x.append(book("late"), 0, "1")
		y := x.around(x.features.OpenBackup(x, path, x.setup))
		want(x, "difference", before.Difference(y.digest(y.log)), "")
		x.wantWhole(y.log)
		y.append(book("late"), 0, "1")
	}},
	{name: "a backup does not replace what is there", needs: []need{backuper}, run: func(x *fixture) {
		path := filepath.Join(x.TempDir(), "backup")
		x.wantNoError("backup", admin.Backup(x.ctx, x.log, path, admin.BackupOptions{}))
		if err := admin.Backup(x.ctx, x.log, path, admin.BackupOptions{}); err == nil {
			x.Errorf("a second backup to the same path: got no error")
		}
	}},
}

// filled are the keys that fill uses, sorted.
var filled = []store.Key{book("a"), book("b"), {Kind: "shelf", ID: "s"}}

// fill stores records of every sort that the log can keep. Golden data begins with them, so
// fill must not change.
func fill(x *fixture) {
	x.Helper()
	threeSnapshots(x)
	b := &store.Batch{Key: book("b"), Events: []store.Event{x.event("1", "tag", "tag2")}}
	b.Events[0].Metadata = store.Metadata{CausationID: x.id(), CorrelationID: "c", TraceParent: "p", Values: map[string]string{"a": "b", "c": ""}}
	parked := x.message("parked")
	parked.Parked, parked.Attempts, parked.LastError, parked.Target = true, 3, "no", book("a")
	b.Enqueue = []store.Message{x.message("m"), parked}
	x.commit(b)
	for v := range store.Version(2) {
		x.commit(&store.Batch{Key: filled[2], Expected: v, Save: x.state(fmt.Sprint("saved ", v+1))})
	}
	b = &store.Batch{Key: book("a"), Expected: 7}
	b.Enqueue = []store.Message{x.timer("t", "wake", noon.Add(time.Hour)), x.message("settled")}
	b.Receipts = []store.Receipt{
		{Name: "r", CommandID: x.id(), Fingerprint: []byte("f"), Version: 7, ReplyType: "t", Reply: []byte("yes")},
		{Name: "no", Refusal: &store.Refusal{Code: 5, Message: "none", Details: []store.Detail{{Type: "t", Payload: []byte("d")}}}},
	}
	b.Claim = []store.Claim{ada, {Space: "address", Value: "zoe"}}
	b.Checkpoints = []store.Checkpoint{{Name: "reader", Position: 5}, {Name: "also", Position: 7}}
	x.commit(b)
	x.commit(&store.Batch{Settle: []store.Settlement{{Sequence: 4, Required: true}}})
}

// exportedNames compares the records that are found by name.
func (x *fixture) exportedNames(e store.Export) {
	x.Helper()
	messages := append(x.messages(store.MessageQuery{}), x.messages(store.MessageQuery{Parked: true})...)
	slices.SortFunc(messages, func(a, b *store.Message) int { return int(a.Sequence) - int(b.Sequence) })
	want(x, "messages", exported[*store.Message](x, e, store.KindMessage), messages)
	want(x, "last sequence", e.Origin().Sequence, 4)
	var receipts []*store.Receipt
	for _, key := range filled {
		receipts = append(receipts, x.receipts(key)...)
	}
	want(x, "receipts", exported[*store.Receipt](x, e, store.KindReceipt), receipts)
	var claims []store.Claimed
	for _, c := range exported[*store.Claimed](x, e, store.KindClaim) {
		claims = append(claims, *c)
	}
	want(x, "claims", claims, x.claims("address"))
	var marks []store.Checkpoint
	for _, m := range exported[*store.Checkpoint](x, e, store.KindCheckpoint) {
		marks = append(marks, *m)
	}
	want(x, "checkpoints", marks, x.checkpoints())
}

func (x *fixture) export() store.Export {
	x.Helper()
	e, err := x.log.Export(x.ctx)
	x.wantNoError("export", err)
	return e
}

// allExported returns copies of all records of the log.
func (x *fixture) allExported() (records []store.Record) {
	x.Helper()
	e := x.export()
	for _, s := range store.RecordKinds() {
		records = append(records, exported[store.Record](x, e, s)...)
	}
	x.wantNoError("close", e.Close())
	return records
}

// exported returns copies of the records of a sort.
func exported[R store.Record](x *fixture, e store.Export, s store.RecordKind) []R {
	x.Helper()
	var records []R
	for r, err := range e.Records(x.ctx, s) {
		x.wantNoError(fmt.Sprintf("export of %vs", s), err)
		switch c := r.(type) {
		case *store.Event:
			r = kept(c)
		case *store.State:
			r = c.Clone()
		}
		record, ok := r.(R)
		if !ok {
			x.Fatalf("export of %vs: got a %T, want a %v", s, r, reflect.TypeFor[R]())
		}
		records = append(records, record)
	}
	return records
}

func (x *fixture) verify(log store.Log) *admin.Report {
	x.Helper()
	report, err := admin.Verify(x.ctx, log, admin.VerifyOptions{})
	x.wantNoError("verify", err)
	return report
}

// wantWhole fails if verification finds a fault in a log.
func (x *fixture) wantWhole(log store.Log) {
	x.Helper()
	for _, fault := range x.verify(log).Faults {
		x.Errorf("verify: found %v in a whole log", fault)
	}
}

func (x *fixture) digest(log store.Log) *admin.Digest {
	x.Helper()
	d, err := admin.NewDigest(x.ctx, log, nil)
	x.wantNoError("digest", err)
	return d
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
