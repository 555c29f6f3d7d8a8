package bbolt_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"

	bolt "go.etcd.io/bbolt"

	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/bbolt"
)

// answered returns a batch of one event and receipts of these names.
func answered(key store.Key, expected store.Version, names ...string) *store.Batch {
	b := happened(key, expected, 1)
	for _, name := range names {
		b.Receipts = append(b.Receipts, receipt(name))
	}
	return b
}

func receipt(name string) store.Receipt {
	return store.Receipt{Name: name, CommandID: newID(), Reply: []byte("reply to " + name)}
}

func wantNames(t testing.TB, when string, l store.Receipts, key store.Key, want ...string) {
	t.Helper()
	var got []string
	for r, err := range l.Receipts(context.Background(), key) {
		if err != nil {
			t.Fatalf("%s: receipts of %v: %v", when, key, err)
		}
		if reply := "reply to " + r.Name; string(r.Reply) != reply {
			t.Errorf("%s: receipt %q of %v: got reply %q, want %q", when, r.Name, key, r.Reply, reply)
		}
		got = append(got, r.Name)
	}
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("%s: receipts of %v: got %q, want %q", when, key, got, want)
	}
	for _, name := range want {
		if r, err := l.Receipt(context.Background(), key, name); err != nil || r.Name != name {
			t.Errorf("%s: receipt %q of %v: got %+v, %v", when, name, key, r, err)
		}
	}
}

func TestReceiptsBesideVersionsDisturbNoRead(t *testing.T) {
	t.Parallel()
	l := openNew(t)
	keys := []store.Key{book("a"), book("a1"), book("b"), {Kind: "book2", ID: "a"}}
	for i, key := range keys {
		for v := range store.Version(40) {
			commit(t, l, answered(key, v, fmt.Sprintf("%d", v), fmt.Sprintf("ÿÿÿÿÿÿÿÿ-%d", v)))
		}
		refused := &store.Batch{Key: key, Expected: 40, Receipts: []store.Receipt{receipt("refused")}}
		commit(t, l, refused)
		commit(t, l, happened(key, 40, i+1))
	}
	onlyRefused := &store.Batch{Key: book("aa"), Receipts: []store.Receipt{receipt("no")}}
	commit(t, l, onlyRefused, &store.Batch{Key: store.Key{Kind: "book1", ID: "x"}, Receipts: []store.Receipt{receipt("no")}})
	for i, key := range keys {
		wantVersions(t, versions(t, l.Read(t.Context(), key, 0)), span(1, store.Version(41+i)))
	}
	wantVersions(t, versions(t, l.Read(t.Context(), book("aa"), 0)), nil)
	wantNames(t, "of a refused command", l, book("aa"), "no")
	kinds, err := l.Kinds(t.Context())
	if want := []string{"book", "book2"}; err != nil || !slices.Equal(kinds, want) {
		t.Errorf("kinds: got %q, %v, want %q", kinds, err, want)
	}
	var ids []string
	for e, err := range l.Entities(t.Context(), "book", "") {
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, e.Key.ID)
	}
	if want := []string{"a", "a1", "b"}; !slices.Equal(ids, want) {
		t.Errorf("entities: got %q, want %q", ids, want)
	}
	snapshotted := &store.Batch{Key: book("a"), Expected: 41, Snapshot: snapshot("a at 41")}
	commit(t, l, snapshotted)
	if n, err := l.DeleteEvents(t.Context(), book("a"), 30, store.LastPosition(0)); err != nil || n != 29 {
		t.Errorf("delete events: got %d, %v, want 29", n, err)
	}
	wantVersions(t, versions(t, l.Read(t.Context(), book("a"), 0)), span(30, 41))
	if _, err := l.Receipt(t.Context(), book("a"), "3"); err != nil {
		t.Errorf("the receipt of a deleted event: %v", err)
	}
}

// TestReceiptsAreThoseOfAModel does random things with receipts, by names that
// all have one of three hashes, and compares with a map.
func TestReceiptsAreThoseOfAModel(t *testing.T) {
	t.Parallel()
	longOnly(t)
	for name, hash := range map[string]func(string) uint64{
		"hashes that collide": func(name string) uint64 { return uint64(len(name)) },
		"real hashes":         nil,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := openNew(t)
			if hash != nil {
				l.HashNames(hash)
			}
			random := rand.New(rand.NewPCG(1, 2))
			model := map[store.Key]map[string]bool{}
			at := map[store.Key]store.Version{}
			for range 600 {
				key := book(fmt.Sprint(random.IntN(3)))
				if model[key] == nil {
					model[key] = map[string]bool{}
				}
				some := func() string { return fmt.Sprint(random.IntN(150)) }
				switch random.IntN(20) {
				case 0:
					l.ForgetNames()
				case 1:
					closeLog(t, l)
					l = openAt(t, l.Path())
					if hash != nil {
						l.HashNames(hash)
					}
				}
				b := &store.Batch{Key: key, Expected: at[key], Forget: []string{some(), some()}}
				added := some()
				b.Receipts = []store.Receipt{receipt(added)}
				if random.IntN(2) == 0 {
					b.Events = []store.Event{event(text(key, at[key]+1))}
				}
				wrong := random.IntN(8) == 0
				if wrong {
					b.Expected++
				}
				results, err := l.Commit(t.Context(), []*store.Batch{b})
				if err != nil {
					t.Fatal(err)
				}
				switch again := model[key][added] && !slices.Contains(b.Forget, added); {
				case wrong:
					wantIs(t, results[0].Err, store.ErrConflict)
					continue
				case again:
					wantIs(t, results[0].Err, store.ErrAnswered)
					continue
				case results[0].Err != nil:
					t.Fatalf("receipt %q of %v: %v", added, key, results[0].Err)
				}
				at[key] = b.Next()
				for _, name := range b.Forget {
					delete(model[key], name)
				}
				model[key][added] = true
			}
			for key, names := range model {
				var want []string
				for name := range names {
					want = append(want, name)
				}
				wantNames(t, "at the end", l, key, want...)
			}
		})
	}
}

