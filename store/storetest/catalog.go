package storetest

import (
	"fmt"

	"github.com/perdure/perdure/store"
)

var catalogCases = []testCase{
	{name: "an empty log has no kinds", run: func(x *fixture) {
		want(x, "number of kinds", len(x.kinds()), 0)
		want(x, "number of entities", len(x.entities("book", "")), 0)
	}},
	{name: "kinds are sorted", run: func(x *fixture) {
		for _, kind := range []string{"shelf", "book", "é", "books", "B", "b"} {
			x.append(store.Key{Kind: kind, ID: "a"}, 0, "e")
			x.append(store.Key{Kind: kind, ID: "b"}, 0, "e")
		}
		want(x, "kinds", x.kinds(), []string{"B", "b", "book", "books", "shelf", "é"})
	}},
	{name: "entities are sorted by id in byte order, with their versions", run: func(x *fixture) {
		var wanted []store.Entity
		for i, id := range oddIDs {
			wanted = append(wanted, store.Entity{Key: book(id), Version: store.Version(i%3 + 1)})
		}
		for i := range wanted {
			w := wanted[(i*17)%len(wanted)] // not in the order of their ids
			x.append(w.Key, 0, numbered("%d", int(w.Version))...)
			x.append(store.Key{Kind: "bookx", ID: w.Key.ID}, 0, "e")
		}
		want(x, "entities", x.entities("book", ""), wanted)
		for i, w := range wanted {
			want(x, "number of entities after "+w.Key.ID, len(x.entities("book", w.Key.ID)), len(wanted)-i-1)
		}
	}},
	{name: "entities begin above an id that need not exist", run: func(x *fixture) {
		for _, id := range []string{"a", "c", "e"} {
			x.append(book(id), 0, "e")
		}
		want(x, "number of entities after b", len(x.entities("book", "b")), 2)
		want(x, "number of entities after c", len(x.entities("book", "c")), 1)
		want(x, "number of entities after z", len(x.entities("book", "z")), 0)
	}},
	{name: "the catalog can be paged through while it grows", run: func(x *fixture) {
		ids := numbered("%04d", 300)
		for _, id := range ids {
			x.append(book(id), 0, "e")
		}
		var got []string
		after := ""
		for i := range len(ids) {
			for e, err := range x.log.Entities(x.ctx, "book", after) {
				x.wantNoError("entities", err)
				got, after = append(got, e.Key.ID), e.Key.ID
				break
			}
			x.append(book(fmt.Sprintf("-%04d", i)), 0, "e") // sorts before all others
		}
		want(x, "entities", got, ids)
		want(x, "number of entities", len(x.entities("book", "")), 600)
	}},
	{name: "the catalog has the latest version of an entity once", run: func(x *fixture) {
		for v := range store.Version(5) {
			x.append(book("a"), v, "e")
			want(x, "entities", x.entities("book", ""), []store.Entity{{Key: book("a"), Version: v + 1}})
		}
	}},
	{name: "entities with a saved state are in the catalog", run: func(x *fixture) {
		x.commit(&store.Batch{Key: book("a"), Save: x.state("s")})
		x.commit(&store.Batch{Key: book("a"), Expected: 1, Save: x.state("s")})
		want(x, "entities", x.entities("book", ""), []store.Entity{{Key: book("a"), Version: 2}})
		want(x, "kinds", x.kinds(), []string{"book"})
	}},
	{name: "entities that were only checked or refused are not in the catalog", run: func(x *fixture) {
		x.commit(&store.Batch{Key: book("a")})
		x.try(&store.Batch{Key: book("b"), Expected: 3, Events: x.events("no")})
		want(x, "number of kinds", len(x.kinds()), 0)
		want(x, "number of entities", len(x.entities("book", "")), 0)
	}},
	{name: "the catalog has the entities of all partitions", needs: []need{partitions}, setup: Setup{Partitions: 4}, run: func(x *fixture) {
		ids := numbered("%02d", 40)
		for _, id := range ids {
			x.append(book(id), 0, "e")
		}
		var got []string
		for _, e := range x.entities("book", "") {
			got = append(got, e.Key.ID)
		}
		want(x, "entities", got, ids)
	}},
	{name: "reading the catalog can end early", run: func(x *fixture) {
		x.append(book("a"), 0, "e")
		x.append(book("b"), 0, "e")
		for _, err := range x.log.Entities(x.ctx, "book", "") {
			x.wantNoError("entities", err)
			break
		}
		x.append(book("c"), 0, "e") // an iteration that was broken off holds no lock
	}},
}

func (x *fixture) kinds() []string {
	x.Helper()
	kinds, err := x.log.Kinds(x.ctx)
	if err != nil {
		x.Fatalf("kinds: %v", err)
	}
	return kinds
}
