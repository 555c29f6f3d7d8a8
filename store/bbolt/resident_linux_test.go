package bbolt_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/bbolt"
)

// TestResidentPages reads a log of 24 MiB, of which 1 MiB may be in the memory of the process. The
// log looks at that every 64 transactions, each of which reads or writes less than 64 KiB.
func TestResidentPages(t *testing.T) {
	t.Parallel()
	const (
		eventBytes = 32 << 10
		events     = 24 << 20 / eventBytes
		want       = 10 << 20
	)
	file := filepath.Join(t.TempDir(), "log.db")
	log, err := bbolt.Open(file, bbolt.WithResidentMax(1<<20))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = log.Close() })
	worst := 0
	for i := range events {
		key := store.Key{Kind: "book", ID: fmt.Sprint(i)}
		results, err := log.Commit(t.Context(), []*store.Batch{{
			Key: key, Events: []store.Event{{ID: store.ID{1}, Type: "Lent", Payload: make([]byte, eventBytes)}},
		}})
		if err != nil || results[0].Err != nil {
			t.Fatal(err, results)
		}
	}
	for range 2 {
		for i := range events {
			for _, err := range log.Load(t.Context(), store.Key{Kind: "book", ID: fmt.Sprint(i)}, nil) {
				if err != nil {
					t.Fatal(err)
				}
			}
			if i%16 == 0 {
				worst = max(worst, residentOf(t, file))
			}
		}
	}
	t.Logf("at most %d of %d bytes are resident", worst, events*eventBytes)
	if worst == 0 || worst > want {
		t.Errorf("resident bytes of the mapping: got %d at worst, want at most %d, and some", worst, want)
	}
}

// residentOf returns the resident bytes of the mappings of a file.
func residentOf(t *testing.T, file string) (n int) {
	t.Helper()
	text, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		t.Skip(err)
	}
	ours := false
	for line := range strings.Lines(string(text)) {
		if strings.Contains(line, "-") && strings.Contains(line, " r") {
			ours = strings.HasSuffix(strings.TrimSpace(line), file)
		}
		if kib := 0; ours && strings.HasPrefix(line, "Rss:") {
			if _, err := fmt.Sscanf(line, "Rss: %d kB", &kib); err != nil {
				t.Fatal(err)
			}
			n += kib << 10
		}
	}
	return n
}
