package store_test

import (
	"bytes"
	"errors"
	"reflect"
	"runtime/metrics"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/perdure/perdure/store"
)

// An attacker may have made a record that passes its checksum. Decoding it must not allocate more
// than amplificationMax times its length, and a little that does not depend on its length. The
// worst case in protobuf are empty details of a refusal: two bytes each, and about 200 decoded.
const (
	amplificationMax = 128
	amplificationLow = 256 << 10
)

// allocated returns the number of bytes that fn allocates, including allocations of other
// goroutines.
func allocated(fn func()) uint64 {
	sample := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(sample)
	before := sample[0].Value.Uint64()
	fn()
	metrics.Read(sample)
	return sample[0].Value.Uint64() - before
}

// frugal fails if fn, which decodes b, allocates too much in each of several runs; a single run
// may include allocations of other goroutines.
func frugal(t testing.TB, b []byte, fn func()) {
	t.Helper()
	limit := amplificationLow + amplificationMax*uint64(len(b))
	got := allocated(fn)
	for range 5 {
		if got <= limit {
			return
		}
		got = min(got, allocated(fn))
	}
	t.Errorf("decode %d bytes: allocates %d bytes, want at most %d", len(b), got, limit)
}

// fuzzDecoder fuzzes a decoder of sealed records: a record that it accepts must be the same after
// it is encoded and decoded again.
func fuzzDecoder[R any](f *testing.F, decode func([]byte) (*R, error), encode func([]byte, *R) []byte, seeds ...*R) {
	f.Helper()
	f.Add([]byte{})
	for _, s := range seeds {
		sealed := encode(nil, s)
		f.Add(sealed)
		f.Add(sealed[:len(sealed)-4]) // sealed bytes pass the checksum
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, sealed := range [][]byte{b, store.Seal(bytes.Clone(b), 0)} {
			var r *R
			var err error
			frugal(t, sealed, func() { r, err = decode(sealed) })
			if err != nil {
				if !errors.Is(err, store.ErrCorrupt) {
					t.Errorf("decode %x: got error %v, want one matching %v", sealed, err, store.ErrCorrupt)
				}
				continue
			}
			again, err := decode(encode(nil, r))
			if err != nil || !reflect.DeepEqual(again, r) {
				t.Errorf("decode %x again: got %+v and error %v, want %+v", b, again, err, r)
			}
		}
	})
}

func FuzzDecodeReceipt(f *testing.F) {
	fuzzDecoder(f, store.DecodeReceipt, store.AppendReceipt,
		&store.Receipt{
			Entity: store.Key{Kind: "book", ID: "a"}, Name: "r", CommandID: store.ID{1}, Fingerprint: []byte("f"),
			Version: 3, Position: 4, ReplyType: "t", Reply: []byte("yes"),
		},
		&store.Receipt{
			Entity: store.Key{Kind: "book", ID: "a"}, Name: "no",
			Refusal: &store.Refusal{Code: 5, Message: "none", Details: []store.Detail{{Type: "t", Payload: []byte("d")}, {}}},
		})
}

func FuzzDecodeClaimed(f *testing.F) {
	fuzzDecoder(f, store.DecodeClaimed, store.AppendClaimed,
		&store.Claimed{Claim: store.Claim{Space: "s", Value: "v"}, Owner: store.Key{Kind: "book", ID: "a"}})
}

func FuzzDecodeCheckpoint(f *testing.F) {
	fuzzDecoder(f, store.DecodeCheckpoint, store.AppendCheckpoint, &store.Checkpoint{Name: "b", Position: store.NewPosition(3, 9)})
}

func FuzzDecodeLogInfo(f *testing.F) {
	fuzzDecoder(f, store.DecodeLogInfo, store.AppendLogInfo, &store.LogInfo{ID: store.ID{7}, Format: 1, Partitions: 4})
}

