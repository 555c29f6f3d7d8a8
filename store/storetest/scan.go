package storetest

import (
	"fmt"
	"iter"
	"runtime"
	"sync"
	"time"

	"github.com/perdure/perdure/store"
)

var scanCases = []testCase{
	{name: "scan of an empty log yields nothing", run: func(x *fixture) {
		x.wantTexts("scan", x.scan(store.Query{}))
		x.wantTexts("scan", x.scan(store.Query{After: 5, Through: 9}))
	}},
	{name: "scan yields all events in the order of their positions", run: func(x *fixture) {
		var texts []string
		for i := range 60 {
			text := fmt.Sprint(i)
			x.append(store.Key{Kind: fmt.Sprint("kind", i%4), ID: fmt.Sprint(i % 3)}, store.Version(i/12), text)
			texts = append(texts, text)
		}
		events := x.scan(store.Query{})
		x.wantTexts("scan", events, texts...)
		for i, e := range events {
			want(x, "position", e.Position, store.Position(i+1))
		}
	}},
	{name: "scan begins above After", run: func(x *fixture) {
		r := x.append(book("a"), 0, numbered("%d", 10)...)
		x.wantTexts("scan after 7", x.scan(store.Query{After: 7}), "8", "9", "10")
		x.wantTexts("scan after the head", x.scan(store.Query{After: r.Position}))
		x.wantTexts("scan after more than the head", x.scan(store.Query{After: r.Position + 5}))
	}},
	{name: "scan ends with Through", run: func(x *fixture) {
		x.append(book("a"), 0, numbered("%d", 10)...)
		x.wantTexts("through 3", x.scan(store.Query{Through: 3}), "1", "2", "3")
		x.wantTexts("after 4 through 6", x.scan(store.Query{After: 4, Through: 6}), "5", "6")
		x.wantTexts("after 4 through 5", x.scan(store.Query{After: 4, Through: 5}), "5")
		x.wantTexts("after 4 through 4", x.scan(store.Query{After: 4, Through: 4}))
		x.wantTexts("after 4 through 2", x.scan(store.Query{After: 4, Through: 2}))
		x.wantTexts("after 8 through 99", x.scan(store.Query{After: 8, Through: 99}), "9", "10")
	}},
	{name: "scan through a position that no selected event has ends before it", run: func(x *fixture) {
		filterLog(x)
		x.wantTexts("scan", x.scan(store.Query{Through: 4, Kinds: []string{"book"}}), "1", "2")
	}},
	filter("one kind", store.Query{Kinds: []string{"book"}}, "1", "2", "5"),
	filter("two kinds", store.Query{Kinds: []string{"book", "member"}}, "1", "2", "5", "6"),
	filter("a kind that nothing has", store.Query{Kinds: []string{"boo"}}),
	filter("one type", store.Query{Types: []string{"t.B"}}, "2", "4"),
	filter("two types", store.Query{Types: []string{"t.B", "t.C"}}, "2", "4", "5"),
	filter("one tag", store.Query{Tags: []string{"red"}}, "1", "4", "6"),
	filter("two tags", store.Query{Tags: []string{"red", "blue"}}, "1", "2", "4", "6"),
	filter("a tag that nothing has", store.Query{Tags: []string{"re"}}),
	filter("a kind and a type", store.Query{Kinds: []string{"shelf"}, Types: []string{"t.A"}}, "3"),
	filter("a kind, a type and a tag", store.Query{Kinds: []string{"book"}, Types: []string{"t.B", "t.C"}, Tags: []string{"blue"}}, "2"),
	filter("a kind above a position", store.Query{After: 1, Kinds: []string{"book"}}, "2", "5"),
	filter("a tag between two positions", store.Query{After: 1, Through: 5, Tags: []string{"red"}}, "4"),
	{name: "scan can end early", run: func(x *fixture) {
		x.append(book("a"), 0, numbered("%d", 10)...)
		n := 0
		for _, err := range x.log.Scan(x.ctx, store.Query{}) {
			x.wantNoError("scan", err)
			if n++; n == 3 {
				break
			}
		}
		want(x, "steps", n, 3)
		x.append(book("a"), 10, "11") // an iteration that was broken off holds no lock
	}},
	{name: "scan yields the whole of each event", run: func(x *fixture) {
		b := fullEventBatch(x)
		x.commit(b)
		want(x, "event", x.scan(store.Query{}), x.read(b.Key, 0))
	}},
	{name: "scan of many pages yields every event once", run: func(x *fixture) {
		const batches, each = 10, 500
		for i := range batches {
			x.append(book(fmt.Sprint(i)), 0, numbered("%d", each)...)
		}
		next := store.Position(1)
		for e, err := range x.log.Scan(x.ctx, store.Query{}) {
			x.wantNoError("scan", err)
			if e.Position != next {
				x.Fatalf("scan: got position %v, want %v", e.Position, next)
			}
			next++
		}
		want(x, "events", next-1, batches*each)
	}},
	{name: "a paused scan holds up no writer", run: func(x *fixture) {
		x.append(book("a"), 0, numbered("%d", 2000)...)
		pausedRead(x, "scan", x.log.Scan(x.ctx, store.Query{}))
	}},
	{name: "a scan that began before a commit goes on in order", run: func(x *fixture) {
		x.append(book("a"), 0, numbered("%d", 1000)...)
		version, last := store.Version(1000), store.Position(0)
		for e, err := range x.log.Scan(x.ctx, store.Query{}) {
			x.wantNoError("scan", err)
			if e.Position != last+1 {
				x.Fatalf("scan: got position %v after %v", e.Position, last)
			}
			last = e.Position
			if last%100 == 0 && version < 1010 {
				x.append(book("a"), version, "more")
				version++
			}
		}
		if last < 1000 {
			x.Errorf("scan ended at position %v, want at least the head that it began with, 1000", last)
		}
		x.wantTexts("scan of the rest", x.scan(store.Query{After: 1009}), "more")
	}},
	{name: "a function that fails in a read holds up no commit", run: func(x *fixture) {
		key := book("a")
		x.commit(&store.Batch{
			Key: key, Events: x.events("one", "two"), Snapshot: x.state("two"), Enqueue: []store.Message{x.message("m")},
		})
		reads := map[string]func(fn func()){
			"the accept of Load": func(fn func()) {
				everyStep(x.log.Load(x.ctx, key, func(*store.State) bool { fn(); return false }), func() {})
			},
			"Load":     func(fn func()) { everyStep(x.log.Load(x.ctx, key, func(*store.State) bool { return false }), fn) },
			"Read":     func(fn func()) { everyStep(x.log.Read(x.ctx, key, 0), fn) },
			"Scan":     func(fn func()) { everyStep(x.log.Scan(x.ctx, store.Query{}), fn) },
			"Messages": func(fn func()) { everyStep(x.log.Messages(x.ctx, store.MessageQuery{}), fn) },
			"Entities": func(fn func()) { everyStep(x.log.Entities(x.ctx, key.Kind, ""), fn) },
		}
		commits := 0
		for what, read := range reads {
			for _, fault := range []func(gate chan struct{}){
				func(chan struct{}) { panic("fault") },
				func(chan struct{}) { runtime.Goexit() },
				func(gate chan struct{}) { <-gate },
			} {
				gate := make(chan struct{})
				begun, ended, committed := make(chan struct{}), make(chan struct{}), make(chan struct{})
				once := sync.OnceFunc(func() { close(begun) })
				go func() {
					defer close(ended)
					defer func() { _ = recover() }()
					read(func() { once(); fault(gate) })
				}()
				x.soon("the first step of "+what, begun)
				commits++
				next := &store.Batch{Key: book(fmt.Sprint("b", commits)), Events: x.events("more")}
				go func() {
					defer close(committed)
					if r, err := x.log.Commit(x.ctx, []*store.Batch{next}); err != nil || r[0].Err != nil {
						x.Errorf("commit beside a failing %s: %v", what, err)
					}
				}()
				x.soon("a commit beside a failing "+what, committed)
				close(gate)
				x.soon("the end of a failing "+what, ended)
			}
		}
	}},
}

