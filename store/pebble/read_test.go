package pebble_test

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	cockroach "github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/pebble"
)

// Long enough that a read takes several pages.
const long = 2500

func TestReadNeitherReturnsNorAwaitsWhatIsNotDurableYet(t *testing.T) {
	t.Parallel()
	var slow errorfs.Toggle
	syncing, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	slow.Injector = errorfs.InjectorFunc(func(op errorfs.Op) error {
		if strings.HasSuffix(op.Path, ".log") && (op.Kind == errorfs.OpFileSync || op.Kind == errorfs.OpFileSyncData) {
			once.Do(func() { close(syncing) })
			<-release
		}
		return nil
	})
	l := openIn(t, errorfs.Wrap(newFiles(t), &slow))
	commit(t, l, happened(book("a"), 0, 1))
	slow.On()
	done := make(chan struct{})
	go func() {
		defer close(done)
		b := happened(book("a"), 1, 1)
		b.Claim = []store.Claim{{Space: "s", Value: "v"}}
		commit(t, l, b)
	}()
	receive(t, "the sync", syncing)
	// Pebble itself shows it by now, or soon.
	for limit := time.Now().Add(waitMax); ; runtime.Gosched() {
		_, closer, err := l.DB().Get(pebble.EventKey(book("a"), 2))
		if err == nil {
			if err := closer.Close(); err != nil {
				t.Fatal(err)
			}
			break
		}
		if !errors.Is(err, cockroach.ErrNotFound) || time.Now().After(limit) {
			t.Fatalf("waited for the event to be seen in Pebble: %v", err)
		}
	}
	wantVersions(t, versions(t, l.Load(t.Context(), book("a"), nil)), span(1, 1))
	if all, err := collect(l.Scan(t.Context(), store.Query{})); err != nil || len(all) != 1 {
		t.Errorf("scan: got %d events, %v, want 1", len(all), err)
	}
	_, err := l.Owner(t.Context(), store.Claim{Space: "s", Value: "v"})
	wantIs(t, err, store.ErrNotFound)
	close(release)
	receive(t, "the commit", done)
	wantVersions(t, versions(t, l.Load(t.Context(), book("a"), nil)), span(1, 2))
}

func TestCloseWaitsForReadsAndEndsIterations(t *testing.T) {
	t.Parallel()
	l := openNew(t)
	interleaved(t, l, long, book("a"), book("b"))
	var wg sync.WaitGroup
	begun := make(chan struct{}, 8)
	for i := range 8 {
		wg.Go(func() {
			first := true
			for {
				var err error
				if i%2 == 0 {
					_, err = collect(l.Scan(context.Background(), store.Query{}))
				} else {
					_, err = collect(l.Load(context.Background(), book("a"), nil))
				}
				if first {
					first = false
					begun <- struct{}{}
				}
				if errors.Is(err, store.ErrClosed) {
					return
				}
				if err != nil {
					t.Errorf("read beside Close: got %v, want nil or an error that matches %v", err, store.ErrClosed)
					return
				}
			}
		})
	}
	for range 8 {
		receive(t, "a reader", begun)
	}
	closeLog(t, l)
	wg.Wait()
}
