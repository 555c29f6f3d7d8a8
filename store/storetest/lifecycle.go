package storetest

import (
	"errors"

	"github.com/perdure/perdure/store"
)

// lifecycleCases test how a log is acquired, closed and opened again, and its statistics.
var lifecycleCases = []testCase{
	{name: "a closed log takes no commit, for certain", run: func(x *fixture) {
		x.wantNoError("close", x.log.Close())
		_, err := x.log.Commit(x.ctx, []*store.Batch{{Key: book("a"), Events: x.events("no")}})
		x.wantError("commit", err, store.ErrClosed)
		x.wantError("commit", err, store.ErrNotStored)
	}},
	{name: "a closed log cannot be read", run: func(x *fixture) {
		x.append(book("a"), 0, "one")
		x.wantNoError("close", x.log.Close())
		x.wantError("read", first(x, "read", x.log.Read(x.ctx, book("a"), 0)), store.ErrClosed)
		x.wantError("load", first(x, "load", x.log.Load(x.ctx, book("a"), always)), store.ErrClosed)
		x.wantError("scan", first(x, "scan", x.log.Scan(x.ctx, store.Query{})), store.ErrClosed)
		_, err := x.log.Heads(x.ctx)
		x.wantError("heads", err, store.ErrClosed)
	}},
	closed("catalog", func(x *fixture, check func(string, error)) {
		c := x.log
		_, err := c.Kinds(x.ctx)
		check("kinds", err)
		check("entities", first(x, "entities", c.Entities(x.ctx, "book", "")))
	}),
	closed("pruner", func(x *fixture, check func(string, error)) {
		_, err := x.log.DeleteEvents(x.ctx, book("a"), 1, 1)
		check("delete events", err)
		_, err = x.log.DeleteSnapshots(x.ctx, book("a"), 1)
		check("delete snapshots", err)
	}),
	closed("outbox", func(x *fixture, check func(string, error)) {
		check("messages", first(x, "messages", x.log.Messages(x.ctx, store.MessageQuery{})))
	}),
	closed("receipts", func(x *fixture, check func(string, error)) {
		_, err := x.log.Receipt(x.ctx, book("a"), "r")
		check("receipt", err)
		check("receipts", first(x, "receipts", x.log.Receipts(x.ctx, book("a"))))
	}),
	closed("claims", func(x *fixture, check func(string, error)) {
		_, err := x.log.Owner(x.ctx, ada)
		check("owner", err)
		check("claims", first(x, "claims", x.log.Claims(x.ctx, "address")))
	}),
	closed("checkpoints", func(x *fixture, check func(string, error)) {
		_, err := x.log.Checkpoints(x.ctx)
		check("checkpoints", err)
	}),
	closed("statistics", func(x *fixture, check func(string, error)) {
		_, err := x.log.Stats(x.ctx)
		check("stats", err)
	}),
	{name: "a log can be closed twice", run: func(x *fixture) {
		x.wantNoError("close", x.log.Close())
		if err := x.log.Close(); err != nil && !errors.Is(err, store.ErrClosed) {
			x.Errorf("second close: got %v, want nil or %v", err, store.ErrClosed)
		}
	}},

	{name: "only one engine can acquire a log", needs: []need{exclusive}, run: func(x *fixture) {
		release, err := x.log.Acquire()
		x.wantNoError("acquire", err)
		_, err = x.log.Acquire()
		x.wantError("acquire again", err, store.ErrInUse)
		release()
		release, err = x.log.Acquire()
		x.wantNoError("acquire after release", err)
		release()
	}},
	{name: "an acquired log works like any other", needs: []need{exclusive}, run: func(x *fixture) {
		release, err := x.log.Acquire()
		x.wantNoError("acquire", err)
		defer release()
		x.append(book("a"), 0, "one")
		x.wantTexts("read", x.read(book("a"), 0), "one")
	}},

	{name: "statistics describe the log", run: func(x *fixture) {
		info := x.stats().Info
		want(x, "partitions", info.Partitions, 1)
		if info.ID.IsZero() || info.Format == 0 || info.Created.IsZero() {
			x.Errorf("info: got %+v, want an id, a format and a time", info)
		}
		x.append(book("a"), 0, "one")
		want(x, "info later", x.stats().Info, info)
	}},
	{name: "statistics count the number of partitions", needs: []need{partitions}, setup: Setup{Partitions: 7}, run: func(x *fixture) {
		want(x, "partitions", x.stats().Info.Partitions, 7)
	}},
	{name: "statistics count events, entities and states", run: func(x *fixture) {
		threeSnapshots(x)
		x.append(book("b"), 0, "e")
		x.commit(&store.Batch{Key: book("c"), Save: x.state("1")})
		x.commit(&store.Batch{Key: book("c"), Expected: 1, Save: x.state("2")})
		x.try(&store.Batch{Key: book("d"), Expected: 1, Events: x.events("no")})
		s := x.stats()
		x.wantCount("events", s.Events, 8)
		x.wantCount("entities", s.Entities, 3)
		x.wantCount("states", s.Snapshots, 3)
		if s.FileBytes < -1 || s.FreeBytes < -1 || s.FreeBytes > max(s.FileBytes, 0) {
			x.Errorf("bytes: got %d, of which %d are free", s.FileBytes, s.FreeBytes)
		}
	}},
	{name: "statistics count messages", run: func(x *fixture) {
		park(x, "1", "2", "3", "4", "5")
		x.wantCount("pending", x.stats().Pending, 2)
		x.wantCount("parked", x.stats().Parked, 3)
	}},
	{name: "statistics do not count what has been deleted", run: func(x *fixture) {
		threeSnapshots(x)
		x.deleteEvents(book("a"), 5, all)
		x.deleteSnapshots(book("a"), 6)
		x.wantCount("events", x.stats().Events, 3)
		x.wantCount("states", x.stats().Snapshots, 1)
		x.wantCount("entities", x.stats().Entities, 1)
	}},

	{name: "events and states outlive the log", needs: []need{durable}, run: func(x *fixture) {
		threeSnapshots(x)
		x.commit(fullEventBatch(x))
		x.commit(&store.Batch{Key: book("saved"), Save: x.state("saved")})
		x.try(&store.Batch{Key: book("a"), Expected: 3, Events: x.events("no")})
		events := x.scan(store.Query{})
		x.reopen()
		want(x, "events", x.scan(store.Query{}), events)
		want(x, "heads", x.heads(), []store.Position{8})
		offered, loaded := x.load(book("a"), always)
		want(x, "versions offered", versionsOf(offered), []store.Version{6})
		x.wantTexts("load", loaded, "7")
		want(x, "saved state", string(x.latest(book("saved")).Payload), "saved")
	}},
	{name: "versions and positions go on after the log is opened again", needs: []need{durable}, run: func(x *fixture) {
		for v := range store.Version(4) {
			want(x, "position", x.append(book("a"), v, "e").Position, store.Position(v+1))
			x.reopen()
		}
		r := x.try(&store.Batch{Key: book("a"), Events: x.events("no")})
		x.wantConflict("result", r.Err, store.ConflictError{Key: book("a"), Actual: 4})
	}},
	{name: "an empty log can be opened again", needs: []need{durable}, run: func(x *fixture) {
		x.reopen()
		want(x, "heads", x.heads(), []store.Position{0})
		x.append(book("a"), 0, "one")
	}},
	{name: "partitions outlive the log", needs: []need{durable, partitions}, setup: Setup{Partitions: 3}, run: func(x *fixture) {
		for i := range 12 {
			x.append(book(numbered("%d", 12)[i]), 0, "e")
		}
		heads := x.heads()
		x.reopen()
		want(x, "heads", x.heads(), heads)
	}},
	{name: "the outbox outlives the log", needs: []need{durable}, run: func(x *fixture) {
		park(x, "1", "2", "3")
		x.commit(&store.Batch{Key: book("a"), Enqueue: []store.Message{x.timer("t", "timer", noon)}})
		pending, parked := x.messages(store.MessageQuery{}), x.messages(store.MessageQuery{Parked: true})
		x.reopen()
		want(x, "pending", x.messages(store.MessageQuery{}), pending)
		want(x, "parked", x.messages(store.MessageQuery{Parked: true}), parked)
		r := x.commit(&store.Batch{Key: book("a"), Enqueue: []store.Message{x.timer("t", "new", noon)}})
		if last := pending[len(pending)-1].Sequence; r.Sequence <= last {
			x.Errorf("sequence: got %d, want more than %d", r.Sequence, last)
		}
		x.wantMessages("pending", x.messages(store.MessageQuery{}), "2", "new")
	}},
	{name: "sequences are not used again after the log is opened again", needs: []need{durable}, run: func(x *fixture) {
		last := uint64(0)
		for range 3 {
			r := x.commit(&store.Batch{Key: book("a"), Enqueue: []store.Message{x.message("m")}})
			if r.Sequence <= last {
				x.Errorf("sequence: got %d, want more than %d", r.Sequence, last)
			}
			last = r.Sequence
			x.commit(&store.Batch{Settle: []store.Settlement{{Sequence: last}}})
			x.reopen()
		}
	}},
	{name: "receipts outlive the log", needs: []need{durable}, run: func(x *fixture) {
		x.commit(&store.Batch{Key: book("a"), Events: x.events("1", "2"), Receipts: []store.Receipt{fullReceipt(x), {Name: "s"}}})
		kept := x.receipts(book("a"))
		x.reopen()
		want(x, "receipts", x.receipts(book("a")), kept)
	}},
	{name: "claims outlive the log", needs: []need{durable}, run: func(x *fixture) {
		x.commit(&store.Batch{Key: book("a"), Claim: []store.Claim{ada, grace}})
		x.commit(&store.Batch{Key: book("a"), Release: []store.Claim{grace}})
		kept := x.claims("address")
		x.reopen()
		want(x, "claims", x.claims("address"), kept)
		x.wantClaimed(x.try(&store.Batch{Key: book("b"), Claim: []store.Claim{ada}}).Err, ada, book("a"))
		want(x, "owner", x.owner(grace), store.Key{})
	}},
	{name: "checkpoints outlive the log", needs: []need{durable}, run: func(x *fixture) {
		x.mark(store.Checkpoint{Name: "b", Position: 5}, store.Checkpoint{Name: "c", Position: 6})
		x.mark(store.Checkpoint{Name: "c", Remove: true})
		kept := x.checkpoints()
		x.reopen()
		want(x, "checkpoints", x.checkpoints(), kept)
	}},
	{name: "the catalog outlives the log", needs: []need{durable}, run: func(x *fixture) {
		threeSnapshots(x)
		x.append(store.Key{Kind: "shelf", ID: "s"}, 0, "e")
		entities := x.entities("book", "")
		x.reopen()
		want(x, "kinds", x.kinds(), []string{"book", "shelf"})
		want(x, "entities", x.entities("book", ""), entities)
	}},
	{name: "deletions outlive the log", needs: []need{durable}, run: func(x *fixture) {
		threeSnapshots(x)
		x.deleteEvents(book("a"), 5, all)
		x.deleteSnapshots(book("a"), 6)
		x.reopen()
		x.wantTexts("read", x.read(book("a"), 0), "5", "6", "7")
		offered, _ := x.load(book("a"), never)
		want(x, "versions offered", versionsOf(offered), []store.Version{6})
		want(x, "position", x.append(book("a"), 7, "8").Position, 8)
	}},
	{name: "statistics outlive the log", needs: []need{durable}, run: func(x *fixture) {
		threeSnapshots(x)
		before := x.stats()
		x.reopen()
		after := x.stats()
		after.FileBytes, after.FreeBytes = before.FileBytes, before.FreeBytes
		want(x, "stats", after, before)
	}},
}

// closed returns the case that a method of a closed log returns an error that says so.
func closed(what string, call func(x *fixture, check func(string, error))) testCase {
	return testCase{name: "the " + what + " of a closed log cannot be used", run: func(x *fixture) {
		x.wantNoError("close", x.log.Close())
		call(x, func(what string, err error) {
			x.Helper()
			x.wantError(what, err, store.ErrClosed)
		})
	}}
}

func (x *fixture) stats() store.Stats {
	x.Helper()
	s, err := x.log.Stats(x.ctx)
	if err != nil {
		x.Fatalf("stats: %v", err)
	}
	return s
}

// wantCount fails unless the figure is right, or -1 for "not known".
func (x *fixture) wantCount(what string, got, count int64) {
	x.Helper()
	if got != count && got != -1 {
		x.Errorf("count of %s: got %d, want %d", what, got, count)
	}
}
