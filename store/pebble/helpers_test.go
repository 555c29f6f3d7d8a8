package pebble_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	cockroach "github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/pebble"
)

// waitMax bounds every wait.
const waitMax = 30 * time.Second

func openAt(t testing.TB, path string, opts ...pebble.Option) *pebble.Log {
	t.Helper()
	// Many logs are open at once here.
	opts = append([]pebble.Option{pebble.WithMemTable(4 << 20), pebble.WithCache(4 << 20)}, opts...)
	l, err := pebble.Open(path, opts...)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	t.Cleanup(func() { _ = l.Close() }) // most tests have closed it
	return l
}

func closeLog(t testing.TB, l store.Log) {
	t.Helper()
	if err := l.Close(); err != nil {
		t.Fatalf("close: %v", err)
	}
}

func openNew(t testing.TB, opts ...pebble.Option) *pebble.Log {
	t.Helper()
	return openAt(t, newDir(t), opts...)
}

// newDir returns the path of a directory that does not exist.
func newDir(t testing.TB) string {
	t.Helper()
	return filepath.Join(t.TempDir(), "log")
}

var ids atomic.Uint64

func newID() (id store.ID) {
	binary.BigEndian.PutUint64(id[8:], ids.Add(1))
	return id
}

func book(id string) store.Key { return store.Key{Kind: "book", ID: id} }

func event(text string) store.Event {
	return store.Event{ID: newID(), Type: "test.v1.Happened", Payload: []byte(text)}
}

// happened returns a batch of n events after version expected.
func happened(key store.Key, expected store.Version, n int) *store.Batch {
	b := &store.Batch{Key: key, Expected: expected}
	for i := range n {
		b.Events = append(b.Events, event(text(key, expected+store.Version(i)+1)))
	}
	return b
}

// text is the payload of an event, from which it can be told.
func text(key store.Key, v store.Version) string { return fmt.Sprintf("event %d of %v", v, key) }

func snapshot(text string) *store.State {
	return &store.State{ID: newID(), Type: "test.v1.State", Payload: []byte(text)}
}

// commit commits batches, all of which must be accepted.
func commit(t testing.TB, l store.Log, group ...*store.Batch) []store.Result {
	t.Helper()
	results, err := l.Commit(context.Background(), group)
	if err != nil {
		t.Fatalf("commit: %v", err)
	}
	for i, r := range results {
		if r.Err != nil {
			t.Fatalf("commit batch %d of %v: %v", i, group[i].Key, r.Err)
		}
	}
	return results
}

// collect returns copies of all events, and the error that has ended them.
func collect(events iter.Seq2[*store.Event, error]) (all []*store.Event, err error) {
	for e, err := range events {
		if err != nil {
			return all, err
		}
		all = append(all, e.Clone())
	}
	return all, nil
}

// versions returns the versions of what collect returns.
func versions(t testing.TB, events iter.Seq2[*store.Event, error]) []store.Version {
	t.Helper()
	all, err := collect(events)
	if err != nil {
		t.Fatalf("read: %v", err)
	}
	var vs []store.Version
	for _, e := range all {
		if got, want := string(e.Payload), text(e.Key, e.Version); got != want {
			t.Fatalf("payload of version %d of %v: got %q, want %q", e.Version, e.Key, got, want)
		}
		vs = append(vs, e.Version)
	}
	return vs
}

func span(from, to store.Version) (vs []store.Version) {
	for v := from; v <= to; v++ {
		vs = append(vs, v)
	}
	return vs
}

func wantVersions(t testing.TB, got, want []store.Version) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Fatalf("versions: got %d of them, %v, want %d, %v", len(got), ends(got), len(want), ends(want))
	}
}

func ends(vs []store.Version) []store.Version {
	if len(vs) < 5 {
		return vs
	}
	return []store.Version{vs[0], vs[1], vs[len(vs)-2], vs[len(vs)-1]}
}

func wantIs(t testing.TB, err error, targets ...error) {
	t.Helper()
	for _, target := range targets {
		if !errors.Is(err, target) {
			t.Errorf("error: got %v, want one that matches %v", err, target)
		}
	}
}

// receive takes a value from a channel within the bound.
func receive[T any](t testing.TB, what string, c <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-time.After(waitMax):
		t.Fatalf("waited %v for %s", waitMax, what)
	}
	return v
}

// edit changes the directory of a closed log behind its back.
func edit(t testing.TB, dir string, fn func(*cockroach.DB) error) {
	t.Helper()
	if err := pebble.Edit(vfs.Default, dir, fn); err != nil {
		t.Fatalf("edit the directory: %v", err)
	}
}
