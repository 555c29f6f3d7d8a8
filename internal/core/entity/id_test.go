package entity

import (
	"testing"

	"github.com/perdure/perdure/store"
)

// TestDerivedIDsDoNotRepeat derives ids from derived ids, like a chain of messages that cause
// each other.
func TestDerivedIDsDoNotRepeat(t *testing.T) {
	t.Parallel()
	const indexes, depth = 4, 8
	seen := map[store.ID]string{}
	var derive func(id store.ID, path string)
	derive = func(id store.ID, path string) {
		if other, again := seen[id]; again {
			t.Fatalf("%q has the id %v of %q", path, id, other)
		}
		seen[id] = path
		if id[6]>>4 != 7 || id[8]>>6 != 2 {
			t.Fatalf("%q: %v is not a version 7 UUID", path, id)
		}
		if len(path) == depth {
			return
		}
		for i := range uint64(indexes) {
			derive(DerivedID(id, messageID+i), path+string(rune('0'+i)))
		}
	}
	derive(store.ID{0: 1, 6: 0x70, 8: 0x80, 15: 9}, "")
	for i := range uint64(1000) { // a long chain
		id := store.ID{0: 2, 6: 0x70, 8: 0x80, 15: byte(i)}
		for range 10 {
			if id = DerivedID(id, 0); seen[id] != "" {
				t.Fatalf("an id of chain %d comes back as %v", i, id)
			}
		}
	}
}
