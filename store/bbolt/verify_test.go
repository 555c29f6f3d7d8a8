package bbolt_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	bolt "go.etcd.io/bbolt"

	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/admin"
	"github.com/perdure/perdure/store/bbolt"
	"github.com/perdure/perdure/store/memory"
)

var allFlips = flag.Bool("allflips", false, "flip every bit of the file, not only some; takes hours")

// verify returns the faults of the log at path. An error from Open counts as a fault.
func verify(t testing.TB, path string) []error {
	t.Helper()
	l, err := bbolt.Open(path, bbolt.ReadOnly())
	if err != nil {
		if !errors.Is(err, store.ErrCorrupt) && !errors.Is(err, store.ErrFormat) {
			t.Errorf("open: got %v, want an error that matches %v or %v", err, store.ErrCorrupt, store.ErrFormat)
		}
		return []error{err}
	}
	defer closeLog(t, l)
	return faults(t, l)
}

func faults(t testing.TB, l store.Log) []error {
	t.Helper()
	report, err := admin.Verify(t.Context(), l, admin.VerifyOptions{})
	if err != nil {
		t.Fatalf("verify: %v", err)
	}
	for _, fault := range report.Faults {
		if !errors.Is(fault, store.ErrCorrupt) {
			t.Errorf("fault: got %v, want one that matches %v", fault, store.ErrCorrupt)
		}
	}
	return report.Faults
}

// whole fails unless the log is found whole.
func whole(t testing.TB, l store.Log) {
	t.Helper()
	for _, fault := range faults(t, l) {
		t.Errorf("verify: found %v in a whole log", fault)
	}
}

// small returns the file of the log without the room at its end, as a backup is.
func small(t testing.TB, l *bbolt.Log) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "small")
	if err := l.Backup(t.Context(), path, admin.BackupOptions{}); err != nil {
		t.Fatal(err)
	}
	return read(t, path)
}

func TestVerifyOfAnIntactLogFindsNoFault(t *testing.T) {
	t.Parallel()
	for _, partitions := range []int{1, 3} {
		l := openNew(t, bbolt.WithPartitions(partitions))
		whole(t, l)
		keys := fillLog(t, l)
		whole(t, l)
		for i, k := range keys[:15] {
			through := store.LastPosition(store.PartitionOf(k, partitions))
			if _, err := l.DeleteEvents(t.Context(), k, store.Version(5+i), through); err != nil {
				t.Fatal(err)
			}
		}
		whole(t, l)
		for i := range 5 {
			commit(t, l, &store.Batch{
				Settle:      []store.Settlement{{Sequence: uint64(3*i + 1)}},
				Checkpoints: []store.Checkpoint{{Name: keys[i].ID, Remove: true}},
			}, &store.Batch{Key: keys[i], Expected: 30, Cancel: []string{"timer 1"}, Forget: []string{"command 1"}})
		}
		whole(t, l)
		closeLog(t, l)
		whole(t, openAt(t, l.Path(), bbolt.ReadOnly()))
	}
}

// TestVerifyFindsEveryFlippedBitOfALiveRecord flips one bit at a time in pages that are in
// use. A verification must find each flip in a record, in the data that leads searches to it, or
// in the header of a page. Two exceptions lie outside of records: a key of a branch page that
// still separates the pages below it, and the space after the last entry of a page.
func TestVerifyFindsEveryFlippedBitOfALiveRecord(t *testing.T) {
	t.Parallel()
	longOnly(t)
	const flips = 200
	l := openNew(t, bbolt.WithPartitions(2))
	keys := fillLog(t, l)
	if _, err := l.DeleteEvents(t.Context(), keys[3], 12, store.LastPosition(1)); err != nil {
		t.Fatal(err)
	}
	live := bbolt.LiveBytes(t, l)
	file := small(t, l)

	random := rand.New(rand.NewPCG(3, 4))
	damaged := newFlipped(t, file)
	total := 8 * len(live)
	for i := range total {
		if !*allFlips {
			if i == flips {
				break
			}
			i = random.IntN(total)
		}
		at, bit := live[i/8], i%8
		damaged.flip(t, at, bit)
		if len(verify(t, damaged.path)) == 0 {
			t.Errorf("bit %d of byte %d (byte %d of page %d): found nothing", bit, at, at%os.Getpagesize(), at/os.Getpagesize())
		}
	}
}

// TestVerifyFindsAnElementThatPointsToAnotherEntry damages where an element of a page
// says that its entry is: at another entry of the page, which is sound in itself.
func TestVerifyFindsAnElementThatPointsToAnotherEntry(t *testing.T) {
	t.Parallel()
	longOnly(t)
	const header, element, damages = 16, 16, 100
	l := openNew(t)
	fillLog(t, l)
	leaves := bbolt.LeafPages(t, l)
	file := small(t, l)
	path := filepath.Join(t.TempDir(), "damaged.db")
	order, random := binary.NativeEndian, rand.New(rand.NewPCG(1, 2))
	done := 0
	for range damages {
		damaged := bytes.Clone(file)
		id := leaves[random.IntN(len(leaves))]
		page := damaged[id*os.Getpagesize():]
		count := int(order.Uint16(page[10:]))
		if count < 2 {
			continue
		}
		from := random.IntN(count)
		to := (from + 1 + random.IntN(count-1)) % count
		a, b := page[header+from*element:], page[header+to*element:]
		order.PutUint32(a[4:], order.Uint32(b[4:])+uint32((to-from)*element)) // each is counted from its own element
		copy(a[8:element], b[8:element])
		write(t, path, damaged)
		done++
		if len(verify(t, path)) == 0 {
			t.Errorf("element %d of page %d points to the entry of element %d: found nothing", from, id, to)
		}
	}
	if done < damages/2 {
		t.Errorf("pages that were damaged: got %d, want at least %d", done, damages/2)
	}
}

