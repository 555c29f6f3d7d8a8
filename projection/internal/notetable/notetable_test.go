package notetable_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/perdure/perdure/projection/internal/notetable"
	"github.com/perdure/perdure/store"
)

func TestTableNameIsQuoted(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("a", 63)
	for name, want := range map[string]string{
		"notes": `"notes"`, "_n1": `"_n1"`, "select": `"select"`, "schema.notes": `"schema"."notes"`, long + "." + long: `"` + long + `"."` + long + `"`,
	} {
		if got, err := notetable.Quote(name); err != nil || got != want {
			t.Errorf("quote %q: got %s, %v, want %s", name, got, err, want)
		}
	}
}

func TestTableNameRefusesABadName(t *testing.T) {
	t.Parallel()
	for _, name := range []string{
		"", ".", "a.", ".a", "a.b.c", "A", "1a", "a b", `a"b`, "a;", "a\n", "a\x00", "a--", "ä", "a'", strings.Repeat("a", 64), "a." + strings.Repeat("a", 64),
	} {
		if got, err := notetable.Quote(name); !errors.Is(err, store.ErrInvalid) {
			t.Errorf("quote %q: got %s, %v, want %v", name, got, err, store.ErrInvalid)
		}
	}
}

func TestNamesHaveNumbersOfTheirOwn(t *testing.T) {
	t.Parallel()
	met := map[int64]string{}
	for _, table := range []string{"a", "ab"} {
		for _, name := range []string{"b", "c", "", "bc"} {
			id := notetable.LockID(table, name)
			if other, ok := met[id]; ok {
				t.Errorf("%s/%s has the number of %s", table, name, other)
			}
			met[id] = table + "/" + name
		}
	}
}
