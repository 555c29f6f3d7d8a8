package bbolt_test

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"

	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/bbolt"
)

// Long enough that a read takes several pages.

func TestReadThatIsSlowDoesNotDelayAWriterThatMapsTheFileAgain(t *testing.T) {
	t.Parallel()
	l := openNew(t, bbolt.WithInitialMmapBytes(0))
	interleaved(t, l, 500, book("a"))
	n := 0
	for _, err := range l.Scan(t.Context(), store.Query{}) {
		if err != nil {
			t.Fatal(err)
		}
		if n++; n > 1 {
			continue
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			b := happened(book("b"), 0, 1)
			b.Events[0].Payload = make([]byte, 8<<20)
			commit(t, l, b)
		}()
		receive(t, "a commit beside a reader in mid-step", done)
	}
	if n != 500 {
		t.Errorf("events of the scan: got %d, want %d", n, 500)
	}
}

func TestReadWaitsForWhatIsNotDurableYet(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := openNew(t)
		b := happened(book("a"), 0, 1)
		b.Claim = []store.Claim{{Space: "s", Value: "v"}}
		commit(t, l, b)
		settle := l.Unsettle()
		done := make(chan string, 3)
		go func() {
			_, err := collect(l.Load(t.Context(), book("a"), nil))
			done <- fmt.Sprint("load: ", err)
		}()
		go func() {
			_, err := collect(l.Scan(t.Context(), store.Query{}))
			done <- fmt.Sprint("scan: ", err)
		}()
		go func() {
			_, err := l.Owner(t.Context(), b.Claim[0])
			done <- fmt.Sprint("owner: ", err)
		}()
		synctest.Wait()
		if n := len(done); n != 0 {
			t.Errorf("reads that have ended before the sync: got %d, the first is %q, want 0", n, <-done)
		}
		settle()
		var got []string
		for range 3 {
			got = append(got, <-done)
		}
		slices.Sort(got)
		if want := []string{"load: <nil>", "owner: <nil>", "scan: <nil>"}; !slices.Equal(got, want) {
			t.Errorf("reads after the sync: got %q, want %q", got, want)
		}
		closeLog(t, l)
	})
}

func TestReadThatWaitsForASyncThatFailsReturnsAnError(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := openNew(t)
		commit(t, l, happened(book("a"), 0, 1))
		l.Unsettle()
		done := make(chan error, 1)
		go func() {
			_, err := collect(l.Load(t.Context(), book("a"), nil))
			done <- err
		}()
		synctest.Wait()
		l.Break()
		wantIs(t, <-done, store.ErrBroken)
		closeLog(t, l)
	})
}
