package storetest

import (
	"time"

	"github.com/perdure/perdure/store"
)

var watchCases = []testCase{
	{name: "a watcher is told of a commit", needs: []need{watcher}, run: func(x *fixture) {
		for v := range store.Version(3) {
			changed := x.changed()
			x.append(book("a"), v, "e")
			x.waitChanged(changed)
		}
	}},
	{name: "a watcher is told of a message without an event", needs: []need{watcher}, run: func(x *fixture) {
		changed := x.changed()
		x.commit(&store.Batch{Key: book("a"), Enqueue: []store.Message{x.message("m")}})
		x.waitChanged(changed)
	}},
	{name: "many can watch at once", needs: []need{watcher}, run: func(x *fixture) {
		a, b := x.changed(), x.changed()
		x.append(book("a"), 0, "e")
		x.waitChanged(a)
		x.waitChanged(b)
	}},
	{name: "nobody waits for the changes of a closed log", needs: []need{watcher}, run: func(x *fixture) {
		changed := x.changed()
		x.wantNoError("close", x.log.Close())
		x.waitChanged(changed)
	}},
}

func (x *fixture) waitChanged(changed <-chan struct{}) {
	x.Helper()
	select {
	case <-changed:
	case <-time.After(waitMax):
		x.Fatalf("no change was reported after %v", waitMax)
	}
}

// changed returns the channel that the log closes after a change.
func (x *fixture) changed() <-chan struct{} {
	x.Helper()
	w, ok := x.log.(store.Watcher)
	if !ok {
		x.Fatalf("%T is not a store.Watcher, but Features says so", x.log)
	}
	return w.Changed()
}
