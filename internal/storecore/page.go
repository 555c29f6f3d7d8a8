package storecore

import (
	"sync"

	"github.com/perdure/perdure/store"
)

// Bounds of the rows that one read copies out at once. A page is full when it has reached
// one of them.
const (
	pageRowsMax  = 1000
	pageBytesMax = 1 << 20
	// keptBytesMax bounds the buffer of a page that is pooled. A page with a large last
	// record may be longer.
	keptBytesMax = 2 * pageBytesMax
)

// A Page holds the rows that one read has copied out of the store, and the values that they
// are decoded into, so that no consumer's code runs while the store is locked. Pages are
// pooled.
type Page struct {
	Rows []Row
	// Sealed holds a state, in addition to the rows.
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

// Release returns the page to the pool.
func (p *Page) Release() {
	p.Reset() // the next reader must not see old rows
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
