package projectiontest_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/perdure/perdure/projection"
	"github.com/perdure/perdure/projection/projectiontest"
)

// random is the name of the case that compares random transactions with a simple model.
const random = "random transactions leave what a simple model says"

// twins are broken targets (mutants), each with the cases that must fail for it.
var twins = []struct {
	name   string
	twist  twist
	caught []string
}{
	{"stores the model alone", twist{modelAlone: true}, []string{
		"the model and the notes are stored together", "a note is there until it is replaced or removed",
		"writers of different notes leave each other alone", random,
	}},
	{"stores although do has failed", twist{commitsFailed: true}, []string{
		"an error of do is returned and nothing is stored", "what was removed is back after an error", random,
	}},
	{"stores the notes although do has failed", twist{notesApart: true}, []string{
		"an error of do is returned and nothing is stored", "what was removed is back after an error", random,
	}},
	{"keeps the error of do for itself", twist{swallows: true}, []string{
		"an error of do is returned and nothing is stored", "a view returns the error of do", random,
	}},
	{"loses the identity of an error", twist{renames: true}, []string{
		"an error of do is returned and nothing is stored", random,
	}},
	{"makes an error of a panic", twist{catches: true}, []string{
		"a panic of do passes through and nothing is stored", "a panic of a view passes through and holds up nobody",
	}},
	{"stores when do panics", twist{commitsPanics: true}, []string{"a panic of do passes through and nothing is stored"}},
	{"stores when the goroutine of do ends", twist{unsound: true}, []string{
		"a goroutine that ends in do stores nothing and holds up nobody", "a panic of do passes through and nothing is stored",
	}},
	{"hides from do what it has written", twist{blindToOwn: true}, []string{"do sees what it has written"}},
	{"cannot store nothing", twist{idle: true}, []string{"an update that changes nothing works"}},
	{"shows notes before the commit", twist{valueEarly: true}, []string{
		"nothing is visible before the commit", "an error of do is returned and nothing is stored", random,
	}},
	{"reads anew within a view", twist{readsAnew: true}, []string{"a view has one state whatever is stored meanwhile"}},
	{"shows the model before the notes", twist{halfAtATime: true}, []string{"a view never sees half a transaction"}},
	{"lets a view store", twist{viewStores: true}, []string{
		"a view refuses to set a note", "a view stores nothing of the model", "nothing is visible before the commit",
	}},
	{"says nothing of a note that a view cannot store", twist{viewSilent: true}, []string{"a view refuses to set a note"}},
	{"lists in the order of a language", twist{list: func(all []projection.Note, prefix string) []projection.Note {
		slices.SortStableFunc(all, func(a, b projection.Note) int {
			return strings.Compare(strings.ToLower(a.Key), strings.ToLower(b.Key))
		})
		return under(all, prefix)
	}}, []string{"notes are listed by prefix in byte order"}},
	{"lists all there is", twist{list: func(all []projection.Note, _ string) []projection.Note { return all }}, []string{
		"notes are listed by prefix in byte order", "a thousand notes are listed",
	}},
	{"lists by a pattern", twist{list: func(all []projection.Note, prefix string) []projection.Note {
		return slices.DeleteFunc(all, func(n projection.Note) bool { return !like([]rune(n.Key), []rune(prefix)) })
	}}, []string{"notes are listed by prefix in byte order"}},
	{"lists one page", twist{list: func(all []projection.Note, prefix string) []projection.Note {
		all = under(all, prefix)
		return all[:min(len(all), 256)]
	}}, []string{"a thousand notes are listed", "notes that were listed may be changed and removed on the way"}},
	{"does not let go of a listing", twist{leaksListing: true}, []string{"a listing may be left, and the transaction goes on"}},
	{"lists from behind", twist{list: func(all []projection.Note, prefix string) []projection.Note {
		all = under(all, prefix)
		slices.Reverse(all)
		return all
	}}, []string{
		"notes are listed by prefix in byte order", "a thousand notes are listed",
		"notes that were listed may be changed and removed on the way", random,
	}},
	{"removes nothing", twist{removesNothing: true}, []string{
		"a note is there until it is replaced or removed", "a note that comes and goes under sixteen writers loses nothing", random,
	}},
	{"takes an empty note for none", twist{emptyIsNone: true}, []string{
		"an empty note is there and is not nil", "a note is there until it is replaced or removed",
	}},
	{"returns nil for an empty note", twist{emptyIsNil: true}, []string{"an empty note is there and is not nil"}},
	{"ends a note at a zero byte", twist{value: cutAtZero}, []string{"notes may be as long as they may be, and of any bytes"}},
	{"cuts a long key", twist{key: func(k string) string { return k[:min(len(k), 1024)] }}, []string{"a note that breaks a bound is refused"}},
	{"does not tell capital letters apart", twist{key: strings.ToLower}, []string{"notes are listed by prefix in byte order"}},
	{"reads into one buffer", twist{oneBuffer: true}, []string{"a note belongs to the caller"}},
	{"looks at the context last", twist{contextLate: true}, []string{
		"a context that has ended stores nothing", "a context that ends in do leaves no doubt",
	}},
	{"waits without a context", twist{waitsDeaf: true}, []string{"who waits for another writer stops when its context ends"}},
	{"holds no note against others", twist{noLock: true}, []string{
		"sixteen writers of a new note lose nothing", "sixteen writers of a note that is there lose nothing",
		"writers of different notes leave each other alone", "a note that comes and goes under sixteen writers loses nothing",
		"writers of two targets on the same data lose nothing",
	}},
	{"holds a note against its own writers alone", twist{locksOne: true}, []string{"writers of two targets on the same data lose nothing"}},
	{"keeps data for itself", twist{apart: true}, []string{"a second target on the same data sees what is stored"}},
	{"forgets", twist{loses: true}, []string{"what is stored is there when it is opened again", random}},
	{"says that a commit is not stored which is", twist{lies: true}, []string{"an error of the commit tells no lies"}},
	{"does not notice that a transaction is spoilt", twist{checksNothing: true}, []string{"a rule that spoils its transaction parks its own entity alone"}},
	{"takes a transaction that is sound for spoilt", twist{checksTooMuch: true}, []string{
		"a transaction that rules have left alone passes its check", "a rule that spoils its transaction parks its own entity alone",
	}},
	{"takes all for its own fault", twist{blamesAll: true}, []string{"a target tells its own faults from those of events"}},
	{"knows none of its faults", twist{blamesNone: true}, []string{"a target tells its own faults from those of events"}},
	{"says that it keeps nothing", twist{volatile: true}, []string{"a target that can be opened again is not volatile"}},
	{"says nothing of a commit that has failed", twist{silent: true}, []string{"an error of the commit tells no lies"}},
}

