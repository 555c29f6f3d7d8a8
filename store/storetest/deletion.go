package storetest

import (
	"time"

	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/admin"
)

// deletionCases test the marks that a deletion of events leaves behind.
var deletionCases = []testCase{
	{name: "a log tells of no deletion before there is one", run: func(x *fixture) {
		threeSnapshots(x)
		want(x, "number of deletions", len(x.deletions()), 0)
		x.deleteEvents(book("a"), 1, all)
		x.deleteEvents(book("a"), 4, 0)
		want(x, "number of deletions after one that deleted nothing", len(x.deletions()), 0)
	}},
	{name: "a log tells the highest position that was deleted of a kind", run: func(x *fixture) {
		threeSnapshots(x)
		x.deleteEvents(book("a"), 4, 2)
		want(x, "deletions", x.deleted(), map[string]store.Position{"book": 2})
		x.deleteEvents(book("a"), 4, all)
		want(x, "deletions", x.deleted(), map[string]store.Position{"book": 3})
	}},
	{name: "a deletion below an earlier one shows in its time alone", run: func(x *fixture) {
		x.commit(&store.Batch{Key: book("b"), Events: x.events("1", "2", "3"), Snapshot: x.state("s")}) // at positions 1 to 3
		x.commit(&store.Batch{Key: book("a"), Events: x.events("1", "2", "3"), Snapshot: x.state("s")}) // at positions 4 to 6
		x.deleteEvents(book("a"), 3, all)
		before := x.deletions()
		for below := range store.Version(2) {
			x.deleteEvents(book("b"), below+2, all)
			after := x.deletions()
			want(x, "deletions", x.deleted(), map[string]store.Position{"book": 5})
			if !after[0].Time.After(before[0].Time) {
				x.Errorf("time of the deletion: got %v, want one after %v", after[0].Time, before[0].Time)
			}
			before = after
		}
		x.deleteEvents(book("b"), 3, all) // no event is left to delete
		want(x, "deletions", x.deletions(), before)
	}},
	{name: "every deletion has another time, though the clock stands still", needs: []need{clock}, setup: Setup{Clock: func() time.Time { return noon }}, run: func(x *fixture) {
		threeSnapshots(x)
		times := map[time.Time]bool{}
		for below := store.Version(2); below <= 5; below++ {
			x.deleteEvents(book("a"), below, all)
			times[x.deletions()[0].Time] = true
		}
		want(x, "number of times", len(times), 4)
	}},
	{name: "deletions of kinds are told apart and sorted", run: func(x *fixture) {
		keys := []store.Key{{Kind: "b", ID: "1"}, {Kind: "a/b", ID: "1"}, {Kind: "a", ID: "1"}, {Kind: "é", ID: "1"}}
		for _, key := range keys {
			x.commit(&store.Batch{Key: key, Events: x.events("1", "2"), Snapshot: x.state("s")})
		}
		for _, key := range keys {
			x.deleteEvents(key, 2, all)
		}
		var got []store.Deletion
		for _, d := range x.deletions() {
			d.Time = time.Time{}
			got = append(got, d)
		}
		want(x, "deletions", got, []store.Deletion{{Kind: "a", Through: 5}, {Kind: "a/b", Through: 3}, {Kind: "b", Through: 1}, {Kind: "é", Through: 7}})
	}},
	{name: "deletions of partitions are told apart", needs: []need{partitions}, setup: Setup{Partitions: 3}, run: func(x *fixture) {
		wanted := map[int]store.Position{}
		for _, id := range oddIDs {
			key := book(id)
			p := store.PartitionOf(key, 3)
			if wanted[p] != 0 {
				continue
			}
			x.commit(&store.Batch{Key: key, Events: x.events("1", "2", "3"), Snapshot: x.state("s")})
			x.deleteEvents(key, 3, store.LastPosition(p))
			wanted[p] = store.NewPosition(p, 2)
		}
		got := map[int]store.Position{}
		for _, d := range x.deletions() {
			got[d.Through.Partition()] = d.Through
		}
		want(x, "deletions", got, wanted)
	}},
	{name: "a deletion that takes many transactions is told whole", run: func(x *fixture) {
		const n = 9000
		x.commit(&store.Batch{Key: book("a"), Events: x.events(numbered("%d", n)...), Snapshot: x.state("s")})
		x.deleteEvents(book("a"), n-10, all)
		want(x, "deletions", x.deleted(), map[string]store.Position{"book": n - 11})
	}},
	{name: "deletions are no checkpoints of readers, and no batch moves them", run: func(x *fixture) {
		threeSnapshots(x)
		x.mark(store.Checkpoint{Name: "reader", Position: 5})
		x.deleteEvents(book("a"), 4, all)
		want(x, "checkpoints", x.marks(), []store.Checkpoint{{Name: "reader", Position: 5}})
		for _, remove := range []bool{false, true} {
			r := x.try(&store.Batch{Checkpoints: []store.Checkpoint{{Name: store.DeletionPrefix + "book", Position: 1, Remove: remove}}})
			x.wantError("a batch that moves a deletion", r.Err, store.ErrInvalid)
		}
		want(x, "deletions", x.deleted(), map[string]store.Position{"book": 3})
		x.wantNoFaults(x.log)
	}},
	{name: "deletions outlive the process", needs: []need{durable}, run: func(x *fixture) {
		threeSnapshots(x)
		x.deleteEvents(book("a"), 4, all)
		before := x.deletions()
		x.reopen()
		want(x, "deletions", x.deletions(), before)
	}},
	{name: "a copy has the deletions of its origin", run: func(x *fixture) {
		threeSnapshots(x)
		x.deleteEvents(book("a"), 4, all)
		y := x.copy()
		want(x, "deletions", y.deletions(), x.deletions())
		y.deleteEvents(book("a"), 6, all)
		want(x, "deletions later", y.deleted(), map[string]store.Position{"book": 5})
		y.wantNoFaults(y.log)
	}},
	{name: "a backup has the deletions of the log", needs: []need{backuper}, run: func(x *fixture) {
		threeSnapshots(x)
		x.deleteEvents(book("a"), 4, all)
		path := x.TempDir() + "/backup"
		x.wantNoError("backup", admin.Backup(x.ctx, x.log, path, admin.BackupOptions{}))
		y := x.around(x.features.OpenBackup(x, path, x.setup))
		want(x, "deletions", y.deletions(), x.deletions())
	}},
	closed("deletions", func(x *fixture, check func(string, error)) {
		_, err := x.log.Deleted(x.ctx)
		check("deleted", err)
	}),
}

// deletions returns the deletions that the log reports, and checks that they are in order.
func (x *fixture) deletions() []store.Deletion {
	x.Helper()
	all, err := x.log.Deleted(x.ctx)
	if err != nil {
		x.Fatalf("deleted: %v", err)
	}
	for i := range all {
		if i > 0 && all[i-1].Kind > all[i].Kind {
			x.Errorf("deletions: got %q before %q, want them sorted", all[i-1].Kind, all[i].Kind)
		}
		if all[i].Time.Location() != time.UTC {
			x.Errorf("location of the time of a deletion: got %v, want UTC", all[i].Time.Location())
		}
	}
	return all
}

// deleted returns, for each kind, the position through which events were deleted. The log
// has one partition.
func (x *fixture) deleted() map[string]store.Position {
	x.Helper()
	through := map[string]store.Position{}
	for _, d := range x.deletions() {
		through[d.Kind] = d.Through
	}
	return through
}
