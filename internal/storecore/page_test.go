package storecore_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/perdure/perdure/internal/storecore"
	"github.com/perdure/perdure/store"
)

func TestPageKeepsItsOwnCopyOfEveryRow(t *testing.T) {
	t.Parallel()
	p := storecore.NewPage()
	defer p.Release()
	const rows = 200 // enough to make the buffer move
	k, v := make([]byte, 0, 16), make([]byte, 0, 64)
	key := func(i int) string { return fmt.Sprint("key ", i) }
	value := func(i int) string { return strings.Repeat(fmt.Sprint(i), i%7) } // some are empty
	for i := range rows {
		// The store reuses this memory after Add.
		k, v = append(k[:0], key(i)...), append(v[:0], value(i)...)
		p.Add(k, v)
	}
	clear(k[:cap(k)])
	clear(v[:cap(v)])
	if len(p.Rows) != rows {
		t.Fatalf("%d rows, want %d", len(p.Rows), rows)
	}
	for i, r := range p.Rows {
		if got := fmt.Sprintf("%s=%s", p.Key(r), p.Value(r)); got != key(i)+"="+value(i) {
			t.Errorf("row %d is %q, want %q", i, got, key(i)+"="+value(i))
		}
	}
	p.Reset()
	if len(p.Rows) != 0 || p.Full() {
		t.Errorf("a page that was reset has %d rows and is full: %t", len(p.Rows), p.Full())
	}
	p.Add([]byte("k"), []byte("v"))
	if r := p.Rows[0]; string(p.Key(r)) != "k" || string(p.Value(r)) != "v" {
		t.Errorf("the first row after that is %q=%q", p.Key(r), p.Value(r))
	}
}

func TestPageIsFullAtOneOfItsBounds(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name       string
		key, value int // bytes per row
		want       int // number of rows
	}{
		{"many small rows", 8, 0, storecore.PageRowsMax},
		{"some large rows", 16, 1<<16 - 16, storecore.PageBytesMax >> 16},
		{"large keys", 1 << 10, 1 << 10, storecore.PageBytesMax >> 11},
		{"one that is larger than a page", 1, storecore.PageBytesMax, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p := storecore.NewPage()
			defer p.Release()
			k, v := make([]byte, c.key), make([]byte, c.value)
			for n := range c.want {
				if p.Full() {
					t.Fatalf("the page is full with %d rows, want %d", n, c.want)
				}
				p.Add(k, v)
			}
			if !p.Full() {
				t.Errorf("the page is not full with %d rows", c.want)
			}
		})
	}
}

func TestPageHoldsNothingOfAnotherReader(t *testing.T) {
	t.Parallel()
	for range 50 { // until the pool returns a used page
		p := storecore.NewPage()
		if len(p.Rows) != 0 || len(p.Sealed) != 0 || p.Full() || p.Event.Type != "" || p.State.Type != "" {
			t.Fatalf("a new page has %d rows, %d bytes of a state, event %q and state %q; want nothing",
				len(p.Rows), len(p.Sealed), p.Event.Type, p.State.Type)
		}
		for range storecore.PageRowsMax {
			p.Add([]byte("secret"), nil)
		}
		p.Sealed = append(p.Sealed, "secret"...)
		p.Event, p.State = store.Event{Type: "secret"}, store.State{Type: "secret"}
		p.Release()
	}
}

func TestPageThatHasGrownIsNotKept(t *testing.T) {
	t.Parallel()
	grown := make(map[*storecore.Page]bool) // the map also prevents reuse of the addresses
	for range 10 {
		p := storecore.NewPage()
		if grown[p] {
			t.Fatal("a page that has grown above its bound is handed to another reader")
		}
		if len(grown)%2 == 0 {
			p.Add(nil, make([]byte, storecore.KeptBytesMax+1))
		} else {
			p.Sealed = make([]byte, storecore.KeptBytesMax+1)
		}
		grown[p] = true
		p.Release()
	}
}
