package pebble_test

import (
	"path/filepath"
	"testing"

	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/pebble"
)

func TestBrokenLogs(t *testing.T) {
	t.Parallel()
	const logBytes, logsMax, tries = 2 << 20, 5, 40
	left := pebble.NewLeftovers(logsMax * logBytes)
	path := filepath.Join(t.TempDir(), "log")
	open := func() (*pebble.Log, error) {
		return pebble.Open(path, pebble.WithLeftovers(left), pebble.WithMemTableBytes(1<<20), pebble.WithCacheBytes(1<<20))
	}
	// A log that is not broken leaves nothing.
	for range logsMax + 1 {
		l, err := open()
		if err != nil {
			t.Fatal(err)
		}
		closeLog(t, l)
	}
	opened := 0
	for range tries {
		l, err := open()
		if err != nil {
			wantIs(t, err, store.ErrBroken)
			continue
		}
		opened++
		go l.Fatal("the end") // it does not return
		receive(t, "the log to be broken", l.Down())
		_ = l.Close()
	}
	if logs, bytes := left.Left(); opened != logsMax || logs != logsMax || bytes != logsMax*logBytes {
		t.Errorf("after %d tries: %d logs were opened, and %d hold %d bytes, want %d that hold %d", tries, opened, logs, bytes, logsMax, logsMax*logBytes)
	}
}