// TestReceiptsOfATransactionThatFailsAreNotCached breaks a transaction off
// after it has changed receipts.
func TestReceiptsOfATransactionThatFailsAreNotCached(t *testing.T) {
	t.Parallel()
	l := openNew(t)
	commit(t, l, answered(book("a"), 0, "kept"))
	b := answered(book("a"), 1, "new")
	b.Forget = []string{"kept"}
	if err := l.FailAfter(b); err == nil {
		t.Fatal("the transaction has not failed")
	}
	wantNames(t, "after the failure", l, book("a"), "kept")
	results, err := l.Commit(t.Context(), []*store.Batch{answered(book("a"), 1, "kept")})
	if err != nil {
		t.Fatal(err)
	}
	wantIs(t, results[0].Err, store.ErrAnswered)
	commit(t, l, answered(book("a"), 1, "new"))
	wantNames(t, "at the end", l, book("a"), "kept", "new")
}

// TestReceiptsOfAnOlderFormatAreKept opens a file of format 1, first for reading
// alone, and then again and again for writing, each time broken off.
func TestReceiptsOfAnOlderFormatAreKept(t *testing.T) {
	t.Parallel()
	longOnly(t)
	l := openNew(t)
	const entities, each = 12, bbolt.UpgradeReceipts / 5
	want := make([][]string, entities)
	for e := range entities {
		b := answered(book(fmt.Sprint(e)), 0)
		for i := range each {
			name := fmt.Sprintf("%05d", (i*7919)%each)
			want[e] = append(want[e], name)
			b.Receipts = append(b.Receipts, receipt(name))
		}
		commit(t, l, b)
	}
	check := func(when string, l store.Receipts) {
		t.Helper()
		for e := range entities {
			wantNames(t, when, l, book(fmt.Sprint(e)), want[e]...)
			if _, err := l.Receipt(t.Context(), book(fmt.Sprint(e)), "none"); !errors.Is(err, store.ErrNotFound) {
				t.Errorf("%s: a receipt that is not there: got %v, want %v", when, err, store.ErrNotFound)
			}
		}
	}
	closeLog(t, l)
	edit(t, l.Path(), bbolt.Downgrade)

	l = openAt(t, l.Path(), bbolt.ReadOnly())
	check("read only", l)
	closeLog(t, l)

	// One step, and then the process ends.
	edit(t, l.Path(), bbolt.UpgradeOnce)
	edit(t, l.Path(), func(tx *bolt.Tx) error {
		if tx.Bucket([]byte("receipt")) == nil {
			t.Error("one step has moved everything, so that nothing is left to be tested")
		}
		return nil
	})
	l = openAt(t, l.Path(), bbolt.ReadOnly())
	check("read only, after a step", l)
	closeLog(t, l)

	l = openAt(t, l.Path())
	check("after the upgrade", l)
	if stats, err := l.Stats(t.Context()); err != nil || stats.Info.Format != 2 {
		t.Errorf("after the upgrade: got format %d, %v, want 2", stats.Info.Format, err)
	}
	results, err := l.Commit(t.Context(), []*store.Batch{answered(book("3"), 1, want[3][5])})
	if err != nil {
		t.Fatal(err)
	}
	wantIs(t, results[0].Err, store.ErrAnswered)
	closeLog(t, l)
	edit(t, l.Path(), func(tx *bolt.Tx) error {
		if tx.Bucket([]byte("receipt")) != nil {
			t.Error("the old bucket is still there")
		}
		return nil
	})
}

// TestReceiptsWriteFewPages compares the pages that commits with receipts
// write with those of the same commits without.
func TestReceiptsWriteFewPages(t *testing.T) {
	t.Parallel()
	longOnly(t)
	const entities, group, rounds, history = 300, 100, 40, 150
	pages := func(keyed bool) (written int64) {
		l := openAt(t, filepath.Join(t.TempDir(), "log.db"))
		random := rand.New(rand.NewPCG(3, 4))
		at := make([]store.Version, entities)
		for e := range entities { // so that no page is that of many entities
			commit(t, l, happened(book(fmt.Sprintf("%04d", e)), 0, history))
			at[e] = history
		}
		for range rounds {
			var batches []*store.Batch
			for _, e := range random.Perm(entities)[:group] {
				b := happened(book(fmt.Sprintf("%04d", e)), at[e], 1)
				if keyed {
					b.Receipts = []store.Receipt{receipt(fmt.Sprintf("%016x", random.Uint64()))}
				}
				at[e]++
				batches = append(batches, b)
			}
			before := l.PagesWritten()
			commit(t, l, batches...)
			written += l.PagesWritten() - before
		}
		return written
	}
	without, with := pages(false), pages(true)
	t.Logf("pages written: %d without keys, %d with", without, with)
	if with > without*13/10 {
		t.Errorf("commits with receipts write %d pages, more than 1.3 times the %d of those without", with, without)
	}
}
