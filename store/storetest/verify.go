package storetest

import (
	"fmt"
	"time"

	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/admin"
)

// verifyCases test that a log is verified and that logs are compared.
var verifyCases = []testCase{
	{name: "a whole log has no faults", run: func(x *fixture) {
		x.wantNoFaults(x.log)
		fill(x)
		x.wantNoFaults(x.log)
		x.deleteEvents(book("a"), 4, all)
		x.wantNoFaults(x.log)
		if x.features.Reopen != nil {
			x.reopen()
			x.wantNoFaults(x.log)
		}
	}},
	{name: "a whole log in many partitions has no faults", needs: []need{partitions}, setup: Setup{Partitions: 3}, run: func(x *fixture) {
		for i := range 20 {
			x.append(book(fmt.Sprint(i)), 0, "1", "2")
		}
		x.wantNoFaults(x.log)
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
}

func (x *fixture) verify(log store.Log) *admin.Report {
	x.Helper()
	report, err := admin.Verify(x.ctx, log, admin.VerifyOptions{})
	x.wantNoError("verify", err)
	return report
}

// wantNoFaults fails if verification finds a fault in a log.
func (x *fixture) wantNoFaults(log store.Log) {
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
