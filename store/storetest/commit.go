package storetest

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/perdure/perdure/store"
)

var commitCases = []testCase{
	{name: "the first batch of an entity makes its versions from 1", run: func(x *fixture) {
		x.append(book("a"), 0, "one", "two", "three")
		events := x.read(book("a"), 0)
		x.wantTexts("read", events, "one", "two", "three")
		for i, e := range events {
			want(x, "version", e.Version, store.Version(i+1))
		}
	}},
	{name: "a batch at the expected version is stored", run: func(x *fixture) {
		x.append(book("a"), 0, "one", "two")
		x.append(book("a"), 2, "three")
		x.wantTexts("read", x.read(book("a"), 0), "one", "two", "three")
		x.wantVersion(book("a"), 3)
	}},
	conflict("a batch that expects a lower version conflicts", 2, 1),
	conflict("a batch that expects version 0 of an entity with events conflicts", 1, 0),
	conflict("a batch that expects a higher version conflicts", 2, 3),
	conflict("a batch that expects a version of an entity without events conflicts", 0, 1),
	{name: "a conflicting batch stores nothing", run: func(x *fixture) {
		x.append(book("a"), 0, "one")
		heads := x.heads()
		b := &store.Batch{Key: book("a"), Expected: 5, Events: x.events("two"), Snapshot: x.state("s")}
		x.wantError("result", x.try(b).Err, store.ErrConflict)
		want(x, "heads", x.heads(), heads)
		x.wantTexts("scan", x.scan(store.Query{}), "one")
		want(x, "state", x.latest(book("a")), nil)
		x.wantVersion(book("a"), 1)
	}},
	{name: "a refused batch has no position and no sequence in its result", run: func(x *fixture) {
		r := x.try(&store.Batch{Key: book("a"), Expected: 1, Events: x.events("one")})
		want(x, "position", r.Position, 0)
		want(x, "sequence", r.Sequence, 0)
	}},
	{name: "an entity whose batch conflicted takes the next one", run: func(x *fixture) {
		x.append(book("a"), 0, "one")
		x.wantError("result", x.try(&store.Batch{Key: book("a"), Events: x.events("no")}).Err, store.ErrConflict)
		x.append(book("a"), 1, "two")
		x.wantTexts("read", x.read(book("a"), 0), "one", "two")
	}},
	{name: "results are in the order of the group", run: func(x *fixture) {
		var group []*store.Batch
		for i := range 20 {
			b := &store.Batch{Key: book(fmt.Sprint(i)), Events: x.events(fmt.Sprint(i))}
			if i%3 == 1 {
				b.Expected = 7 // the version does not match, so the batch is refused
			}
			group = append(group, b)
		}
		results := x.group(group...)
		for i, r := range results {
			want(x, fmt.Sprintf("batch %d refused", i), r.Err != nil, i%3 == 1)
			if r.Err == nil {
				x.wantTexts("event at the position of the result", x.scan(store.Query{After: r.Position - 1, Through: r.Position}), fmt.Sprint(i))
			}
		}
	}},
	{name: "batches take their turn in the order of the group", run: func(x *fixture) {
		x.group(
			&store.Batch{Key: book("a"), Events: x.events("a1")},
			&store.Batch{Key: book("b"), Events: x.events("b1")},
			&store.Batch{Key: book("c"), Events: x.events("c1")},
		)
		x.wantTexts("scan", x.scan(store.Query{}), "a1", "b1", "c1")
	}},
	{name: "a later batch of a group sees what an earlier one has changed", run: func(x *fixture) {
		results := x.group(
			&store.Batch{Key: book("a"), Events: x.events("one", "two")},
			&store.Batch{Key: book("a"), Expected: 2, Events: x.events("three")},
			&store.Batch{Key: book("a"), Expected: 3},
		)
		for i, r := range results {
			want(x, fmt.Sprintf("error of batch %d", i), r.Err, nil)
		}
		x.wantTexts("read", x.read(book("a"), 0), "one", "two", "three")
	}},
	{name: "a batch that ignores an earlier one of the group conflicts", run: func(x *fixture) {
		results := x.group(
			&store.Batch{Key: book("a"), Events: x.events("one")},
			&store.Batch{Key: book("a"), Events: x.events("other")},
		)
		want(x, "error of the first", results[0].Err, nil)
		x.wantConflict("second", results[1].Err, store.ConflictError{Key: book("a"), Actual: 1})
		x.wantTexts("read", x.read(book("a"), 0), "one")
	}},
	{name: "batches behind a refused one of the same entity are refused with it", run: func(x *fixture) {
		results := x.group(
			&store.Batch{Key: book("a"), Expected: 1, Events: x.events("no")},
			&store.Batch{Key: book("a"), Expected: 2, Events: x.events("behind")},
			// This batch would be accepted by itself. It is refused because it was decided
			// after the refused ones.
			&store.Batch{Key: book("a"), Expected: 0, Events: x.events("behind too")},
		)
		x.wantConflict("first", results[0].Err, store.ConflictError{Key: book("a"), Expected: 1})
		x.wantConflict("second", results[1].Err, store.ConflictError{Key: book("a"), Expected: 2, AfterRefused: true})
		x.wantConflict("third", results[2].Err, store.ConflictError{Key: book("a"), Expected: 0, AfterRefused: true})
		x.wantTexts("scan", x.scan(store.Query{}))
		x.wantVersion(book("a"), 0)
	}},
	{name: "a batch behind a refused check is refused with it", run: func(x *fixture) {
		results := x.group(
			&store.Batch{Key: book("a"), Expected: 1},
			&store.Batch{Key: book("a"), Events: x.events("behind")},
		)
		x.wantConflict("second", results[1].Err, store.ConflictError{Key: book("a"), AfterRefused: true})
		x.wantTexts("scan", x.scan(store.Query{}))
	}},
	{name: "a batch behind an invalid one is refused with it", run: func(x *fixture) {
		results := x.group(
			&store.Batch{Key: book("a"), Events: []store.Event{{}}},
			&store.Batch{Key: book("a"), Events: x.events("behind")},
		)
		x.wantError("first", results[0].Err, store.ErrInvalid)
		x.wantConflict("second", results[1].Err, store.ConflictError{Key: book("a"), AfterRefused: true})
		x.wantTexts("scan", x.scan(store.Query{}))
	}},
	{name: "batches before a refused one of the same entity are stored", run: func(x *fixture) {
		results := x.group(
			&store.Batch{Key: book("a"), Events: x.events("one")},
			&store.Batch{Key: book("a"), Expected: 9, Events: x.events("no")},
			&store.Batch{Key: book("a"), Expected: 1, Events: x.events("behind")},
		)
		want(x, "error of the first", results[0].Err, nil)
		x.wantConflict("third", results[2].Err, store.ConflictError{Key: book("a"), Expected: 1, AfterRefused: true})
		x.wantTexts("read", x.read(book("a"), 0), "one")
	}},
	{name: "a refused batch leaves other entities of the group alone", run: func(x *fixture) {
		results := x.group(
			&store.Batch{Key: book("a"), Events: x.events("a1")},
			&store.Batch{Key: book("b"), Expected: 1, Events: x.events("no")},
			&store.Batch{Key: store.Key{Kind: "shelf", ID: "b"}, Events: x.events("s1")},
			&store.Batch{Key: book("c"), Events: x.events("c1")},
		)
		for i, r := range results {
			want(x, fmt.Sprintf("batch %d refused", i), r.Err != nil, i == 1)
		}
		x.wantTexts("scan", x.scan(store.Query{}), "a1", "s1", "c1")
	}},
	{name: "a refusal is forgotten after its group", run: func(x *fixture) {
		x.try(&store.Batch{Key: book("a"), Expected: 1})
		x.append(book("a"), 0, "one")
	}},
	{name: "a check at the version passes and stores nothing", run: func(x *fixture) {
		r := x.append(book("a"), 0, "one")
		check := x.commit(&store.Batch{Key: book("a"), Expected: 1})
		want(x, "position of the check", check.Position, 0)
		want(x, "heads", x.heads(), []store.Position{r.Position})
		x.wantVersion(book("a"), 1)
	}},
	{name: "a check of an entity that nothing has happened to passes at version 0", run: func(x *fixture) {
		x.commit(&store.Batch{Key: book("a")})
		x.wantTexts("scan", x.scan(store.Query{}))
	}},
	{name: "an empty group has no results", run: func(x *fixture) {
		want(x, "results", len(x.group()), 0)
	}},
	{name: "a batch without a key and without records is accepted", run: func(x *fixture) {
		x.commit(&store.Batch{})
	}},
	{name: "a result has the position of the last event and the commit time", run: func(x *fixture) {
		r := x.append(book("a"), 0, "one", "two", "three")
		events := x.read(book("a"), 0)
		want(x, "position", r.Position, events[2].Position)
		for _, e := range events {
			if !e.Time.Equal(r.Time) {
				x.Errorf("time of version %d: got %v, want that of the result, %v", e.Version, e.Time, r.Time)
			}
		}
	}},
	{name: "the events of a batch have consecutive positions", run: func(x *fixture) {
		x.append(book("a"), 0, "one")
		r := x.append(book("b"), 0, numbered("%d", 50)...)
		for i, e := range x.read(book("b"), 0) {
			want(x, "position", e.Position, r.Position-49+store.Position(i))
		}
	}},
	{name: "each event of a batch says how many of the batch follow", run: func(x *fixture) {
		x.group(
			&store.Batch{Key: book("a"), Events: x.events("1", "2", "3")},
			&store.Batch{Key: book("a"), Expected: 3, Events: x.events("4")},
			&store.Batch{Key: book("a"), Expected: 4, Events: x.events("5", "6")},
		)
		prepared := &store.Batch{Key: book("a"), Expected: 6, Events: x.events("7", "8")}
		x.wantNoError("prepare", prepared.Prepare())
		x.commit(prepared)
		for what, events := range map[string][]*store.Event{"read": x.read(book("a"), 0), "scan": x.scan(store.Query{})} {
			var more []uint32
			var ends []store.Position
			for _, e := range events {
				more, ends = append(more, e.Remaining), append(ends, e.CommitEnd())
			}
			want(x, what+": events that follow", more, []uint32{2, 1, 0, 0, 1, 0, 1, 0})
			want(x, what+": ends", ends, []store.Position{3, 3, 3, 4, 6, 6, 8, 8})
		}
	}},
	{name: "the log sets key, version, position and time of the events in the batch", run: func(x *fixture) {
		x.append(book("a"), 0, "one")
		b := &store.Batch{Key: book("a"), Expected: 1, Events: x.events("two", "three")}
		r := x.commit(b)
		for i, e := range b.Events {
			want(x, "key", e.Key, book("a"))
			want(x, "version", e.Version, store.Version(i+2))
			want(x, "position", e.Position, r.Position-1+store.Position(i))
			want(x, "time", e.Time.UTC(), r.Time.UTC())
		}
	}},
	{name: "the log does not change what the batch gives it", run: func(x *fixture) {
		b := fullEventBatch(x)
		before := b.Events[0].Clone()
		x.commit(b)
		after := b.Events[0].Clone()
		before.Key, before.Version, before.Position, before.Time = after.Key, after.Version, after.Position, after.Time
		want(x, "event", after, before)
		want(x, "expected", b.Expected, 0)
	}},
	{name: "the log does not keep the batch", run: func(x *fixture) {
		b := fullEventBatch(x)
		b.Snapshot = x.state("state")
		original := b.Events[0].Clone()
		x.commit(b)
		clear(b.Events[0].Payload)
		clear(b.Snapshot.Payload)
		clear(b.Events[0].Tags)
		clear(b.Events[0].Metadata.Values)
		e := x.read(b.Key, 0)[0]
		want(x, "payload", string(e.Payload), string(original.Payload))
		want(x, "tags", e.Tags, original.Tags)
		want(x, "values", e.Metadata.Values, original.Metadata.Values)
		want(x, "state", string(x.latest(b.Key).Payload), "state")
	}},
	{name: "a prepared batch is stored like any other", run: func(x *fixture) {
		plain, prepared := fullEventBatch(x), fullEventBatch(x)
		prepared.Key = book("prepared")
		x.wantNoError("prepare", prepared.Prepare())
		x.group(plain, prepared)
		a, b := x.read(plain.Key, 0), x.read(prepared.Key, 0)
		want(x, "number of events", len(b), len(a))
		for i := range a {
			a[i].Key, a[i].ID, a[i].Position = b[i].Key, b[i].ID, b[i].Position
			a[i].Metadata.CausationID = b[i].Metadata.CausationID
			want(x, "prepared event", b[i], a[i])
		}
	}},
	{name: "a prepared batch that conflicts is refused", run: func(x *fixture) {
		x.append(book("a"), 0, "one")
		b := &store.Batch{Key: book("a"), Events: x.events("no")}
		x.wantNoError("prepare", b.Prepare())
		x.wantConflict("result", x.try(b).Err, store.ConflictError{Key: book("a"), Actual: 1})
		x.wantTexts("read", x.read(book("a"), 0), "one")
	}},
	{name: "entities of two kinds with the same id are two entities", run: func(x *fixture) {
		x.append(book("a"), 0, "book")
		x.append(store.Key{Kind: "shelf", ID: "a"}, 0, "shelf")
		x.wantTexts("read", x.read(book("a"), 0), "book")
		x.wantTexts("read", x.read(store.Key{Kind: "shelf", ID: "a"}, 0), "shelf")
	}},
	{name: "a group of a thousand batches is stored", run: func(x *fixture) {
		var group []*store.Batch
		for i := range 1000 {
			key := book(fmt.Sprint(i % 100))
			group = append(group, &store.Batch{Key: key, Expected: store.Version(i / 100), Events: x.events(fmt.Sprint(i))})
		}
		for i, r := range x.group(group...) {
			if r.Err != nil || r.Position != store.Position(i+1) {
				x.Fatalf("batch %d: got position %v and error %v, want position %d", i, r.Position, r.Err, i+1)
			}
		}
		want(x, "events", len(x.scan(store.Query{})), 1000)
		x.wantVersion(book("7"), 10)
	}},
	{name: "a cancelled context before the commit stores nothing", run: func(x *fixture) {
		ctx, cancel := context.WithCancel(x.ctx)
		cancel()
		notStored(ctx, x, context.Canceled)
	}},
	{name: "a deadline that has passed before the commit stores nothing", run: func(x *fixture) {
		ctx, cancel := context.WithDeadline(x.ctx, time.Unix(0, 0))
		defer cancel()
		notStored(ctx, x, context.DeadlineExceeded)
	}},
	{name: "a group above its bound is not stored", run: func(x *fixture) {
		group := slices.Repeat([]*store.Batch{{Key: book("a")}}, store.GroupBatchesMax)
		group = append(group, &store.Batch{Key: book("b"), Events: x.events("one")})
		_, err := x.log.Commit(x.ctx, group)
		x.wantError("commit", err, store.ErrNotStored)
		x.wantError("commit", err, store.ErrTooLarge)
		x.wantTexts("scan", x.scan(store.Query{}))
	}},
	{name: "a group of the largest size is stored", run: func(x *fixture) {
		group := slices.Repeat([]*store.Batch{{Key: book("a")}}, store.GroupBatchesMax-1)
		group = append(group, &store.Batch{Key: book("b"), Events: x.events("one")})
		x.group(group...)
		x.wantTexts("scan", x.scan(store.Query{}), "one")
	}},
	{name: "a group above its bound in bytes is not stored", run: func(x *fixture) {
		for what, group := range map[string][]*store.Batch{
			"payloads": x.largeGroup(store.GroupBytesMax),
			"metadata": {x.metadataBatch("a"), x.metadataBatch("b"), x.metadataBatch("c"), x.metadataBatch("d"), x.metadataBatch("e")},
		} {
			group = append(group, &store.Batch{Key: book("small"), Events: x.events("one")})
			_, err := x.log.Commit(x.ctx, group)
			x.wantError("commit of "+what, err, store.ErrNotStored)
			x.wantError("commit of "+what, err, store.ErrTooLarge)
			x.wantTexts("scan", x.scan(store.Query{}))
		}
		x.append(book("small"), 0, "two")
		x.wantTexts("scan", x.scan(store.Query{}), "two")
	}},
	{name: "a group of the most bytes is stored", run: func(x *fixture) {
		group := x.largeGroup(store.GroupBytesMax - 1<<20)
		events := 0
		for _, r := range x.group(group...) {
			want(x, "error", r.Err, nil)
		}
		for e, err := range x.log.Scan(x.ctx, store.Query{}) {
			want(x, "error of scan", err, nil)
			b := group[events/4]
			if want := &b.Events[events%4]; e.ID != want.ID || !bytes.Equal(e.Payload, want.Payload) {
				x.Fatalf("event %d: got %v with %d bytes, want %v with %d", events, e.ID, len(e.Payload), want.ID, len(want.Payload))
			}
			events++
		}
		want(x, "events", events, 4*len(group))
	}},
}

