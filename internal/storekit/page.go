package storekit

import (
	"sync"

	"github.com/perdure/perdure/store"
)

// Bounds of what one read copies out at once: a page is full when it has
// reached one of them.
const (
	pageRowsMax  = 1000
	pageBytesMax = 1 << 20
	// keptBytesMax bounds the buffer of a page that is kept for the next reader;
	// a page is longer if its last record is.
	keptBytesMax = 2 * pageBytesMax
)

// A Page is what one read has copied out of the store, and what it is decoded
// into, so that no consumer's code runs while the store is held. Pages are used again.
type Page struct {
	Rows []Row
	// Sealed holds a state, beside the rows.
	Sealed  []byte
	Decoder store.Decoder
	Event   store.Event
	State   store.State

	buf []byte
}

// A Row is a key and a value in the buffer of a page.
type Row struct{ from, value, end int }

var pages = sync.Pool{New: func() any { return new(Page) }}

// NewPage returns an empty page. The caller releases it.
func NewPage() *Page { return pages.Get().(*Page) }

// Release gives the page to the next reader.
func (p *Page) Release() {
	p.Reset() // a reader finds nothing of another's
	p.Sealed, p.Event, p.State = p.Sealed[:0], store.Event{}, store.State{}
	if cap(p.buf) <= keptBytesMax && cap(p.Sealed) <= keptBytesMax {
		pages.Put(p)
	}
}

// Reset empties the page.
func (p *Page) Reset() { p.buf, p.Rows = p.buf[:0], p.Rows[:0] }

// Full reports whether the page has reached one of its bounds.
func (p *Page) Full() bool { return len(p.Rows) >= pageRowsMax || len(p.buf) >= pageBytesMax }

// Add copies a key and a value to the page.
func (p *Page) Add(k, v []byte) {
	from := len(p.buf)
	p.buf = append(p.buf, k...)
	value := len(p.buf)
	p.buf = append(p.buf, v...)
	p.Rows = append(p.Rows, Row{from, value, len(p.buf)})
}

// Key returns the key of a row.
func (p *Page) Key(r Row) []byte { return p.buf[r.from:r.value] }

// Value returns the value of a row.
func (p *Page) Value(r Row) []byte { return p.buf[r.value:r.end] }
