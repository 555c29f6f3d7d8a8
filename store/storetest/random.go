package storetest

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/perdure/perdure/store"
)

// A randomRun is one random sequence of operations, on one log or alternately on two logs that
// share their storage.
type randomRun struct {
	x      *fixture
	m      *model
	serial int
}

// A randomTB reports the failures of a fixture to rapid, so that rapid can look for a
// smaller sequence. Cleanups and folders are those of the whole case.
type randomTB struct {
	testing.TB
	rt *rapid.T
}

func (t *randomTB) Errorf(format string, args ...any) { t.rt.Errorf(format, args...) }
func (t *randomTB) Fatalf(format string, args ...any) { t.rt.Fatalf(format, args...) }
func (t *randomTB) Logf(format string, args ...any)   { t.rt.Logf(format, args...) }

func runModel(x *fixture, partitions int) {
	x.Helper()
	setup := Setup{Partitions: partitions}
	rapid.Check(x, func(rt *rapid.T) {
		y := &fixture{TB: &randomTB{x.TB, rt}, open: x.open, features: x.features, setup: setup, log: x.open(x.TB, setup), ctx: x.ctx}
		own, other := y.log, store.Log(nil) // the two logs share their storage
		leave := func() {
			if y.log = own; other != nil {
				_ = other.Close() // an error would hide the earlier failure
				other = nil
			}
		}
		defer func() {
			leave()
			_ = own.Close()
		}()
		r := &randomRun{x: y, m: newModel(partitions)}
		actions := map[string]func(*rapid.T){
			"":                 r.compare,
			"commit":           r.commit,
			"delete events":    r.deleteEvents,
			"delete snapshots": r.deleteSnapshots,
		}
		if x.features.Reopen != nil {
			actions["reopen"] = func(*rapid.T) {
				leave()
				y.reopen()
				own = y.log
			}
		}
		if x.features.Share != nil {
			actions["take the other log"] = func(*rapid.T) {
				switch {
				case other == nil:
					other = x.features.Share(x.TB, own, setup)
					y.log = other
				case y.log == other:
					y.log = own
				default:
					y.log = other
				}
			}
		}
		rt.Repeat(actions)
		r.verify(rt)
	})
}

// verify verifies the log, which must have no fault after any sequence.
func (r *randomRun) verify(rt *rapid.T) {
	for _, fault := range r.x.verify(r.x.log).Faults {
		rt.Fatalf("verify: found %v in a whole log", fault)
	}
}

var (
	modelKeys = rapid.SampledFrom([]store.Key{
		{Kind: "book", ID: "a"}, {Kind: "book", ID: "aa"}, {Kind: "book", ID: "a\x01"}, {Kind: "shelf", ID: "a"}, {Kind: "b", ID: "ooka"},
	})
	modelNames  = rapid.SampledFrom([]string{"n", "nn", "é"})
	modelDues   = rapid.SampledFrom([]time.Time{{}, noon, noon.Add(1)})
	modelBools  = rapid.Bool()
	modelOwners = rapid.Uint64Range(0, 2)
	modelOften  = rapid.IntRange(0, 7) // 0 means: make the odd choice
)

func (r *randomRun) text() string {
	r.serial++
	return fmt.Sprint(r.serial)
}

func (r *randomRun) commit(rt *rapid.T) {
	n := rapid.IntRange(1, 5).Draw(rt, "batches")
	versions := make(map[store.Key]store.Version) // versions of the entities if the log accepts all batches
	group := make([]*store.Batch, n)
	for i := range group {
		group[i] = r.batch(rt, versions)
	}
	results, err := r.x.log.Commit(r.x.ctx, group)
	if err != nil {
		rt.Fatalf("commit of %d batches: %v", n, err)
	}
	if len(results) != n {
		rt.Fatalf("commit of %d batches: got %d results", n, len(results))
	}
	if err := r.m.commit(group, results); err != nil {
		rt.Fatalf("commit: %v", err)
	}
}

