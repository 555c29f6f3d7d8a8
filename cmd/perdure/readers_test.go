package main

import (
	"strings"
	"testing"

	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/bbolt"
	"github.com/perdure/perdure/stream"
)

// newReaders writes a log that a subscription and two replicas of a projection read. It returns
// the path of the log.
func newReaders(t *testing.T) string {
	t.Helper()
	path := newLog(t)
	l, err := bbolt.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	c, _, err := stream.LogCheckpoints(l).Claim(t.Context(), "mail")
	if err == nil {
		err = c.Save(t.Context(), []store.Position{1})
	}
	if err != nil {
		t.Fatal(err)
	}
	readers := stream.NewReaders(l)
	for id, at := range map[string]store.Position{"a": 0, "b": 1} {
		if _, err := readers.Register(t.Context(), "projection/sums/v1", id, at, store.NewPosition(1, 1)); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

func wantLines(t *testing.T, got string, want ...string) {
	t.Helper()
	for _, w := range want {
		if !strings.Contains(got, w) {
			t.Errorf("got\n%s\nwant a line with %q", got, w)
		}
	}
}

func TestReaders(t *testing.T) {
	t.Parallel()
	t.Run("are listed with positions, lag, age and instances", func(t *testing.T) {
		t.Parallel()
		wantLines(t, mustExecute(t, "readers", newReaders(t)),
			"subscription/mail\n", "projection/sums/v1\n", "  at        1, ", " behind\n", "  at        1:1, ", " ago\n",
			"  moved     2", "  instance  a at 0 1:1, by ", "  instance  b at 1 1:1, by ")
		if got, want := mustExecute(t, "readers", newLogWithout(t)), "no reader\n"; got != want {
			t.Errorf("a log without readers: got %q, want %q", got, want)
		}
	})
	t.Run("are not removed without a yes", func(t *testing.T) {
		t.Parallel()
		path := newReaders(t)
		before := mustExecute(t, "readers", path)
		out, errs, code := execute(t, "readers", path, "remove", "subscription/mail")
		if code != exitFailed {
			t.Errorf("ended with %d, want %d", code, exitFailed)
		}
		wantLines(t, out, "subscription/mail\n", "  at        1, ")
		wantLines(t, errs, "nothing is removed", "--yes")
		if after := mustExecute(t, "readers", path); strings.Count(after, "\n") != strings.Count(before, "\n") {
			t.Errorf("readers afterwards: got\n%s\nwant\n%s", after, before)
		}
	})
	t.Run("are removed one by one", func(t *testing.T) {
		t.Parallel()
		path := newReaders(t)
		wantLines(t, mustExecute(t, "readers", path, "remove", "subscription/mail", "--yes"), "subscription/mail\n", "removed\n")
		wantLines(t, mustExecute(t, "readers", path, "remove", "projection/sums/v1", "--instance", "a", "--yes"), "instance  a", "removed\n")
		got := mustExecute(t, "readers", path)
		wantLines(t, got, "projection/sums/v1\n", "  at        1, ", "instance  b")
		if strings.Contains(got, "mail") || strings.Contains(got, "instance  a") {
			t.Errorf("got\n%s\nwant neither the subscription nor instance a", got)
		}
		mustExecute(t, "readers", path, "remove", "projection/sums/v1", "--yes")
		if got, want := mustExecute(t, "readers", path), "no reader\n"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		mustExecute(t, "verify", path)
	})
	t.Run("that are not there are named", func(t *testing.T) {
		t.Parallel()
		path := newReaders(t)
		for _, args := range [][]string{
			{"readers", path, "remove", "mail", "--yes"},
			{"readers", path, "remove", "projection/sums/v1", "--instance", "c", "--yes"},
			{"readers", path + ".not", "remove", "subscription/mail", "--yes"},
		} {
			if _, errs, code := execute(t, args...); code != exitFailed || errs == "" {
				t.Errorf("%q: ended with %d and %q, want %d and a reason", args[1:], code, errs, exitFailed)
			}
		}
		for _, args := range [][]string{
			{"readers"}, {"readers", path, "remove"}, {"readers", path, "delete", "a"}, {"readers", path, "--yes"}, {"readers", path, "--instance", "a"},
		} {
			if _, errs, code := execute(t, args...); code != exitUsage || !strings.Contains(errs, "perdure help") {
				t.Errorf("%q: ended with %d and %q, want %d", args[1:], code, errs, exitUsage)
			}
		}
	})
}

// newLogWithout returns a log without readers.
func newLogWithout(t *testing.T) string {
	t.Helper()
	path := t.TempDir() + "/log.db"
	l, err := bbolt.Open(path)
	if err == nil {
		err = l.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return path
}
