package bbolt_test

import (
	"encoding/binary"
	"errors"
	"testing"

	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/bbolt"
)

// FuzzPage decodes pages with any content. The decoder must never read beyond a page, and it
// must read a page without a fault to its last byte.
func FuzzPage(f *testing.F) {
	// Whole pages would be better seeds, but Go takes most of its time to make
	// what it finds with large inputs smaller.
	f.Add(smallPage(2, "key", "value", "key2", ""))
	f.Add(smallPage(1, "a", "", "b", ""))
	f.Add(make([]byte, 16))
	f.Add(binary.NativeEndian.AppendUint64(make([]byte, 8), 1<<63|0xffff0002))
	f.Fuzz(func(t *testing.T, page []byte) {
		if len(page) < 16 {
			return // a page has a header
		}
		entries, size, fault := bbolt.ParsePage(page)
		if entries > len(page)/16 {
			t.Errorf("page of %d bytes: got %d entries", len(page), entries)
		}
		if fault == nil && 16+16*entries+size > len(page) {
			t.Errorf("page of %d bytes: got %d entries of %d bytes, and no fault", len(page), entries, size)
		}
	})
}

// smallPage returns a leaf (2) or branch (1) with keys and values.
func smallPage(flags uint16, pairs ...string) []byte {
	order := binary.NativeEndian
	b := order.AppendUint64(nil, 2)
	b = order.AppendUint16(b, flags)
	b = order.AppendUint16(b, uint16(len(pairs)/2))
	b = order.AppendUint32(b, 0)
	at := 16 * len(pairs) / 2
	data := ""
	for i := 0; i < len(pairs); i += 2 {
		k, v := uint32(len(pairs[i])), uint32(len(pairs[i+1]))
		if flags == 1 {
			b = order.AppendUint64(order.AppendUint32(order.AppendUint32(b, uint32(at)), k), 3)
		} else {
			b = order.AppendUint32(order.AppendUint32(order.AppendUint32(order.AppendUint32(b, 0), uint32(at)), k), v)
		}
		at += int(k+v) - 16
		data += pairs[i] + pairs[i+1]
	}
	return append(b, data...)
}

func TestPageThatIsSmallIsIntact(t *testing.T) {
	t.Parallel()
	if entries, size, fault := bbolt.ParsePage(smallPage(2, "key", "value", "key2", "")); entries != 2 || size != 12 || fault != nil {
		t.Errorf("page: got %d entries of %d bytes, %v", entries, size, fault)
	}
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