// everyStep calls a function at each step of an iteration.
func everyStep[T any](all iter.Seq2[T, error], fn func()) {
	all(func(T, error) bool { fn(); return true })
}

// pausedRead takes one step of a sequence of 2000 events, commits many batches
// while it waits, and then takes the rest.
func pausedRead(x *fixture, what string, seq func(func(*store.Event, error) bool)) {
	x.Helper()
	last := store.Position(0)
	for e, err := range seq {
		x.wantNoError(what, err)
		if e.Position != last+1 {
			x.Fatalf("%s: got position %v after %v", what, e.Position, last)
		}
		if last = e.Position; last != 1 {
			continue
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			for i := range 20 {
				_, err := x.log.Commit(x.ctx, []*store.Batch{{Key: book(fmt.Sprint("b", i)), Events: x.events("more")}})
				if err != nil {
					x.Errorf("commit during a paused %s: %v", what, err)
				}
			}
		}()
		x.soon("commits during a paused "+what, done)
	}
	if last < 2000 {
		x.Errorf("%s ended at position %v, want at least 2000", what, last)
	}
}

// filter returns the case that a scan of filterLog with the query yields these events.
func filter(what string, q store.Query, texts ...string) testCase {
	return testCase{name: "scan selects by " + what, run: func(x *fixture) {
		filterLog(x)
		x.wantTexts(fmt.Sprintf("scan %+v", q), x.scan(q), texts...)
	}}
}

