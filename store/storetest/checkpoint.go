package storetest

import (
	"time"

	"github.com/perdure/perdure/store"
)

var checkpointCases = []testCase{
	{name: "a log without checkpoints has none", run: func(x *fixture) {
		want(x, "number of checkpoints", len(x.checkpoints()), 0)
	}},
	{name: "a checkpoint is read back as it was written", run: func(x *fixture) {
		r := x.mark(store.Checkpoint{Name: "b", Position: 5})
		want(x, "checkpoints", x.checkpoints(), []store.Checkpoint{{Name: "b", Position: 5, Time: r.Time.UTC()}})
		want(x, "location of the time", x.checkpoints()[0].Time.Location(), time.UTC)
	}},
	{name: "a checkpoint moves forwards and backwards", run: func(x *fixture) {
		for _, p := range []store.Position{5, 9, 2} {
			x.mark(store.Checkpoint{Name: "b", Position: p})
			want(x, "checkpoints", x.marks(), []store.Checkpoint{{Name: "b", Position: p}})
		}
	}},
	{name: "a removed checkpoint is gone", run: func(x *fixture) {
		x.mark(store.Checkpoint{Name: "b", Position: 5}, store.Checkpoint{Name: "bb", Position: 6})
		x.mark(store.Checkpoint{Name: "b", Position: 77, Remove: true}, store.Checkpoint{Name: "unknown", Remove: true})
		want(x, "checkpoints", x.marks(), []store.Checkpoint{{Name: "bb", Position: 6}})
	}},
	{name: "checkpoints of a batch take effect in order", run: func(x *fixture) {
		x.mark(store.Checkpoint{Name: "b", Position: 5}, store.Checkpoint{Name: "b", Remove: true}, store.Checkpoint{Name: "b", Position: 6},
			store.Checkpoint{Name: "c", Position: 1}, store.Checkpoint{Name: "c", Remove: true})
		want(x, "checkpoints", x.marks(), []store.Checkpoint{{Name: "b", Position: 6}})
	}},
	{name: "a checkpoint at the very beginning is kept", run: func(x *fixture) {
		x.mark(store.Checkpoint{Name: "b"})
		want(x, "checkpoints", x.marks(), []store.Checkpoint{{Name: "b"}})
	}},
	{name: "checkpoints are sorted by name and partition", needs: []need{partitions}, setup: Setup{Partitions: 3}, run: func(x *fixture) {
		var wanted []store.Checkpoint
		for i := range oddIDs {
			for p := range 3 {
				wanted = append(wanted, store.Checkpoint{Name: oddIDs[i], Position: store.NewPosition(p, uint64(10-p))})
			}
		}
		for i := range wanted {
			x.mark(wanted[(i*11)%len(wanted)]) // not in the order of their names
		}
		want(x, "checkpoints", x.marks(), wanted)
		x.mark(store.Checkpoint{Name: "a", Position: store.NewPosition(1, 0), Remove: true})
		want(x, "number of checkpoints", len(x.marks()), len(wanted)-1)
	}},
	{name: "a checkpoint of a refused batch does not move", run: func(x *fixture) {
		x.mark(store.Checkpoint{Name: "b", Position: 5})
		r := x.try(&store.Batch{Key: book("a"), Expected: 1, Checkpoints: []store.Checkpoint{{Name: "b", Position: 6}}})
		x.wantError("result", r.Err, store.ErrConflict)
		want(x, "checkpoints", x.marks(), []store.Checkpoint{{Name: "b", Position: 5}})
	}},
	{name: "a checkpoint moves with the events of its batch", run: func(x *fixture) {
		x.commit(&store.Batch{Key: book("a"), Events: x.events("e"), Checkpoints: []store.Checkpoint{{Name: "b", Position: 6}}})
		want(x, "checkpoints", x.marks(), []store.Checkpoint{{Name: "b", Position: 6}})
		x.wantVersion(book("a"), 1)
	}},
}

func (x *fixture) mark(marks ...store.Checkpoint) store.Result {
	x.Helper()
	return x.commit(&store.Batch{Checkpoints: marks})
}

// marks returns the checkpoints without their times.
func (x *fixture) marks() []store.Checkpoint {
	x.Helper()
	marks := x.checkpoints()
	for i := range marks {
		marks[i].Time = time.Time{}
	}
	return marks
}
