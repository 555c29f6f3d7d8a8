package storetest

import (
	"context"
	"fmt"
	"path/filepath"
	"reflect"
	"slices"
	"time"

	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/admin"
)

// exportCases test the exports of a whole log.
var exportCases = []testCase{
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
}

// backupCases test backups of a log.
var backupCases = []testCase{
	{name: "a backup holds what the log holds", needs: []need{backuper}, run: func(x *fixture) {
		fill(x)
		before := x.digest(x.log)
		path := filepath.Join(x.TempDir(), "backup")
		x.wantNoError("backup", admin.Backup(x.ctx, x.log, path, admin.BackupOptions{}))
		x.append(book("late"), 0, "1")
		y := x.around(x.features.OpenBackup(x, path, x.setup))
		want(x, "difference", before.Difference(y.digest(y.log)), "")
		x.wantNoFaults(y.log)
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
