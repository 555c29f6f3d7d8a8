package storecore_test

import (
	"bytes"
	"encoding/binary"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/perdure/perdure/internal/storecore"
	"github.com/perdure/perdure/store"
)

func TestKeyOfAnEntitySortsAsItsNameAndIsNoPrefix(t *testing.T) {
	t.Parallel()
	keys := []store.Key{
		{Kind: "a", ID: "\x01"},
		{Kind: "a", ID: "1"},
		{Kind: "a", ID: "10"},
		{Kind: "a", ID: "2"},
		{Kind: "a", ID: "é"},
		{Kind: "a\x01", ID: "1"},
		{Kind: "ab", ID: ""},
		{Kind: "ab", ID: "1"},
		{Kind: "b", ID: strings.Repeat("x", store.IDBytesMax)},
	}
	encode := func(k store.Key) []byte { return storecore.AppendEntity([]byte{7}, k) }
	for i, k := range keys {
		b := encode(k)
		kind, id, rest, ok := storecore.SplitEntity(append(b, "rest\x00s"...)[1:])
		if !ok || string(kind) != k.Kind || string(id) != k.ID || string(rest) != "rest\x00s" || b[0] != 7 {
			t.Errorf("key of %v reads as %q, %q, %q, %t", k, kind, id, rest, ok)
		}
		for _, after := range keys[i+1:] {
			if a := encode(after); bytes.Compare(b, a) >= 0 {
				t.Errorf("key of %v is not below that of %v", k, after)
			} else if bytes.HasPrefix(a, b) {
				t.Errorf("key of %v is a prefix of that of %v", k, after)
			}
		}
	}
	for _, wrong := range []string{"", "book", "book\x00emma"} {
		if kind, id, _, ok := storecore.SplitEntity([]byte(wrong)); ok {
			t.Errorf("key %q reads as %q, %q; want it refused", wrong, kind, id)
		}
	}
	if got := storecore.AppendPair([]byte("x"), "a", "b\x00c"); string(got) != "xa\x00b\x00c" {
		t.Errorf("pair is %q", got)
	}
}

func TestDueKeySortsAsTimesDo(t *testing.T) {
	t.Parallel()
	epoch := time.Unix(0, 0)
	times := []time.Time{
		time.Unix(0, math.MinInt64+1), time.Date(1891, 1, 5, 0, 0, 0, 0, time.UTC), epoch.Add(-1), epoch.Add(1),
		time.Date(2030, 1, 2, 0, 0, 0, 1, time.UTC), time.Unix(0, math.MaxInt64),
	}
	var keys [][]byte
	for _, at := range times {
		keys = append(keys, storecore.AppendDue(nil, at))
		if len(keys[0]) != 8 {
			t.Fatalf("key of %v has %d bytes, want 8", at, len(keys[0]))
		}
	}
	if !slices.IsSortedFunc(keys, bytes.Compare) || len(slices.CompactFunc(slices.Clone(keys), bytes.Equal)) != len(keys) {
		t.Errorf("keys of %v are %x; want them to rise", times, keys)
	}
	none := storecore.AppendDue(nil, time.Time{})
	for _, first := range []time.Time{epoch, time.Unix(0, math.MinInt64), {}} { // records store each of these as no time
		if got := storecore.AppendDue(nil, first); !bytes.Equal(got, none) || bytes.Compare(got, keys[0]) >= 0 {
			t.Errorf("key of %v is %x; want it to be that of no time, before all others", first, got)
		}
	}
	if late := storecore.AppendDue(nil, time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)); !bytes.Equal(late, keys[len(keys)-1]) {
		t.Errorf("key of a time that is too late is %x, want the last", late)
	}
	// Every message with a due time up to the bound is due by it.
	for _, by := range append(times, epoch, time.Date(1, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)) {
		last := storecore.AppendDueBy(nil, by)
		for _, at := range times {
			if got := bytes.Compare(storecore.AppendDue(nil, at), last) <= 0; got == at.After(by) {
				t.Errorf("due at %v counts as due by %v: %t", at, by, got)
			}
		}
		if bytes.Compare(none, last) > 0 {
			t.Errorf("a message without a time is not due by %v", by)
		}
	}
}

func TestChecksumNoticesEveryFlippedBitAndAWrongKey(t *testing.T) {
	t.Parallel()
	k := []byte("\x02book\x00emma\x00")
	number := storecore.AppendNumber([]byte("before"), k, 1<<40+7)[len("before"):]
	if n, err := storecore.Number(k, number); n != 1<<40+7 || err != nil {
		t.Fatalf("number is %d, %v", n, err)
	}
	sealed := append(storecore.AppendKeySum([]byte("before"), k)[len("before"):], "a sealed record"...)
	if record, err := storecore.Sealed(k, sealed); string(record) != "a sealed record" || err != nil {
		t.Fatalf("record is %q, %v", record, err)
	}
	if len(number) != storecore.NumberBytes || len(sealed) != storecore.SumBytes+len("a sealed record") {
		t.Errorf("a number has %d bytes and a record %d", len(number), len(sealed))
	}
	wantNumber := func(what string, k, v []byte) {
		t.Helper()
		if n, err := storecore.Number(k, v); err == nil || n != 0 {
			t.Errorf("number with %s reads as %d, %v; want an error", what, n, err)
		}
	}
	wantSealed := func(what string, k, v []byte) {
		t.Helper()
		if record, err := storecore.Sealed(k, v); err == nil || record != nil {
			t.Errorf("record with %s reads as %q, %v; want an error", what, record, err)
		}
	}
	flipped := func(b []byte, bit int) []byte {
		b = slices.Clone(b)
		b[bit/8] ^= 1 << (bit % 8)
		return b
	}
	for bit := range 8 * len(k) {
		wantNumber("a flipped bit of its key", flipped(k, bit), number)
		wantSealed("a flipped bit of its key", flipped(k, bit), sealed)
	}
	for bit := range 8 * len(number) {
		wantNumber("a flipped bit", k, flipped(number, bit))
	}
	for bit := range 8 * storecore.SumBytes { // the record's own checksum covers the rest
		wantSealed("a flipped bit", k, flipped(sealed, bit))
	}
	for n := range len(number) {
		wantNumber("bytes cut off", k, number[:n])
	}
	for n := range storecore.SumBytes {
		wantSealed("bytes cut off", k, sealed[:n])
	}
	wantNumber("a byte too many", k, append(slices.Clone(number), 0))
	wantNumber("the sum of the number alone", k, binary.LittleEndian.AppendUint32(number[:8:8], 0))
}
