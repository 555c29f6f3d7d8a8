package bbolt_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	bolt "go.etcd.io/bbolt"

	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/bbolt"
)

// everything reads all that a log holds and returns one line for each thing,
// in groups that are read on their own, and each group's error.
func everything(t testing.TB, l *bbolt.Log, keys []store.Key) (lines map[string][]string, errs map[string]error) {
	t.Helper()
	lines, errs = map[string][]string{}, map[string]error{}
	add := func(group string, err error, line string) {
		if err != nil {
			errs[group] = err
			return
		}
		lines[group] = append(lines[group], line)
	}
	ctx := t.Context()
	for e, err := range l.Scan(ctx, store.Query{}) {
		add("scan", err, fmt.Sprintf("%+v", e))
	}
	kinds, err := l.Kinds(ctx)
	add("kinds", err, fmt.Sprint(kinds))
	for e, err := range l.Entities(ctx, "book", "") {
		add("entities", err, fmt.Sprint(e))
	}
	checkpoints, err := l.Checkpoints(ctx)
	add("checkpoints", err, fmt.Sprint(checkpoints))
	for _, parked := range []bool{false, true} {
		addAll(add, fmt.Sprint("parked ", parked), l.Messages(ctx, store.MessageQuery{Parked: parked}))
	}
	addAll(add, "claims", l.Claims(ctx, "space"))
	for _, k := range keys {
		var offered []string
		events := l.Load(ctx, k, func(s *store.State) bool {
			offered = append(offered, fmt.Sprintf("%+v", s))
			return len(offered) > 1 // the second or none, so that both are looked at
		})
		for e, err := range events {
			add("load "+k.ID, err, fmt.Sprintf("%+v", e))
		}
		add("states "+k.ID, errs["load "+k.ID], fmt.Sprint(offered))
		addAll(add, "receipts "+k.ID, l.Receipts(ctx, k))
		_, err = l.Receipt(ctx, k, "command 1")
		add("receipt "+k.ID, err, "there")
		owner, err := l.Owner(ctx, store.Claim{Space: "space", Value: k.ID})
		add("owner "+k.ID, err, owner.String())
		add("head "+k.ID, headError(l, k), "as expected")
	}
	return lines, errs
}

func addAll[T any](add func(string, error, string), group string, all iter.Seq2[T, error]) {
	for v, err := range all {
		add(group, err, fmt.Sprintf("%+v", v))
	}
}

// headError returns the error of a batch that checks a version that fillLog has
// made.
func headError(l *bbolt.Log, key store.Key) error {
	expected := store.Version(30)
	if key.ID == "saved" {
		expected = 2
	}
	results, err := l.Commit(context.Background(), []*store.Batch{{Key: key, Expected: expected}})
	if err != nil {
		return err
	}
	return results[0].Err
}

// fillLog stores some of everything and returns the keys of the entities.
func fillLog(t testing.TB, l *bbolt.Log) (keys []store.Key) {
	t.Helper()
	for i := range 20 {
		k := book(fmt.Sprintf("%02d", i))
		keys = append(keys, k)
	}
	for v := range store.Version(30) {
		var group []*store.Batch
		for i, k := range keys {
			b := happened(k, v, 1)
			b.Events[0].Tags = []string{"tag"}
			if v%10 == 9 {
				b.Snapshot = snapshot(fmt.Sprintf("state %d", v+1))
			}
			if v == 0 {
				b.Claim = []store.Claim{{Space: "space", Value: k.ID}}
			}
			if v < 3 {
				b.Receipts = []store.Receipt{{Name: fmt.Sprintf("command %d", v), CommandID: newID(), Reply: []byte("yes")}}
				b.Enqueue = []store.Message{{
					ID: newID(), Type: "test.v1.Message", Payload: []byte("do"), Parked: i%2 == 0, Timer: fmt.Sprint("timer ", v),
				}}
				b.Checkpoints = []store.Checkpoint{{Name: k.ID, Position: store.Position(v)}}
			}
			group = append(group, b)
		}
		commit(t, l, group...)
	}
	saved := book("saved")
	for v := range store.Version(2) {
		commit(t, l, &store.Batch{Key: saved, Expected: v, Save: snapshot("saved")})
	}
	return append(keys, saved)
}