func (r *randomRun) batch(rt *rapid.T, versions map[store.Key]store.Version) *store.Batch {
	b := &store.Batch{}
	if modelBools.Draw(rt, "settle") {
		r.settle(rt, b)
	}
	if modelBools.Draw(rt, "checkpoint") {
		b.Checkpoints = append(b.Checkpoints, store.Checkpoint{
			Name: modelNames.Draw(rt, "name"), Position: store.Position(r.serial), Remove: modelOften.Draw(rt, "remove") == 0,
		})
	}
	if modelOften.Draw(rt, "no key") == 0 {
		return b
	}
	b.Key = modelKeys.Draw(rt, "key")
	e := r.m.entity(b.Key)
	b.Expected = max(versions[b.Key], e.version)
	if modelOften.Draw(rt, "wrong version") == 0 {
		b.Expected = store.Version(rapid.IntRange(0, 9).Draw(rt, "expected"))
	}
	r.change(rt, b)
	versions[b.Key] = b.Next()
	if modelBools.Draw(rt, "receipt") {
		b.Receipts = append(b.Receipts, store.Receipt{Name: modelNames.Draw(rt, "name"), Reply: []byte(r.text())})
		if modelBools.Draw(rt, "forget") {
			b.Forget = append(b.Forget, modelNames.Draw(rt, "name"))
		}
	}
	if modelBools.Draw(rt, "claim") {
		claim := rapid.Map(modelNames, func(s string) store.Claim { return store.Claim{Space: spaceOf(s), Value: s} })
		b.Claim = append(b.Claim, claim.Draw(rt, "claimed"))
		if modelBools.Draw(rt, "release") {
			b.Release = append(b.Release, claim.Draw(rt, "released"))
		}
	}
	return b
}

// change draws events, a state, a snapshot, messages and timers. An entity of kind shelf is
// durable-state; the others are event-sourced.
func (r *randomRun) change(rt *rapid.T, b *store.Batch) {
	if b.Key.Kind == "shelf" {
		if modelBools.Draw(rt, "save") {
			b.Save = r.x.state(r.text())
		}
	} else {
		for range rapid.IntRange(0, 3).Draw(rt, "events") {
			b.Events = append(b.Events, r.x.event(r.text(), modelNames.Draw(rt, "tag")))
		}
		if b.Next() > 0 && modelOften.Draw(rt, "snapshot") < 3 {
			b.Snapshot = r.x.state(r.text())
		}
	}
	if modelOften.Draw(rt, "cancel") == 0 {
		b.Cancel = append(b.Cancel, modelNames.Draw(rt, "timer"))
	}
	for range rapid.IntRange(0, 2).Draw(rt, "messages") {
		m := r.x.message(r.text())
		m.Due = modelDues.Draw(rt, "due")
		m.Owner = modelOwners.Draw(rt, "owner")
		if modelBools.Draw(rt, "timer") {
			m.Timer = modelNames.Draw(rt, "name")
		}
		b.Enqueue = append(b.Enqueue, m)
	}
}

func (r *randomRun) settle(rt *rapid.T, b *store.Batch) {
	if len(r.m.messages) == 0 {
		return
	}
	s := store.Settlement{
		Sequence: rapid.SampledFrom(r.m.messages).Draw(rt, "message").sequence,
		Required: modelBools.Draw(rt, "required"),
	}
	if s.Conditional = modelBools.Draw(rt, "conditional"); s.Conditional {
		s.IfOwner, s.IfParked = modelOwners.Draw(rt, "if owner"), modelBools.Draw(rt, "if parked")
	}
	if modelOften.Draw(rt, "unknown message") == 0 {
		s.Sequence += 1000
	}
	if modelBools.Draw(rt, "change") {
		for _, q := range []store.MessageQuery{{}, {Parked: true}} {
			for _, m := range r.x.messages(q) {
				if m.Sequence == s.Sequence {
					m.Parked, m.Due = modelBools.Draw(rt, "park"), modelDues.Draw(rt, "due")
					m.Owner = modelOwners.Draw(rt, "next owner")
					m.Halted = m.Parked && m.Timer == "" && m.Due.IsZero() && modelBools.Draw(rt, "halt")
					s.Message = m
				}
			}
		}
	}
	b.Settle = append(b.Settle, s)
}