// filterLog commits six events of several kinds, types and tags.
func filterLog(x *fixture) {
	x.Helper()
	put := func(kind string, expected store.Version, text, typ string, tags ...string) {
		e := x.event(text, tags...)
		e.Type = typ
		x.commit(&store.Batch{Key: store.Key{Kind: kind, ID: "a"}, Expected: expected, Events: []store.Event{e}})
	}
	put("book", 0, "1", "t.A", "red", "blue")
	put("book", 1, "2", "t.B", "blue")
	put("shelf", 0, "3", "t.A")
	put("shelf", 1, "4", "t.B", "red", "green")
	put("book", 2, "5", "t.C", "green")
	put("member", 0, "6", "t.A", "red")
}

var positionCases = []testCase{
	{name: "the heads of an empty log are before the first event", run: func(x *fixture) {
		want(x, "heads", x.heads(), []store.Position{0})
	}},
	{name: "the first event of a log has position 1", run: func(x *fixture) {
		r := x.append(book("a"), 0, "one")
		want(x, "position", r.Position, 1)
		want(x, "heads", x.heads(), []store.Position{1})
	}},
	{name: "positions have no gap after refused batches", run: func(x *fixture) {
		x.append(book("a"), 0, "one")
		x.try(&store.Batch{Key: book("a"), Expected: 9, Events: x.events("no", "no")})
		x.try(&store.Batch{Key: book("a"), Expected: 1, Events: []store.Event{{}}})
		results := x.group(
			&store.Batch{Key: book("a"), Expected: 9, Events: x.events("no")},
			&store.Batch{Key: book("b"), Events: x.events("two")},
		)
		want(x, "position", results[1].Position, 2)
	}},
	{name: "only events take positions", run: func(x *fixture) {
		x.append(book("a"), 0, "one")
		x.commit(&store.Batch{Key: book("a"), Expected: 1, Snapshot: x.state("s")})
		x.commit(&store.Batch{Key: book("b"), Save: x.state("s")})
		x.commit(&store.Batch{Key: book("b"), Expected: 1})
		want(x, "position", x.append(book("a"), 1, "two").Position, 2)
		want(x, "heads", x.heads(), []store.Position{2})
	}},
	{name: "a log with one partition keeps all in partition 0", run: func(x *fixture) {
		for i := range 20 {
			x.append(book(fmt.Sprint(i)), 0, "e")
		}
		want(x, "heads", x.heads(), []store.Position{20})
	}},
	{name: "a log has as many heads as partitions", needs: []need{partitions}, setup: Setup{Partitions: 5}, run: func(x *fixture) {
		var heads []store.Position
		for p := range 5 {
			heads = append(heads, store.NewPosition(p, 0))
		}
		want(x, "heads", x.heads(), heads)
	}},
	{name: "a log can have every number of partitions", needs: []need{partitions}, setup: Setup{Partitions: store.PartitionsMax}, run: func(x *fixture) {
		r := x.append(book("a"), 0, "one")
		want(x, "position", r.Position, store.NewPosition(store.PartitionOf(book("a"), store.PartitionsMax), 1))
		want(x, "number of heads", len(x.heads()), store.PartitionsMax)
	}},
	{name: "an entity stays in the partition of its key", needs: []need{partitions}, setup: Setup{Partitions: 4}, run: func(x *fixture) {
		for v := range store.Version(3) {
			for i := range 40 {
				key := book(fmt.Sprint(i))
				r := x.append(key, v, "e")
				want(x, "partition of "+key.String(), r.Position.Partition(), store.PartitionOf(key, 4))
			}
		}
	}},
	{name: "positions are gapless within every partition", needs: []need{partitions}, setup: Setup{Partitions: 4}, run: func(x *fixture) {
		events := make([]int, 4)
		for i := range 10 {
			var group []*store.Batch
			for k := range 12 {
				key := book(fmt.Sprint(k))
				group = append(group, &store.Batch{Key: key, Expected: store.Version(2 * i), Events: x.events("1", "2")})
				events[store.PartitionOf(key, 4)] += 2
			}
			x.group(group...)
		}
		for p := range 4 {
			got := x.scan(store.Query{After: store.NewPosition(p, 0)})
			want(x, fmt.Sprintf("events of partition %d", p), len(got), events[p])
			for i, e := range got {
				want(x, "position", e.Position, store.NewPosition(p, uint64(i+1)))
			}
			want(x, "head", x.heads()[p], store.NewPosition(p, uint64(events[p])))
		}
	}},
	{name: "a scan of one partition stays in it", needs: []need{partitions}, setup: Setup{Partitions: 3}, run: func(x *fixture) {
		for i := range 30 {
			x.append(book(fmt.Sprint(i)), 0, fmt.Sprint(i))
		}
		for p := range 3 {
			for _, q := range []store.Query{
				{After: store.NewPosition(p, 0)},
				{After: store.NewPosition(p, 2), Kinds: []string{"book"}},
				{After: store.NewPosition(p, 1), Through: store.NewPosition(p, 4)},
			} {
				events := x.scan(q)
				if len(events) == 0 {
					x.Errorf("scan %+v: got nothing, want the events of partition %d", q, p)
				}
				for _, e := range events {
					want(x, "partition", store.PartitionOf(e.Key, 3), p)
				}
			}
		}
	}},
	{name: "an entity is read from its partition alone", needs: []need{partitions}, setup: Setup{Partitions: 3}, run: func(x *fixture) {
		for v := range store.Version(5) {
			for i := range 9 {
				b := &store.Batch{Key: book(fmt.Sprint(i)), Expected: v, Events: x.events(fmt.Sprint(v))}
				if v == 3 {
					b.Snapshot = x.state("s")
				}
				x.commit(b)
			}
		}
		for i := range 9 {
			x.wantTexts("read", x.read(book(fmt.Sprint(i)), 2), "2", "3", "4")
			offered, events := x.load(book(fmt.Sprint(i)), always)
			want(x, "versions offered", versionsOf(offered), []store.Version{4})
			x.wantTexts("load", events, "4")
		}
	}},
	{name: "a refused batch in one partition leaves the others alone", needs: []need{partitions}, setup: Setup{Partitions: 4}, run: func(x *fixture) {
		var group []*store.Batch
		for i := range 20 {
			group = append(group, &store.Batch{Key: book(fmt.Sprint(i)), Expected: store.Version(i % 2), Events: x.events("e")})
		}
		for i, r := range x.group(group...) {
			want(x, fmt.Sprintf("batch %d refused", i), r.Err != nil, i%2 == 1)
		}
		n := uint64(0)
		for _, h := range x.heads() {
			n += h.Sequence()
		}
		want(x, "events", n, 10)
	}},
}