func FuzzParseID(f *testing.F) {
	for _, s := range []string{
		"", store.ID{1, 2, 3}.String(), "urn:uuid:01020300-0000-0000-0000-000000000000",
		"{01020300-0000-0000-0000-000000000000}", "01020300000000000000000000000000", "01020300-0000-0000-0000-00000000000g",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		id, err := store.ParseID(s)
		if err != nil {
			if !errors.Is(err, store.ErrInvalid) {
				t.Errorf("parse %q: got error %v, want one matching %v", s, err, store.ErrInvalid)
			}
			return
		}
		if again, err := store.ParseID(id.String()); err != nil || again != id {
			t.Errorf("parse %q: got %v, which reads back as %v and error %v", s, id, again, err)
		}
	})
}

// FuzzKey checks that each valid key has the properties that stores rely on, and that the order
// of keys in stores is the order of kinds and ids.
func FuzzKey(f *testing.F) {
	for _, s := range []string{"", "a", "a\x00b", "\xff", "é", "a/b", strings.Repeat("x", store.IDBytesMax+1)} {
		f.Add("book", s)
		f.Add(s, "1")
	}
	f.Fuzz(func(t *testing.T, kind, id string) {
		key := store.Key{Kind: kind, ID: id}
		err := key.Validate()
		bad := func(s string, bytesMax int) bool {
			return s == "" || len(s) > bytesMax || strings.ContainsRune(s, 0) || !utf8.ValidString(s)
		}
		if want := bad(kind, store.KindBytesMax) || bad(id, store.IDBytesMax); (err != nil) != want {
			t.Errorf("validate %q: got %v, want an error: %t", key, err, want)
		}
		if err != nil && !errors.Is(err, store.ErrInvalid) {
			t.Errorf("validate %q: got %v, want an error matching %v", key, err, store.ErrInvalid)
		}
		for _, n := range []int{1, 2, 7, store.PartitionsMax} {
			if p := store.PartitionOf(key, n); p < 0 || p >= n || p != store.PartitionOf(key, n) {
				t.Errorf("partition of %q in %d: got %d", key, n, p)
			}
		}
	})
}

// TestRecordAllocatesLittleMoreThanItsSize decodes records that grow as much as possible when
// decoded.
//
//nolint:paralleltest // it reads how much the process has allocated
func TestRecordAllocatesLittleMoreThanItsSize(t *testing.T) {
	repeated := func(n int, piece ...byte) []byte { return bytes.Repeat(piece, n) }
	inside := func(number protowire.Number, b []byte) []byte {
		return protowire.AppendBytes(protowire.AppendTag(nil, number, protowire.BytesType), b)
	}
	const n = 100_000
	var values []byte
	for i := range n {
		pair := append(inside(1, []byte(strconv.FormatInt(int64(i), 36))), inside(2, nil)...)
		values = append(values, inside(5, pair)...)
	}
	groups := append(repeated(9000, 0xa3, 0x06), repeated(9000, 0xa4, 0x06)...)
	var d store.Decoder
	for _, c := range []struct {
		name   string
		record []byte
		decode func([]byte) error
	}{
		{"tags", repeated(n, 0x32, 0), func(b []byte) error { return d.Event(b, new(store.Event)) }},
		{"metadata of an event", inside(7, values), func(b []byte) error { return d.Event(b, new(store.Event)) }},
		{"metadata of a state", inside(6, values), func(b []byte) error { return d.State(b, new(store.State)) }},
		{"groups in an event", groups, func(b []byte) error { return d.Event(b, new(store.Event)) }},
		{"groups in a message", groups, func(b []byte) error { _, err := store.DecodeMessage(b); return err }},
		{"metadata of a message", inside(11, values), func(b []byte) error { _, err := store.DecodeMessage(b); return err }},
		{"details of a refusal", inside(8, repeated(n, 0x1a, 0)), func(b []byte) error { _, err := store.DecodeReceipt(b); return err }},
	} {
		sealed := store.Seal(bytes.Clone(c.record), 0)
		got := allocated(func() { _ = c.decode(sealed) }) // an error is as good
		t.Logf("%s: %d bytes of %d, %.1f times as many", c.name, got, len(sealed), float64(got)/float64(len(sealed)))
		frugal(t, sealed, func() { _ = c.decode(sealed) })
	}
}
