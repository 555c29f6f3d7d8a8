package store_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/perdure/perdure/store"
)

func TestPositionIsReadBackFromItsText(t *testing.T) {
	t.Parallel()
	for text, p := range map[string]store.Position{
		"0":                     0,
		"1":                     1,
		"4503599627370495":      store.LastPosition(0),
		"1:0":                   store.NewPosition(1, 0),
		"7:42":                  store.NewPosition(7, 42),
		"4095:4503599627370495": store.LastPosition(store.PartitionsMax - 1),
	} {
		if got := p.String(); got != text {
			t.Errorf("text of %d: got %q, want %q", p, got, text)
		}
		if got, err := store.ParsePosition(text); got != p || err != nil {
			t.Errorf("parse %q: got %d and error %v, want %d", text, got, err, p)
		}
	}
}

func TestPositionTextThatIsInvalidIsRefused(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		"", " 1", "1 ", "+1", "-1", "01", "0:1", "00:1", "1:01", "1:", ":1", "1:2:3", "a", "1.5", "4096:1",
		"4503599627370496", "1:4503599627370496", "99999999999999999999", "１",
	} {
		if got, err := store.ParsePosition(text); !errors.Is(err, store.ErrInvalid) {
			t.Errorf("parse %q: got %d and error %v, want %v", text, got, err, store.ErrInvalid)
		}
	}
}

func TestPositionHasItsPartitionAndSequence(t *testing.T) {
	t.Parallel()
	for _, partition := range []int{0, 1, 2048, store.PartitionsMax - 1} {
		for _, sequence := range []uint64{0, 1, 1<<52 - 1} {
			p := store.NewPosition(partition, sequence)
			if p.Partition() != partition || p.Sequence() != sequence {
				t.Errorf("position %d of partition %d: got %d of %d", sequence, partition, p.Sequence(), p.Partition())
			}
		}
	}
}

func TestPositionThatDoesNotFitPanics(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		partition int
		sequence  uint64
	}{{-1, 1}, {store.PartitionsMax, 1}, {0, 1 << 52}} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("position %d of partition %d does not panic", c.sequence, c.partition)
				}
			}()
			store.NewPosition(c.partition, c.sequence)
		}()
	}
}

func FuzzParsePosition(f *testing.F) {
	for _, seed := range []string{"0", "1", "4095:4503599627370495", "1:0", "01", "", "1:2:3"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := store.ParsePosition(s)
		if err != nil {
			if !errors.Is(err, store.ErrInvalid) || p != 0 {
				t.Errorf("parse %q: got %d and error %v, want 0 and one matching %v", s, p, err, store.ErrInvalid)
			}
			return
		}
		if got := p.String(); got != s {
			t.Errorf("text of what %q is parsed to: got %q", s, got)
		}
	})
}

func TestIDIsReadBackFromItsText(t *testing.T) {
	t.Parallel()
	id := store.ID{0x01, 0x93, 0x45, 0x67, 0x89, 0xab, 0x7c, 0xde, 0x8f, 1, 2, 3, 4, 5, 6, 7}
	const text = "01934567-89ab-7cde-8f01-020304050607"
	if got := id.String(); got != text {
		t.Errorf("text: got %q, want %q", got, text)
	}
	if got, err := store.ParseID(text); got != id || err != nil {
		t.Errorf("parse %q: got %v and error %v, want %v", text, got, err, id)
	}
	for _, bad := range []string{"", "1", text[1:], text + "0", strings.Replace(text, "0", "g", 1)} {
		if _, err := store.ParseID(bad); !errors.Is(err, store.ErrInvalid) {
			t.Errorf("parse %q: got error %v, want %v", bad, err, store.ErrInvalid)
		}
	}
	if !(store.ID{}).IsZero() || id.IsZero() {
		t.Errorf("zero: got %t for the zero id and %t for %v", store.ID{}.IsZero(), id.IsZero(), id)
	}
}

func TestKeyIsValidOrNot(t *testing.T) {
	t.Parallel()
	for _, k := range []store.Key{
		{Kind: "k", ID: "i"},
		{Kind: "книга", ID: "\x01"},
		{Kind: "k/l", ID: "a/b"},
		{Kind: "k", ID: "😀\U0010ffff"},
		{Kind: strings.Repeat("k", store.KindBytesMax), ID: strings.Repeat("i", store.IDBytesMax)},
	} {
		if err := k.Validate(); err != nil {
			t.Errorf("validate %q: %v", k, err)
		}
	}
	for _, k := range []store.Key{
		{},
		{Kind: "k"},
		{ID: "i"},
		{Kind: "k", ID: "a\x00"},
		{Kind: "\x00", ID: "i"},
		{Kind: "k", ID: "\xff"},
		{Kind: "\xc3", ID: "i"},
		{Kind: strings.Repeat("k", store.KindBytesMax+1), ID: "i"},
		{Kind: "k", ID: strings.Repeat("i", store.IDBytesMax+1)},
	} {
		if err := k.Validate(); !errors.Is(err, store.ErrInvalid) {
			t.Errorf("validate %q: got error %v, want %v", k, err, store.ErrInvalid)
		}
	}
	if got := (store.Key{Kind: "book", ID: "a"}).String(); got != "book/a" {
		t.Errorf("text: got %q, want %q", got, "book/a")
	}
}

// An entity must never change its partition, so these numbers must never change.
func TestPartitionOfAnEntityNeverChanges(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		key        store.Key
		partitions int
		want       int
	}{
		{store.Key{Kind: "book", ID: "978-0"}, 1, 0},
		{store.Key{Kind: "book", ID: "978-0"}, 16, 11},
		{store.Key{Kind: "book", ID: "978-0"}, 4096, 363},
		{store.Key{Kind: "книга", ID: "ü"}, 7, 0},
	} {
		if got := store.PartitionOf(c.key, c.partitions); got != c.want {
			t.Errorf("partition of %v among %d: got %d, want %d", c.key, c.partitions, got, c.want)
		}
	}
}

func TestPartitionsAreFilledEvenly(t *testing.T) {
	t.Parallel()
	const partitions, each = 16, 1000
	counts := make([]int, partitions)
	for i := range partitions * each {
		counts[store.PartitionOf(store.Key{Kind: "book", ID: fmt.Sprint(i)}, partitions)]++
	}
	for p, n := range counts {
		if n < each*3/4 || n > each*5/4 {
			t.Errorf("partition %d: got %d entities, want about %d", p, n, each)
		}
	}
}