// TestVerifyFindsAPageThatHidesItsLastEntries makes the count of entries in every
// leaf less by one: bbolt then does not see the last entry, whatever it is.
func TestVerifyFindsAPageThatHidesItsLastEntries(t *testing.T) {
	t.Parallel()
	longOnly(t)
	l := openNew(t)
	fillLog(t, l)
	leaves := bbolt.LeafPages(t, l)
	file := small(t, l)
	path := filepath.Join(t.TempDir(), "damaged.db")
	for _, page := range leaves {
		damaged := bytes.Clone(file)
		damaged[page*os.Getpagesize()+10]--
		write(t, path, damaged)
		found := verify(t, path)
		if len(found) == 0 {
			t.Errorf("page %d: found nothing", page)
		}
	}
	if len(leaves) < 12 {
		t.Errorf("leaf pages: got %d, want more, or the test looks at too little", len(leaves))
	}
}

func TestVerifyReportsEveryDamagedRecord(t *testing.T) {
	t.Parallel()
	l := openNew(t)
	fillLog(t, l)
	closeLog(t, l)
	positions := []store.Position{1, 2, 77, 300, 599}
	for _, p := range positions {
		damage(t, l.Path(), &store.Event{Position: p}, func(b []byte) { b[len(b)/2] ^= 1 })
	}
	damage(t, l.Path(), &store.Message{Sequence: 7}, func(b []byte) { b[3] ^= 1 })
	damage(t, l.Path(), &store.State{Key: book("07"), Version: 20, Position: 1}, func(b []byte) { b[3] ^= 1 })
	var report []string
	for _, fault := range verify(t, l.Path()) {
		report = append(report, fault.Error())
	}
	text := strings.Join(report, "\n")
	for _, p := range positions {
		if want := fmt.Sprintf("at position %d in %s", p, l.Path()); !strings.Contains(text, want) {
			t.Errorf("report: got %s\nwant %q in it", text, want)
		}
	}
	for _, want := range []string{"bucket message, key", "corrupt state of book/07 version 20"} {
		if !strings.Contains(text, want) {
			t.Errorf("report: got %s\nwant %q in it", text, want)
		}
	}
}

// numberBytes is how long the value of an entry is that holds a number.
const numberBytes = 12

func TestVerifyFindsAnEntryThatIsGone(t *testing.T) {
	t.Parallel()
	for _, bucket := range []string{"log", "index", "state", "snapshot", "message", "due", "parked", "timer"} {
		for _, last := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, last %t", bucket, last), func(t *testing.T) {
				t.Parallel()
				l := openNew(t)
				fillLog(t, l)
				closeLog(t, l)
				edit(t, l.Path(), func(tx *bolt.Tx) error {
					c := tx.Bucket([]byte(bucket)).Cursor()
					c.First()
					if last {
						// Receipts are in the index too, but no counter counts them.
						_, v := c.Last()
						for bucket == "index" && len(v) != numberBytes {
							_, v = c.Prev()
						}
					}
					return c.Delete()
				})
				if len(verify(t, l.Path())) == 0 {
					t.Error("found nothing")
				}
			})
		}
	}
}

func TestSalvageOfALogWithADamagedMetaPage(t *testing.T) {
	t.Parallel()
	for page := range 2 {
		l := openNew(t)
		fillLog(t, l)
		closeLog(t, l)
		file := read(t, l.Path())
		file[page*os.Getpagesize()+40] ^= 1
		write(t, l.Path(), file)
		_, err := bbolt.Open(l.Path())
		wantIs(t, err, store.ErrCorrupt)

		damaged := openAt(t, l.Path(), bbolt.Salvage())
		if found := faults(t, damaged); len(found) != 1 || !strings.Contains(found[0].Error(), "meta page") {
			t.Errorf("faults: got %v, want the meta page alone", found)
		}
		_, err = damaged.Commit(t.Context(), []*store.Batch{happened(book("new"), 0, 1)})
		wantIs(t, err, errors.ErrUnsupported)
		saved := openNew(t)
		report, err := admin.Copy(t.Context(), damaged, saved, nil)
		if err != nil {
			t.Fatal(err)
		}
		// fillLog ends with a transaction that changes a saved state once more.
		if got := report.Digest.Of(store.KindEvent).Count; got != 600 {
			t.Errorf("events saved: got %d, want 600", got)
		}
		whole(t, saved)
	}
}

func TestCopyEqualsItsOrigin(t *testing.T) {
	t.Parallel()
	from := openNew(t, bbolt.WithPartitions(3))
	keys := fillLog(t, from)
	for _, k := range keys[:9] {
		if _, err := from.DeleteEvents(t.Context(), k, 7, store.LastPosition(store.PartitionOf(k, 3))); err != nil {
			t.Fatal(err)
		}
	}
	want, err := admin.NewDigest(t.Context(), from, nil)
	if err != nil {
		t.Fatal(err)
	}
	between := memory.New(memory.WithPartitions(3))
	to := openNew(t, bbolt.WithPartitions(3))
	for _, step := range [][2]store.Log{{from, between}, {between, to}} {
		if _, err := admin.Copy(t.Context(), step[0], step[1], nil); err != nil {
			t.Fatal(err)
		}
		whole(t, step[1])
	}
	closeLog(t, to)
	to = openAt(t, to.Path())
	got, err := admin.NewDigest(t.Context(), to, nil)
	if err != nil {
		t.Fatal(err)
	}
	if diff := want.Difference(got); diff != "" {
		t.Errorf("copy: %s", diff)
	}
	commit(t, to, happened(keys[0], 30, 1))
	whole(t, to)
}