// under returns the notes under a prefix.
func under(all []projection.Note, prefix string) []projection.Note {
	return slices.DeleteFunc(all, func(n projection.Note) bool { return !strings.HasPrefix(n.Key, prefix) })
}

// like is SQL's LIKE for a prefix whose special characters are not escaped.
func like(key, prefix []rune) bool {
	for i, r := range prefix {
		if i >= len(key) || r != '_' && r != '%' && r != key[i] {
			return false
		}
	}
	return true
}

func TestBrokenTwinsAreCaught(t *testing.T) {
	t.Parallel()
	for _, w := range twins {
		t.Run(w.name, func(t *testing.T) {
			t.Parallel()
			open := func(testing.TB) projection.Target[*plainTx] { return newPlain(w.twist) }
			for _, name := range w.caught {
				failures := projectiontest.Watch(t, name, open, features)
				if len(failures) == 0 {
					t.Errorf("a target that %s passes %q", w.name, name)
					continue
				}
				t.Logf("%s: %.200s", name, failures[0])
			}
		})
	}
}

func TestCasesCatchBrokenTwins(t *testing.T) {
	t.Parallel()
	caught := make(map[string]bool)
	for _, w := range twins {
		for _, name := range w.caught {
			caught[name] = true
		}
	}
	for _, name := range projectiontest.Names() {
		if !caught[name] {
			t.Errorf("no broken twin shows that %q is tested", name)
		}
	}
}