var recordCases = []testCase{
	{name: "an event is read back as it was written", run: func(x *fixture) {
		b := fullEventBatch(x)
		wanted := b.Events[0].Clone()
		r := x.commit(b)
		wanted.Key, wanted.Version, wanted.Position, wanted.Time = b.Key, 1, r.Position, r.Time.UTC()
		want(x, "read", x.read(b.Key, 0), []*store.Event{wanted})
		_, loaded := x.load(b.Key, never)
		want(x, "load", loaded, []*store.Event{wanted})
	}},
	{name: "an event without tags, metadata and payload is kept", run: func(x *fixture) {
		x.commit(&store.Batch{Key: book("a"), Events: []store.Event{{ID: x.id(), Type: "t.Empty"}}})
		e := x.read(book("a"), 0)[0]
		want(x, "length of the payload", len(e.Payload), 0)
		want(x, "number of tags", len(e.Tags), 0)
		want(x, "metadata", e.Metadata, store.Metadata{})
	}},
	{name: "nothing of one event leaks into the next", run: func(x *fixture) {
		b := fullEventBatch(x)
		b.Events = append(b.Events, store.Event{ID: x.id(), Type: "t.Empty"})
		x.commit(b)
		e := x.read(b.Key, 0)[1]
		want(x, "length of the payload", len(e.Payload), 0)
		want(x, "number of tags", len(e.Tags), 0)
		want(x, "metadata", e.Metadata, store.Metadata{})
	}},
	{name: "payloads of all bytes and of many sizes are kept", run: func(x *fixture) {
		all := make([]byte, 256)
		for i := range all {
			all[i] = byte(i)
		}
		var wanted []string
		for v, n := range []int{0, 1, 3, 127, 128, 4095, 4096, 16384, 65536, 1 << 20} {
			payload := make([]byte, n)
			for i := range payload {
				payload[i] = all[(i*7+v)%256]
			}
			e := x.event(string(payload))
			x.commit(&store.Batch{Key: book("a"), Expected: store.Version(v), Events: []store.Event{e}})
			wanted = append(wanted, string(payload))
		}
		for i, text := range textsOf(x.read(book("a"), 0)) {
			if text != wanted[i] {
				x.Errorf("payload %d: got other bytes (%d) than were written (%d)", i, len(text), len(wanted[i]))
			}
		}
	}},
	{name: "tags keep their order and their repeats", run: func(x *fixture) {
		x.commit(&store.Batch{Key: book("a"), Events: []store.Event{x.event("e", "z", "a", "z", "m")}})
		want(x, "tags", x.read(book("a"), 0)[0].Tags, []string{"z", "a", "z", "m"})
	}},
	{name: "commit times are in UTC and near now", run: func(x *fixture) {
		before := time.Now()
		r := x.commit(&store.Batch{Key: book("a"), Events: x.events("e"), Snapshot: x.state("s")})
		after := time.Now()
		times := map[string]time.Time{
			"event": x.read(book("a"), 0)[0].Time, "state": x.latest(book("a")).Time,
		}
		for what, got := range times {
			want(x, "location of the time of the "+what, got.Location(), time.UTC)
			if !got.Equal(r.Time) {
				x.Errorf("time of the %s: got %v, want that of the result, %v", what, got, r.Time)
			}
		}
		// A store on another machine has another clock, so the bound is wide.
		if r.Time.Before(before.Add(-time.Hour)) || r.Time.After(after.Add(time.Hour)) {
			x.Errorf("commit time: got %v, want about %v", r.Time, after)
		}
	}},
	{name: "commit times come from the clock", needs: []need{clock}, setup: Setup{Clock: oddClock}, run: func(x *fixture) {
		r := x.append(book("a"), 0, "e")
		want(x, "time of the event", x.read(book("a"), 0)[0].Time, oddClock().UTC())
		if !r.Time.Equal(oddClock()) {
			x.Errorf("time of the result: got %v, want %v", r.Time, oddClock())
		}
	}},
}

// oddClock is a clock that stands still, at a time with nanoseconds and in a zone far from
// UTC.
func oddClock() time.Time {
	return time.Date(2031, 2, 3, 4, 5, 6, 123456789, time.FixedZone("odd", 5*3600+45*60))
}