// largeGroup returns a group of at least size bytes, and less than one payload more. All
// its batches but the last are as large as a batch may be.
func (x *fixture) largeGroup(size int) (group []*store.Batch) {
	payload := make([]byte, store.PayloadBytesMax)
	for n := 0; n < size; {
		b := &store.Batch{Key: book(fmt.Sprint("large ", len(group)))}
		part := min(store.PayloadBytesMax, (size-n)/4+1)
		for range 4 {
			e := x.event("")
			e.Payload = payload[:part]
			b.Events = append(b.Events, e)
		}
		n += b.Bytes()
		group = append(group, b)
	}
	return group
}

// metadataBatch returns a batch with a quarter of the bytes that a group may have, nearly
// all of them metadata.
func (x *fixture) metadataBatch(id string) *store.Batch {
	b := &store.Batch{Key: book(id)}
	values := map[string]string{"a": strings.Repeat("v", store.MetadataBytesMax-1)}
	for range store.GroupBytesMax / store.MetadataBytesMax / 4 {
		e := x.event("")
		e.Metadata.Values = values
		b.Events = append(b.Events, e)
	}
	return b
}

// conflict returns the case that an entity with the given number of events refuses a batch
// that expects another version.
func conflict(name string, events int, expected store.Version) testCase {
	return testCase{name: name, run: func(x *fixture) {
		texts := numbered("%d", events)
		if events > 0 {
			x.append(book("a"), 0, texts...)
		}
		r := x.try(&store.Batch{Key: book("a"), Expected: expected, Events: x.events("no")})
		x.wantConflict("result", r.Err, store.ConflictError{Key: book("a"), Expected: expected, Actual: store.Version(events)})
		x.wantTexts("read", x.read(book("a"), 0), texts...)
		r = x.try(&store.Batch{Key: book("a"), Expected: expected})
		x.wantConflict("check", r.Err, store.ConflictError{Key: book("a"), Expected: expected, Actual: store.Version(events)})
	}}
}

// notStored commits under a context that has ended.
func notStored(ctx context.Context, x *fixture, cause error) {
	_, err := x.log.Commit(ctx, []*store.Batch{{Key: book("a"), Events: x.events("no")}})
	x.wantError("commit", err, store.ErrNotStored)
	x.wantError("commit", err, cause)
	x.wantTexts("scan", x.scan(store.Query{}))
	x.append(book("a"), 0, "yes")
	x.wantTexts("scan", x.scan(store.Query{}), "yes")
}

// fullEventBatch returns a batch of one event that has all of its fields.
func fullEventBatch(x *fixture) *store.Batch {
	return &store.Batch{Key: book("full"), Events: []store.Event{{
		ID:   x.id(),
		Type: "test.v1.Full",
		Tags: []string{"zebra", "apple", "ω"},
		Metadata: store.Metadata{
			CausationID:   x.id(),
			CorrelationID: "conversation",
			TraceParent:   "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
			TraceState:    "vendor=value",
			Values:        map[string]string{"user": "ada", "empty": "", "ключ": "значение"},
		},
		Payload: bytes.Repeat([]byte{0, 1, 0xff}, 10),
	}}}
}
