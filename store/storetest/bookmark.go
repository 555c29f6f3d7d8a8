package storetest

import (
	"time"

	"github.com/perdure/perdure/store"
)

var bookmarkNeed = []need{bookmarks}

var bookmarkCases = []testCase{
	{name: "a log without bookmarks has none", needs: bookmarkNeed, run: func(x *fixture) {
		want(x, "number of bookmarks", len(x.bookmarks()), 0)
	}},
	{name: "a bookmark is read back as it was written", needs: bookmarkNeed, run: func(x *fixture) {
		r := x.mark(store.Bookmark{Name: "b", Position: 5})
		want(x, "bookmarks", x.bookmarks(), []store.Bookmark{{Name: "b", Position: 5, Time: r.Time.UTC()}})
		want(x, "location of the time", x.bookmarks()[0].Time.Location(), time.UTC)
	}},
	{name: "a bookmark moves forwards and backwards", needs: bookmarkNeed, run: func(x *fixture) {
		for _, p := range []store.Position{5, 9, 2} {
			x.mark(store.Bookmark{Name: "b", Position: p})
			want(x, "bookmarks", x.marks(), []store.Bookmark{{Name: "b", Position: p}})
		}
	}},
	{name: "a removed bookmark is gone", needs: bookmarkNeed, run: func(x *fixture) {
		x.mark(store.Bookmark{Name: "b", Position: 5}, store.Bookmark{Name: "bb", Position: 6})
		x.mark(store.Bookmark{Name: "b", Position: 77, Remove: true}, store.Bookmark{Name: "unknown", Remove: true})
		want(x, "bookmarks", x.marks(), []store.Bookmark{{Name: "bb", Position: 6}})
	}},
	{name: "bookmarks of a batch take effect in order", needs: bookmarkNeed, run: func(x *fixture) {
		x.mark(store.Bookmark{Name: "b", Position: 5}, store.Bookmark{Name: "b", Remove: true}, store.Bookmark{Name: "b", Position: 6},
			store.Bookmark{Name: "c", Position: 1}, store.Bookmark{Name: "c", Remove: true})
		want(x, "bookmarks", x.marks(), []store.Bookmark{{Name: "b", Position: 6}})
	}},
	{name: "a bookmark at the very beginning is kept", needs: bookmarkNeed, run: func(x *fixture) {
		x.mark(store.Bookmark{Name: "b"})
		want(x, "bookmarks", x.marks(), []store.Bookmark{{Name: "b"}})
	}},
	{name: "bookmarks are sorted by name and partition", needs: []need{bookmarks, partitions}, setup: Setup{Partitions: 3}, run: func(x *fixture) {
		var wanted []store.Bookmark
		for i := range oddIDs {
			for p := range 3 {
				wanted = append(wanted, store.Bookmark{Name: oddIDs[i], Position: store.NewPosition(p, uint64(10-p))})
			}
		}
		for i := range wanted {
			x.mark(wanted[(i*11)%len(wanted)]) // not in the order of their names
		}
		want(x, "bookmarks", x.marks(), wanted)
		x.mark(store.Bookmark{Name: "a", Position: store.NewPosition(1, 0), Remove: true})
		want(x, "number of bookmarks", len(x.marks()), len(wanted)-1)
	}},
	{name: "a bookmark of a refused batch does not move", needs: bookmarkNeed, run: func(x *fixture) {
		x.mark(store.Bookmark{Name: "b", Position: 5})
		r := x.try(&store.Batch{Key: book("a"), Expected: 1, Bookmarks: []store.Bookmark{{Name: "b", Position: 6}}})
		x.wantError("result", r.Err, store.ErrConflict)
		want(x, "bookmarks", x.marks(), []store.Bookmark{{Name: "b", Position: 5}})
	}},
	{name: "a bookmark moves with the events of its batch", needs: bookmarkNeed, run: func(x *fixture) {
		x.commit(&store.Batch{Key: book("a"), Events: x.events("e"), Bookmarks: []store.Bookmark{{Name: "b", Position: 6}}})
		want(x, "bookmarks", x.marks(), []store.Bookmark{{Name: "b", Position: 6}})
		x.wantVersion(book("a"), 1)
	}},
}

func (x *fixture) mark(marks ...store.Bookmark) store.Result {
	x.Helper()
	return x.commit(&store.Batch{Bookmarks: marks})
}

// marks returns the bookmarks without their times.
func (x *fixture) marks() []store.Bookmark {
	x.Helper()
	marks := x.bookmarks()
	for i := range marks {
		marks[i].Time = time.Time{}
	}
	return marks
}
