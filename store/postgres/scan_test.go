package postgres_test

import (
	"strings"
	"testing"

	"github.com/perdure/perdure/store"
)

// TestScan reads a log while another batch is committed for each event that is read.
func TestScan(t *testing.T) {
	t.Parallel()
	t.Run("ends although writers go on", func(t *testing.T) {
		t.Parallel()
		l := newLog(t)
		k, large := key("a"), strings.Repeat("x", 200<<10)
		const begun = 8 // events of 200 KiB, which are more than a page
		for v := range store.Version(begun) {
			if err := commitOne(t.Context(), l, one(k, v, large)); err != nil {
				t.Fatal(err)
			}
		}
		read := 0
		for e, err := range l.Scan(t.Context(), store.Query{}) {
			if err != nil {
				t.Fatal(err)
			}
			if read++; e.Position != store.Position(read) {
				t.Fatalf("event %d: got position %v, want %d", read, e.Position, read)
			}
			if err := commitOne(t.Context(), l, one(k, store.Version(begun+read-1), large)); err != nil {
				t.Fatal(err)
			}
			if read > 3*begun {
				t.Fatalf("the scan has read %d events of a log that had %d when it began, and goes on", read, begun)
			}
		}
		if read < begun {
			t.Errorf("the scan has read %d events of %d", read, begun)
		}
	})
}