// TestDamageOfABitIsAnErrorAndNeverWrongData flips one bit of the file at a time. Each
// read must then return the stored data or an error, and the process must not end. The package
// documents two exceptions, which only a verification finds: the count of entries in the header of
// a page, and an element of a page that points to another, intact entry.
func TestDamageOfABitIsAnErrorAndNeverWrongData(t *testing.T) {
	t.Parallel()
	longOnly(t)
	const flips = 200
	l := openNew(t)
	keys := fillLog(t, l)
	want, errs := everything(t, l, keys)
	for group, err := range errs {
		// A durable-state entity has no receipt and no claim.
		if !errors.Is(err, store.ErrNotFound) {
			t.Fatalf("%s of the whole log: %v", group, err)
		}
	}
	notFound := errs
	closeLog(t, l)
	whole := read(t, l.Path())
	used := len(bytes.TrimRight(whole, "\x00"))
	page := os.Getpagesize()
	whole = whole[:(used+page-1)/page*page] // the rest is room for more

	random := rand.New(rand.NewPCG(1, 2))
	file := newFlipped(t, whole)
	refused, noticed := 0, 0
	for range flips {
		at, bit := random.IntN(used), random.IntN(8)
		if in := at % os.Getpagesize(); in == 10 || in == 11 {
			continue
		}
		file.flip(t, at, bit)
		where := fmt.Sprintf("bit %d of byte %d (page %d)", bit, at, at/os.Getpagesize())
		l, err := bbolt.Open(file.path)
		if err != nil {
			refused++
			if !errors.Is(err, store.ErrCorrupt) && !errors.Is(err, store.ErrFormat) {
				t.Errorf("%s: open: got %v, want an error that matches %v or %v", where, err, store.ErrCorrupt, store.ErrFormat)
			}
			continue
		}
		got, errs := everything(t, l, keys)
		_ = l.Close() // a log that has met damage may say so again
		if len(errs) > len(notFound) {
			noticed++
		}
		wrong := compare(got, want, errs, notFound)
		if len(wrong) > 0 && inElement(whole, at) && len(verify(t, file.path)) > 0 {
			t.Logf("%s: found by a verification alone: %s", where, wrong[0])
			continue
		}
		for _, w := range wrong {
			t.Errorf("%s: %s", where, w)
		}
	}
	t.Logf("%d flips: %d refused at open, %d noticed by reads", flips, refused, noticed)
	if noticed < flips/20 {
		t.Errorf("flips that reads have noticed: got %d of %d, want more, or the test looks at the wrong bytes", noticed, flips)
	}
}

// A flipped file is a copy of a file with one bit flipped. It is changed in place,
// because a log that is opened syncs its file, and all of a new one takes long.
type flipped struct {
	path  string
	whole []byte
	at    int // of the bit that is flipped, -1 for none
	bit   int
}

// inElement reports whether a byte of the file is in an element of a page, which
// says where an entry is.
func inElement(whole []byte, at int) bool {
	const headerBytes, elementBytes = 16, 16
	page := os.Getpagesize()
	count := binary.NativeEndian.Uint16(whole[at/page*page+10:])
	return at%page >= headerBytes && at%page < headerBytes+int(count)*elementBytes
}

func newFlipped(t testing.TB, whole []byte) *flipped {
	t.Helper()
	f := &flipped{path: filepath.Join(t.TempDir(), "damaged.db"), whole: whole, at: -1}
	write(t, f.path, whole)
	return f
}

// flip restores the original content of the file, and then flips one bit.
func (f *flipped) flip(t testing.TB, at, bit int) {
	t.Helper()
	now := read(t, f.path)
	if f.at >= 0 && f.at < len(now) {
		now[f.at] ^= 1 << f.bit
		f.put(t, f.at, f.whole[f.at])
	}
	if !bytes.Equal(now, f.whole) {
		write(t, f.path, f.whole)
	}
	f.at, f.bit = at, bit
	f.put(t, at, f.whole[at]^1<<bit)
}

func (f *flipped) put(t testing.TB, at int, b byte) {
	t.Helper()
	file, err := os.OpenFile(f.path, os.O_WRONLY, 0)
	if err == nil {
		_, err = file.WriteAt([]byte{b}, int64(at))
		err = errors.Join(err, file.Close())
	}
	if err != nil {
		t.Fatalf("flip: %v", err)
	}
}