func (r *randomRun) deleteEvents(rt *rapid.T) {
	key := modelKeys.Draw(rt, "key")
	below := store.Version(rapid.IntRange(0, int(r.m.entity(key).version)+1).Draw(rt, "below"))
	through := store.LastPosition(store.PartitionOf(key, len(r.m.log)))
	n, err := r.x.log.DeleteEvents(r.x.ctx, key, below, through)
	if count, ok := r.m.deleteEvents(key, below); ok {
		if n != count || err != nil {
			rt.Fatalf("delete events of %v below %d: got %d and error %v, want %d", key, below, n, err, count)
		}
	} else if !errors.Is(err, store.ErrInvalid) {
		rt.Fatalf("delete events of %v below %d: got error %v, want %v", key, below, err, store.ErrInvalid)
	}
}

func (r *randomRun) deleteSnapshots(rt *rapid.T) {
	key := modelKeys.Draw(rt, "key")
	below := store.Version(rapid.IntRange(0, int(r.m.entity(key).version)+1).Draw(rt, "below"))
	n, err := r.x.log.DeleteSnapshots(r.x.ctx, key, below)
	if count := r.m.deleteSnapshots(key, below); n != count || err != nil {
		rt.Fatalf("delete snapshots of %v below %d: got %d and error %v, want %d", key, below, n, err, count)
	}
}

// ---- comparison of the log with the model

// compare reads everything in the log and compares it with the model.
func (r *randomRun) compare(rt *rapid.T) {
	r.comparePartitions(rt)
	for _, key := range slices.SortedFunc(maps.Keys(r.m.entities), compareKeys) {
		r.compareEntity(rt, key)
	}
	r.compareOutbox(rt)
	r.compareReceipts(rt)
	r.compareClaims(rt)
	checkpoints := make(map[string]store.Position)
	for _, k := range r.x.checkpoints() {
		checkpoints[k.Name] = k.Position
	}
	same(rt, "checkpoints", checkpoints, r.m.checkpoints)
	deletions := make(map[modelDeletion]store.Position)
	for _, d := range r.x.deletions() {
		deletions[modelDeletion{d.Kind, d.Through.Partition()}] = d.Through
	}
	same(rt, "deletions", deletions, r.m.deleted)
	r.compareCatalog(rt)
}

func compareKeys(a, b store.Key) int {
	return cmp.Or(strings.Compare(a.Kind, b.Kind), strings.Compare(a.ID, b.ID))
}

func same(rt *rapid.T, what string, got, want any) {
	if !reflect.DeepEqual(got, want) {
		rt.Fatalf("%s: got %+v, want %+v", what, got, want)
	}
}

func (r *randomRun) comparePartitions(rt *rapid.T) {
	heads := r.x.heads()
	for p, events := range r.m.log {
		same(rt, "head", heads[p], store.NewPosition(p, uint64(len(events))))
		var wanted, got []string
		for i, e := range events {
			if !e.deleted {
				wanted = append(wanted, fmt.Sprintf("%d %q %d %s", i+1, e.key, e.version, e.text))
			}
		}
		for _, e := range r.x.scan(store.Query{After: store.NewPosition(p, 0)}) {
			got = append(got, fmt.Sprintf("%d %q %d %s", e.Position.Sequence(), e.Key, e.Version, e.Payload))
		}
		same(rt, fmt.Sprintf("scan of partition %d", p), got, wanted)
	}
}

