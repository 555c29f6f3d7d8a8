package embeddedtest

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/perdure/perdure/store"
)

// WaitMax bounds every wait of a test.
const WaitMax = 30 * time.Second

// long is a number of events that a read returns in several pages.
const long = 2500

var ids atomic.Uint64

// CloseLog closes a log.
func CloseLog(t testing.TB, l store.Log) {
	t.Helper()
	if err := l.Close(); err != nil {
		t.Fatalf("close: %v", err)
	}
}

// NewID returns an id that no other call has returned.
func NewID() (id store.ID) {
	binary.BigEndian.PutUint64(id[8:], ids.Add(1))
	return id
}

// Book returns the key of a book.
func Book(id string) store.Key { return store.Key{Kind: "book", ID: id} }

// Event returns an event with a text as its payload.
func Event(text string) store.Event {
	return store.Event{ID: NewID(), Type: "test.v1.Happened", Payload: []byte(text)}
}

// Happened returns a batch of n events after version expected.
func Happened(key store.Key, expected store.Version, n int) *store.Batch {
	b := &store.Batch{Key: key, Expected: expected}
	for i := range n {
		b.Events = append(b.Events, Event(Text(key, expected+store.Version(i)+1)))
	}
	return b
}

// Text returns the payload of an event of [Happened], which tells its entity and version.
func Text(key store.Key, v store.Version) string { return fmt.Sprintf("event %d of %v", v, key) }

// Snapshot returns a state with a text as its payload.
func Snapshot(text string) *store.State {
	return &store.State{ID: NewID(), Type: "test.v1.State", Payload: []byte(text)}
}

// Commit commits batches, all of which must be accepted.
func Commit(t testing.TB, l store.Log, group ...*store.Batch) []store.Result {
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

// Collect returns copies of all events, and the error that ended them.
func Collect(events iter.Seq2[*store.Event, error]) (all []*store.Event, err error) {
	for e, err := range events {
		if err != nil {
			return all, err
		}
		all = append(all, e.Clone())
	}
	return all, nil
}

// Versions returns the versions of events of [Happened], after it has checked their payloads.
func Versions(t testing.TB, events iter.Seq2[*store.Event, error]) []store.Version {
	t.Helper()
	all, err := Collect(events)
	if err != nil {
		t.Fatalf("read: %v", err)
	}
	var vs []store.Version
	for _, e := range all {
		if got, want := string(e.Payload), Text(e.Key, e.Version); got != want {
			t.Fatalf("payload of version %d of %v: got %q, want %q", e.Version, e.Key, got, want)
		}
		vs = append(vs, e.Version)
	}
	return vs
}

// Span returns the versions from the first to the last.
func Span(from, to store.Version) (vs []store.Version) {
	for v := from; v <= to; v++ {
		vs = append(vs, v)
	}
	return vs
}

// WantVersions fails the test unless the versions are the wanted ones.
func WantVersions(t testing.TB, got, want []store.Version) {
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

// WantIs reports an error that does not match all of the targets.
func WantIs(t testing.TB, err error, targets ...error) {
	t.Helper()
	for _, target := range targets {
		if !errors.Is(err, target) {
			t.Errorf("error: got %v, want one that matches %v", err, target)
		}
	}
}

// Receive takes a value from a channel within the bound.
func Receive[T any](t testing.TB, what string, c <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-time.After(WaitMax):
		t.Fatalf("waited %v for %s", WaitMax, what)
	}
	return v
}

// Interleaved commits versions of several entities in turn, so that the events
// of one do not lie next to each other.
func Interleaved(t testing.TB, l store.Log, n int, keys ...store.Key) {
	t.Helper()
	const size = 500
	for from := 0; from < n; from += size {
		var group []*store.Batch
		for v := from; v < from+size; v++ {
			for _, k := range keys {
				group = append(group, Happened(k, store.Version(v), 1))
			}
		}
		Commit(t, l, group...)
	}
}
