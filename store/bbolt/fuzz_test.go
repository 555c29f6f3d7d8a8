package bbolt_test

import (
	"encoding/binary"
	"errors"
	"testing"

	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/bbolt"
)

// FuzzPage reads pages that hold anything. Whatever they say, what is read of
// them lies within them, and a page without a fault is read to its last byte.
func FuzzPage(f *testing.F) {
	file := read(f, goldenFiles[1])
	const pageBytes = 4096
	for at := 2 * pageBytes; at+pageBytes <= len(file) && at < 16*pageBytes; at += pageBytes {
		f.Add(file[at : at+pageBytes])
	}
	f.Add(make([]byte, 16))
	f.Add(binary.NativeEndian.AppendUint64(make([]byte, 8), 1<<63|0xffff0002))
	f.Fuzz(func(t *testing.T, page []byte) {
		if len(page) < 16 {
			return // a page has a header
		}
		entries, bytes, reason := bbolt.ParsePage(page)
		if entries > len(page)/16 {
			t.Errorf("page of %d bytes: got %d entries", len(page), entries)
		}
		if reason == "" && 16+16*entries+bytes > len(page) {
			t.Errorf("page of %d bytes: got %d entries of %d bytes, and no fault", len(page), entries, bytes)
		}
	})
}

// FuzzEntry decodes entries that hold anything, under keys that are anything.
func FuzzEntry(f *testing.F) {
	l, err := bbolt.Open(goldenFiles[1], bbolt.ReadOnly())
	if err != nil {
		f.Fatal(err)
	}
	seeds := 0
	bbolt.EachEntry(f, l, func(bucket int, k, v []byte) {
		if seeds++; seeds%7 == 0 {
			f.Add(bucket, k, v)
		}
	})
	closeLog(f, l)
	f.Fuzz(func(t *testing.T, bucket int, k, v []byte) {
		for _, value := range [][]byte{v, bbolt.Vouched(k, v)} {
			err := bbolt.DecodeEntry(bucket, k, value)
			if err != nil && !errors.Is(err, store.ErrCorrupt) {
				t.Errorf("entry %x of bucket %d under %x: got error %v, want one matching %v", value, bucket, k, err, store.ErrCorrupt)
			}
		}
	})
}
