package projectiontest

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/perdure/perdure/projection"
	"github.com/perdure/perdure/store"
)

// hardKeys are keys that a database may get wrong: because of their letter case, of characters
// with a meaning in patterns, or of their order.
var hardKeys = []string{
	"a", "A", "aa", "aB", "ab", "a b", "a%", "a%b", "a_", "a_b", "a*", "a/", "a/b", "a0", "a\x01", "a\x7f", "a'b", `a"b`, `a\b`, "a?", "a$1",
	"b", "B", "ä", "Ä", "áb", "a\u0301b", "é", "ß", "ss", "ﬁ", "日本", "\U0001F4DA", "\U0010FFFF", "\uFFFD", "\u00a0", " ", " a", "0", "10", "9", "-", "_", "%",
}

func noteCases[Tx any]() []testCase[Tx] {
	return []testCase[Tx]{
		{name: "a note is there until it is replaced or removed", run: func(x *fixture[Tx]) {
			for _, want := range []string{none, "1", "", "2", none, none, "3"} {
				x.update(func(tx Tx) error {
					if want == none {
						return x.target.SetNote(x.ctx, tx, "n", nil)
					}
					return x.target.SetNote(x.ctx, tx, "n", []byte(want))
				})
				x.view(func(tx Tx) error {
					got, err := x.note(tx, "n")
					if got != want {
						x.Errorf("note: got %q, want %q", got, want)
					}
					return err
				})
			}
		}},
		{name: "an empty note is there and is not nil", run: func(x *fixture[Tx]) {
			x.update(func(tx Tx) error { return x.target.SetNote(x.ctx, tx, "n", []byte{}) })
			x.view(func(tx Tx) error {
				got, err := x.target.Note(x.ctx, tx, "n")
				if got == nil || len(got) != 0 {
					x.Errorf("note: got %#v, want []byte{}", got)
				}
				all, err2 := x.list(tx, "")
				if len(all) != 1 || all[0] != "n=" {
					x.Errorf("notes: got %q, want one that is empty", all)
				}
				return errors.Join(err, err2)
			})
		}},
		{name: "notes are listed by prefix in byte order", run: func(x *fixture[Tx]) {
			for _, i := range rand.New(rand.NewPCG(1, 2)).Perm(len(hardKeys)) {
				x.update(func(tx Tx) error { return x.target.SetNote(x.ctx, tx, hardKeys[i], []byte(hardKeys[i])) })
			}
			sorted := slices.Sorted(slices.Values(hardKeys))
			x.view(func(tx Tx) error {
				for _, prefix := range append([]string{"", "a", "zz", "\U0010FFFF", "日", "a%", "A"}, hardKeys...) {
					var want []string
					for _, k := range sorted {
						if strings.HasPrefix(k, prefix) {
							want = append(want, k+"="+k)
						}
					}
					got, err := x.list(tx, prefix)
					if err != nil {
						return fmt.Errorf("notes %q: %w", prefix, err)
					}
					if !slices.Equal(got, want) {
						x.Errorf("notes %q\n got %q\nwant %q", prefix, got, want)
					}
				}
				return nil
			})
		}},
		{name: "notes may be as long as they may be, and of any bytes", run: func(x *fixture[Tx]) {
			random := rand.New(rand.NewPCG(3, 4))
			long := make([]byte, projection.NoteBytesMax)
			for i := range long {
				long[i] = byte(random.Uint32())
			}
			all := make([]byte, 256)
			for i := range all {
				all[i] = byte(i)
			}
			var key strings.Builder // of many different characters, so that it cannot be compressed
			for key.Len() < projection.NoteKeyBytesMax {
				key.WriteByte(byte('!' + random.IntN('~'-'!')))
			}
			for k, v := range map[string][]byte{key.String(): long, "n": all, "zeros": make([]byte, 10)} {
				x.update(func(tx Tx) error { return x.target.SetNote(x.ctx, tx, k, v) })
				x.view(func(tx Tx) error {
					got, err := x.target.Note(x.ctx, tx, k)
					if !bytes.Equal(got, v) {
						x.Errorf("note of %d bytes under a key of %d: got %d bytes %q, want %q", len(v), len(k), len(got), short(string(got)), short(string(v)))
					}
					return err
				})
			}
		}},
		{name: "a note that breaks a bound is refused", run: func(x *fixture[Tx]) {
			for _, c := range []struct {
				what string
				note projection.Note
				want error
			}{
				{"a key that is too long", projection.Note{Key: strings.Repeat("k", projection.NoteKeyBytesMax+1)}, store.ErrTooLarge},
				{"a value that is too long", projection.Note{Key: "k", Value: make([]byte, projection.NoteBytesMax+1)}, store.ErrTooLarge},
				{"no key", projection.Note{}, store.ErrInvalid},
				{"a key with a zero byte", projection.Note{Key: "k\x00"}, store.ErrInvalid},
				{"a key that is not UTF-8", projection.Note{Key: "k\xff"}, store.ErrInvalid},
			} {
				err := x.target.Update(x.ctx, func(tx Tx) error {
					return x.target.SetNote(x.ctx, tx, c.note.Key, append([]byte{'v'}, c.note.Value...)[:len(c.note.Value)])
				})
				x.wantError("set a note with "+c.what, err, c.want)
			}
			x.view(func(tx Tx) error {
				all, err := x.list(tx, "")
				if len(all) != 0 {
					x.Errorf("notes: got %d, want none", len(all))
				}
				return err
			})
		}},
		{name: "a note belongs to the caller", run: func(x *fixture[Tx]) {
			value := []byte("before")
			var kept []byte
			x.update(func(tx Tx) error {
				if err := x.target.SetNote(x.ctx, tx, "n", value); err != nil {
					return err
				}
				copy(value, "spoilt")
				got, err := x.target.Note(x.ctx, tx, "n")
				kept = got
				return err
			})
			if string(kept) != "before" {
				x.Errorf("note after its value was changed by who has set it: got %q, want %q", kept, "before")
			}
			copy(value, "before")
			x.update(func(tx Tx) error {
				got, err := x.target.Note(x.ctx, tx, "n")
				if err != nil {
					return err
				}
				kept = got
				copy(got, "spoilt")
				return x.target.SetNote(x.ctx, tx, "other", []byte("1"))
			})
			x.view(func(tx Tx) error {
				got, err := x.note(tx, "n")
				if got != "before" {
					x.Errorf("note after the caller has changed the value that it has read: got %q, want %q", got, "before")
				}
				return err
			})
			for i := range 20 {
				x.update(func(tx Tx) error {
					return x.target.SetNote(x.ctx, tx, "n", fmt.Appendf(nil, "after %d", i))
				})
			}
			if string(kept) != "spoilt" {
				x.Errorf("note that was read before later changes: got %q, want %q", kept, "spoilt")
			}
		}},
		{name: "a thousand notes are listed", run: func(x *fixture[Tx]) {
			const notes = 1000
			key := func(i int) string { return fmt.Sprintf("n/%04d", i) }
			x.update(func(tx Tx) error {
				for i := range notes {
					if err := x.target.SetNote(x.ctx, tx, key(i), []byte(key(i))); err != nil {
						return err
					}
				}
				return errors.Join(x.target.SetNote(x.ctx, tx, "m", []byte("m")), x.target.SetNote(x.ctx, tx, "o", []byte("o")))
			})
			x.view(func(tx Tx) error {
				n := 0
				for note, err := range x.target.Notes(x.ctx, tx, "n/") {
					if err != nil {
						return err
					}
					if note.Key != key(n) || string(note.Value) != note.Key {
						x.Fatalf("note %d: got %q with value %q, want %q in both", n, note.Key, note.Value, key(n))
					}
					n++
				}
				if n != notes {
					x.Errorf("got %d notes, want %d", n, notes)
				}
				return nil
			})
		}},
		{name: "a listing may be left, and the transaction goes on", run: func(x *fixture[Tx]) {
			x.update(func(tx Tx) error {
				for i := range 10 {
					if err := x.target.SetNote(x.ctx, tx, fmt.Sprint(i), []byte("v")); err != nil {
						return err
					}
				}
				for _, err := range x.target.Notes(x.ctx, tx, "") {
					if err != nil {
						return err
					}
					break
				}
				return x.write(tx, "a", "1")
			})
			x.want("a", "1")
		}},
		{name: "notes that were listed may be changed and removed on the way", run: func(x *fixture[Tx]) {
			const notes = 600
			x.update(func(tx Tx) error {
				for i := range notes {
					if err := x.target.SetNote(x.ctx, tx, fmt.Sprintf("%03d", i), []byte("before")); err != nil {
						return err
					}
				}
				return nil
			})
			x.update(func(tx Tx) error {
				n := 0
				for note, err := range x.target.Notes(x.ctx, tx, "") {
					if err != nil {
						return err
					}
					if want := fmt.Sprintf("%03d", n); note.Key != want || string(note.Value) != "before" {
						x.Fatalf("note %d: got %q = %q, want %q = before", n, note.Key, note.Value, want)
					}
					n++
					var value []byte
					if n%2 == 0 {
						value = []byte("after")
					}
					if err := x.target.SetNote(x.ctx, tx, note.Key, value); err != nil {
						return err
					}
				}
				if n != notes {
					x.Errorf("got %d notes, want %d", n, notes)
				}
				all, err := x.list(tx, "")
				if len(all) != notes/2 || all[0] != "001=after" {
					x.Errorf("afterwards: got %d notes %.3q, want %d that begin with 001=after", len(all), all, notes/2)
				}
				return err
			})
		}},
	}
}