func (r *randomRun) compareEntity(rt *rapid.T, key store.Key) {
	e := r.m.entities[key]
	if r := r.x.try(&store.Batch{Key: key, Expected: e.version}); r.Err != nil {
		rt.Fatalf("version of %v: got %v, want %d", key, r.Err, e.version)
	}
	events := make(map[store.Version]string)
	for _, ev := range r.x.read(key, 0) {
		events[ev.Version] = string(ev.Payload)
	}
	same(rt, fmt.Sprintf("read %v", key), events, e.events)

	latest := store.Version(0)
	for v := range e.states {
		latest = max(latest, v)
	}
	offered, later := r.x.load(key, always)
	if latest == 0 {
		same(rt, fmt.Sprintf("states of %v", key), len(offered), 0)
		same(rt, fmt.Sprintf("load %v", key), len(later), len(events))
		return
	}
	same(rt, fmt.Sprintf("states of %v", key), versionsOf(offered), []store.Version{latest})
	same(rt, fmt.Sprintf("state of %v", key), string(offered[0].Payload), e.states[latest])
	var wanted []string
	if !r.m.saved[key] {
		for v := latest + 1; v <= e.version; v++ {
			wanted = append(wanted, e.events[v])
		}
	}
	same(rt, fmt.Sprintf("load %v above %d", key, latest), textsOf(later), wanted)
}

func (r *randomRun) compareOutbox(rt *rapid.T) {
	for _, parked := range []bool{false, true} {
		rows := slices.Clone(r.m.messages)
		rows = slices.DeleteFunc(rows, func(m modelMessage) bool { return m.parked != parked })
		if !parked {
			slices.SortStableFunc(rows, func(a, b modelMessage) int { return a.due.Compare(b.due) })
		}
		got := modelMessages(r.x.messages(store.MessageQuery{Parked: parked}))
		if len(got)+len(rows) > 0 {
			same(rt, fmt.Sprintf("messages, parked %t", parked), got, rows)
		}
	}
	rows := slices.DeleteFunc(slices.Clone(r.m.messages), func(m modelMessage) bool { return m.parked && !m.halted })
	slices.SortStableFunc(rows, func(a, b modelMessage) int { return a.due.Compare(b.due) })
	if got := modelMessages(r.x.undelivered(store.MessageQuery{})); len(got)+len(rows) > 0 {
		same(rt, "undelivered messages", got, rows)
	}
}

// modelMessages returns messages as the model has them.
func modelMessages(messages []*store.Message) (rows []modelMessage) {
	for _, m := range messages {
		rows = append(rows, modelMessage{
			sequence: m.Sequence, source: m.Source, timer: m.Timer, due: m.Due, text: string(m.Payload), parked: m.Parked, halted: m.Halted, owner: m.Owner,
		})
	}
	return rows
}

func (r *randomRun) compareReceipts(rt *rapid.T) {
	got := make(map[[3]string]string)
	for key := range r.m.entities {
		for _, c := range r.x.receipts(key) {
			got[[3]string{key.Kind, key.ID, c.Name}] = string(c.Reply)
		}
	}
	same(rt, "receipts", got, r.m.receipts)
}

func (r *randomRun) compareClaims(rt *rapid.T) {
	got := make(map[store.Claim]store.Key)
	for _, space := range []string{"s1", "s2"} {
		for _, c := range r.x.claims(space) {
			got[c.Claim] = c.Owner
		}
	}
	same(rt, "claims", got, r.m.claims)
}

func (r *randomRun) compareCatalog(rt *rapid.T) {
	wanted := make(map[store.Key]store.Version)
	for key, e := range r.m.entities {
		if e.version > 0 {
			wanted[key] = e.version
		}
	}
	got := make(map[store.Key]store.Version)
	for _, kind := range r.x.kinds() {
		for _, e := range r.x.entities(kind, "") {
			got[e.Key] = e.Version
		}
	}
	same(rt, "catalog", got, wanted)
}

// spaceOf distributes the names over two spaces.
func spaceOf(name string) string { return fmt.Sprint("s", len(name)%2+1) }