// compare returns the data that was read without an error and differs from the stored data.
func compare(got, want map[string][]string, errs, notFound map[string]error) (wrong []string) {
	add := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	for group, lines := range want {
		if err := errs[group]; err != nil {
			if !errors.Is(err, store.ErrCorrupt) {
				add("%s: got error %v, want one that matches %v", group, err, store.ErrCorrupt)
			}
			continue
		}
		if len(got[group]) != len(lines) {
			add("%s: got %d lines, want %d", group, len(got[group]), len(lines))
			continue
		}
		for i := range lines {
			if got[group][i] != lines[i] {
				add("%s: line %d: got %s, want %s", group, i, got[group][i], lines[i])
				break
			}
		}
	}
	for group := range got {
		if want[group] == nil {
			add("%s: got %q, want nothing", group, got[group])
		}
	}
	for group := range notFound {
		if err := errs[group]; !errors.Is(err, store.ErrNotFound) && !errors.Is(err, store.ErrCorrupt) {
			add("%s: got %v, want %v", group, err, store.ErrNotFound)
		}
	}
	return wrong
}

func TestDamageOfAFileThatShrinksIsAnError(t *testing.T) {
	t.Parallel()
	l := openNew(t)
	fillLog(t, l)
	if err := os.Truncate(l.Path(), int64(2*os.Getpagesize())); err != nil {
		t.Fatal(err)
	}
	_, err := collect(l.Scan(t.Context(), store.Query{}))
	wantIs(t, err, store.ErrCorrupt)
	results, err := l.Commit(t.Context(), []*store.Batch{happened(book("new"), 0, 1)})
	if err == nil {
		err = results[0].Err
	}
	wantIs(t, err, store.ErrCorrupt)
	_ = l.Close()
}

func TestCloseOfAFileThatWasEmptied(t *testing.T) {
	t.Parallel()
	l := openNew(t)
	fillLog(t, l)
	whole := read(t, l.Path())
	if err := os.Truncate(l.Path(), 0); err != nil {
		t.Fatal(err)
	}
	_, err := collect(l.Scan(t.Context(), store.Query{}))
	wantIs(t, err, store.ErrCorrupt)
	_, err = collect(l.Scan(t.Context(), store.Query{}))
	wantIs(t, err, store.ErrBroken)
	closed := make(chan error, 1)
	go func() { closed <- l.Close() }()
	if err := receive(t, "Close", closed); err != nil {
		t.Errorf("close: %v", err)
	}
	write(t, l.Path(), whole)
	closeLog(t, openAt(t, l.Path())) // its lock is gone too
}

func TestDamageOfAMissingEntryIsAnError(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		bucket string
		key    func() []byte
	}{
		{"an event in the log", "log", func() []byte { return bbolt.PositionKey(5) }},
		{"the last event in the log", "log", func() []byte { return bbolt.PositionKey(10) }},
		{"a version in the index", "index", func() []byte { return bbolt.IndexKey(book("1"), 5) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			l := openNew(t)
			commit(t, l, happened(book("1"), 0, 10))
			closeLog(t, l)
			edit(t, l.Path(), func(tx *bolt.Tx) error { return tx.Bucket([]byte(c.bucket)).Delete(c.key()) })
			l, err := bbolt.Open(l.Path())
			if err == nil {
				_, err = collect(l.Load(t.Context(), book("1"), nil))
				closeLog(t, l)
			}
			wantIs(t, err, store.ErrCorrupt)
		})
	}
}

// TestScanGoesOnBehindDamage damages the event before a gap of deleted ones: a
// reader that passes it gets all that comes later.
func TestScanGoesOnBehindDamage(t *testing.T) {
	t.Parallel()
	l := openNew(t)
	commit(t, l, happened(book("b"), 0, 1))
	b := happened(book("a"), 0, 20)
	b.Snapshot = &store.State{ID: store.ID{7}, Type: "test.v1.State"}
	commit(t, l, b)
	commit(t, l, happened(book("c"), 0, 3))
	if _, err := l.DeleteEvents(t.Context(), book("a"), 20, store.LastPosition(0)); err != nil {
		t.Fatal(err)
	}
	closeLog(t, l)
	damage(t, l.Path(), &store.Event{Position: 1}, func(b []byte) { b[9] ^= 1 })
	l = openAt(t, l.Path())
	for _, err := range l.Scan(t.Context(), store.Query{}) {
		wantIs(t, err, store.ErrCorrupt)
	}
	n := 0
	for _, err := range l.Scan(t.Context(), store.Query{After: 1}) {
		if err != nil {
			t.Fatalf("scan behind the damage: %v", err)
		}
		n++
	}
	if n != 4 {
		t.Errorf("events behind the damage: got %d, want 4", n)
	}
}
