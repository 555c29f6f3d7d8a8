package storetest

import (
	"context"
	"fmt"
	"math"
	"strings"

	"github.com/perdure/perdure/store"
)

// oddIDs are ids that a store could confuse, in byte order.
var oddIDs = []string{
	"\x01", "\x01\x01", "\x02", " ", "!", "%00", "..", "/", "0", "1", "10", "2",
	"A", "\\", "a", "a\x01", "a\x01a", "a/b", "a:b", "aa", "aaa", "b", "z", "{}",
	strings.Repeat("~", store.IDBytesMax), "\x7f", "\u0080", "é", "\u07ff", "日本", "\ufeff", "\uffff",
	"😀", "\U0010ffff", "\U0010ffff\U0010ffff",
}

var readCases = []testCase{
	{name: "read yields the events of an entity in order of version", run: func(x *fixture) {
		var texts []string
		for v := range store.Version(50) {
			x.append(book("a"), v, fmt.Sprint(v+1))
			x.append(book("b"), v, "other")
			texts = append(texts, fmt.Sprint(v+1))
		}
		x.wantTexts("read", x.read(book("a"), 0), texts...)
	}},
	{name: "read begins above the given version", run: func(x *fixture) {
		x.append(book("a"), 0, numbered("%d", 10)...)
		events := x.read(book("a"), 7)
		x.wantTexts("read after 7", events, "8", "9", "10")
		want(x, "first version", events[0].Version, 8)
		x.wantTexts("read after 9", x.read(book("a"), 9), "10")
	}},
	{name: "read at or above the last version yields nothing", run: func(x *fixture) {
		x.append(book("a"), 0, "1", "2")
		x.append(book("b"), 0, "1", "2", "3", "4")
		for _, after := range []store.Version{2, 3, 1 << 40, math.MaxUint64} {
			x.wantTexts(fmt.Sprintf("read after %d", after), x.read(book("a"), after))
		}
	}},
	{name: "read of an entity that nothing has happened to yields nothing", run: func(x *fixture) {
		x.append(book("b"), 0, "other")
		x.wantTexts("read", x.read(book("a"), 0))
		x.wantTexts("read", x.read(store.Key{Kind: "shelf", ID: "b"}, 0))
	}},
	{name: "read of a long stream yields every event once", run: func(x *fixture) {
		const batches, each = 30, 100
		for i := range batches {
			x.append(book("a"), store.Version(i*each), numbered("%d", each)...)
			x.append(book("b"), store.Version(i), "other")
		}
		next := store.Version(1)
		for e, err := range x.log.Read(x.ctx, book("a"), 0) {
			x.wantNoError("read", err)
			if e.Version != next {
				x.Fatalf("read: got version %d, want %d", e.Version, next)
			}
			next++
		}
		want(x, "events", next-1, batches*each)
		x.wantTexts("read of the end", x.read(book("a"), batches*each-1), "100")
	}},
	{name: "read can end early", run: func(x *fixture) {
		x.append(book("a"), 0, numbered("%d", 10)...)
		n := 0
		for _, err := range x.log.Read(x.ctx, book("a"), 0) {
			x.wantNoError("read", err)
			if n++; n == 3 {
				break
			}
		}
		want(x, "steps", n, 3)
		x.append(book("a"), 10, "11") // an iteration that was broken off holds no lock
	}},
	{name: "a cloned event outlives the step", run: func(x *fixture) {
		b := fullEventBatch(x)
		b.Events = append(b.Events, x.event("two", "other"), x.event("three"))
		x.commit(b)
		var clones, copies []*store.Event
		for e, err := range x.log.Read(x.ctx, b.Key, 0) {
			x.wantNoError("read", err)
			c := e.Clone()
			clones, copies = append(clones, c), append(copies, c.Clone())
		}
		for i := range clones {
			want(x, "clone after the iteration", clones[i], copies[i])
		}
	}},
	{name: "entities whose ids look alike are kept apart", run: func(x *fixture) {
		for i, id := range oddIDs {
			x.append(book(id), 0, fmt.Sprint(i))
		}
		for i, id := range oddIDs {
			x.append(book(id), 1, fmt.Sprint("second ", i))
		}
		for i, id := range oddIDs {
			events := x.read(book(id), 0)
			x.wantTexts(fmt.Sprintf("read of %q", id), events, fmt.Sprint(i), fmt.Sprint("second ", i))
			for _, e := range events {
				want(x, "key", e.Key, book(id))
			}
		}
	}},
	{name: "kinds and ids that look alike together are kept apart", run: func(x *fixture) {
		keys := []store.Key{{Kind: "a", ID: "bc"}, {Kind: "ab", ID: "c"}, {Kind: "abc", ID: "c"}, {Kind: "a", ID: "c"}, {Kind: "a/b", ID: "c"}, {Kind: "a", ID: "b/c"}}
		for _, k := range keys {
			x.append(k, 0, fmt.Sprintf("%q", k))
		}
		for _, k := range keys {
			x.wantTexts("read", x.read(k, 0), fmt.Sprintf("%q", k))
		}
	}},
	{name: "two reads in one another are independent", run: func(x *fixture) {
		x.append(book("a"), 0, "1", "2", "3")
		x.append(book("b"), 0, "4", "5")
		var got []string
		for a, err := range x.log.Read(x.ctx, book("a"), 0) {
			x.wantNoError("read", err)
			for b, err := range x.log.Read(x.ctx, book("b"), 0) {
				x.wantNoError("read", err)
				got = append(got, string(a.Payload)+string(b.Payload))
			}
		}
		want(x, "pairs", got, []string{"14", "15", "24", "25", "34", "35"})
	}},
	{name: "a cancelled context ends a read with its error", run: func(x *fixture) {
		x.append(book("a"), 0, "1")
		ctx, cancel := context.WithCancel(x.ctx)
		cancel()
		x.wantError("read", first(x, "read", x.log.Read(ctx, book("a"), 0)), context.Canceled)
		x.wantError("load", first(x, "load", x.log.Load(ctx, book("a"), always)), context.Canceled)
		x.wantError("scan", first(x, "scan", x.log.Scan(ctx, store.Query{})), context.Canceled)
	}},
}
