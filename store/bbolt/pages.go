package bbolt

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"

	bolt "go.etcd.io/bbolt"

	"github.com/perdure/perdure/store"
)

// A readView is the file as one read transaction sees it, for readers of the whole file. It reads
// and checks pages itself instead of using bbolt, for three reasons:
//
//   - bbolt panics at the first damaged page, but the rest of the file must be read.
//   - bbolt trusts the count of entries in a page. A page whose count has decreased would
//     lose its last entries. But the first entry says how far away its key is, and the keys
//     and values follow each other without a gap. A wrong count, place or length of any entry
//     therefore shows.
//   - bbolt reads mapped memory, which causes a fault if the file has shrunk.
//
// While a read view is open, bbolt does not reuse the pages that commits free, so the file
// grows with each commit. A commit that needs more address space than WithInitialMmapBytes has
// reserved waits until the view is closed.
type readView struct {
	log       *Log
	tx        *bolt.Tx
	pageBytes int
	pages     uint64 // number of pages of the file, used or free
	root      uint64
}

// readView opens a read view. The caller must close it.
func (l *Log) readView(ctx context.Context) (*readView, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	// While this goroutine holds writing, every commit that it can see is durable.
	l.writing.Lock()
	defer l.writing.Unlock()
	return l.readViewLocked()
}

func (l *Log) readViewLocked() (*readView, error) {
	if err := l.usable(); err != nil {
		return nil, err
	}
	m := &readView{log: l}
	err := l.guard(func() (err error) {
		if m.tx, err = l.begin(false); err != nil {
			return err
		}
		m.pageBytes = l.db.Info().PageSize
		m.pages = uint64(m.tx.Size()) / uint64(m.pageBytes)
		m.root = uint64(m.tx.Cursor().Bucket().Root())
		return nil
	})
	if err != nil {
		return nil, err
	}
	return m, nil
}

func (m *readView) Close() error { return m.log.guard(m.tx.Rollback) }

// The content of a bbolt page, in the byte order of the machine: a header of id, flags, count
// and overflow; an element for each entry; keys and values. The value of a bucket is its root
// page and a counter. A small bucket has its page in the value, after these.
const (
	pageBranch      = 0x01
	pageLeaf        = 0x02
	pageFree        = 0x10
	elementBytes    = 16
	elementIsBucket = 1
	bucketHead      = 16
	depthMax        = 32 // bound for the depth of a tree; each page has at least two entries
)

var order = binary.NativeEndian

// A node is a page with its content.
type node struct {
	id       uint64 // 0 for a page within a value
	flags    uint16
	count    int
	overflow uint32
	data     []byte
}

func (m *readView) fault(id uint64, format string, args ...any) *store.CorruptError {
	return &store.CorruptError{What: "page", Where: fmt.Sprintf("%s, page %d", m.log.path, id), Reason: fmt.Sprintf(format, args...)}
}

// read reads a page into buf, or into a larger buffer, and returns the buffer.
func (m *readView) read(id uint64, buf []byte) (n node, _ []byte, err error) {
	if id < 2 || id >= m.pages {
		return n, buf, m.fault(id, "there is no such page, the file has %d", m.pages)
	}
	var head [pageHeaderBytes]byte
	if err := m.readAt(head[:], id); err != nil {
		return n, buf, err
	}
	n = nodeOf(head[:])
	switch {
	case n.id != id:
		return n, buf, m.fault(id, "it says that it is page %d", n.id)
	case uint64(n.overflow) >= m.pages-id:
		return n, buf, m.fault(id, "it says that it goes on for %d pages, and the file has %d", n.overflow, m.pages)
	}
	size := (int(n.overflow) + 1) * m.pageBytes
	if cap(buf) < size {
		buf = make([]byte, size)
	}
	buf = buf[:size]
	if err := m.readAt(buf, id); err != nil {
		return n, buf, err
	}
	n.data = buf
	return n, buf, nil
}

func (m *readView) readAt(b []byte, id uint64) error {
	_, err := m.log.file.ReadAt(b, int64(id)*int64(m.pageBytes))
	if errors.Is(err, io.EOF) {
		return m.fault(id, "the file ends before it")
	}
	return err
}

// nodeOf decodes the header of a page.
func nodeOf(b []byte) node {
	return node{
		id: order.Uint64(b), flags: order.Uint16(b[8:]), count: int(order.Uint16(b[10:])), overflow: order.Uint32(b[12:]),
		data: b,
	}
}

// check checks the elements of a page. It returns an error about the first one that is wrong.
func (n *node) check() error {
	if n.flags != pageBranch && n.flags != pageLeaf {
		return fmt.Errorf("it is neither a branch nor a leaf: flags %x", n.flags)
	}
	at := pageHeaderBytes + n.count*elementBytes
	for i := range n.count {
		e, ok := n.element(i)
		if !ok {
			return fmt.Errorf("entry %d is outside of it", i)
		}
		if e.at != at {
			return fmt.Errorf("entry %d of %d is at byte %d, not %d", i, n.count, e.at, at)
		}
		at += len(e.key) + len(e.value)
	}
	return nil
}

// An element is an entry of a page.
type element struct {
	at    int
	flags uint32
	page  uint64 // page below the entry, for a branch page
	key   []byte
	value []byte
}

// element returns entry i. It returns false if the entry is not within the page.
func (n *node) element(i int) (e element, ok bool) {
	from := pageHeaderBytes + i*elementBytes
	if from+elementBytes > len(n.data) {
		return e, false
	}
	b := n.data[from:]
	var at, keyBytes, valueBytes uint64
	if n.flags == pageBranch {
		at, keyBytes = uint64(order.Uint32(b)), uint64(order.Uint32(b[4:]))
		e.page = order.Uint64(b[8:])
	} else {
		e.flags = order.Uint32(b)
		at, keyBytes, valueBytes = uint64(order.Uint32(b[4:])), uint64(order.Uint32(b[8:])), uint64(order.Uint32(b[12:]))
	}
	at += uint64(from)
	if at+keyBytes+valueBytes > uint64(len(n.data)) || keyBytes == 0 {
		return e, false
	}
	e.at = int(at)
	e.key = n.data[at : at+keyBytes]
	e.value = n.data[at+keyBytes : at+keyBytes+valueBytes]
	return e, true
}

// A bucketRoot is the location of a bucket.
type bucketRoot struct {
	root   uint64 // root page, or 0 if the page is within the value
	inline []byte
}

// A traversal visits the entries of a tree in the order of their keys.
type traversal struct {
	m     *readView
	ctx   context.Context
	seen  pageSet
	inner bool     // the entries of the tree are buckets
	bufs  [][]byte // page buffer of each level
	last  []byte   // key of the entry before
	some  bool     // there has been an entry
	// yield is called with each entry, or with the fault of a page. The traversal ends if it
	// returns false.
	yield func(k, v []byte, err error) bool
}

// entries calls yield with all entries of a bucket, and with errors. After an error that
// matches [store.ErrCorrupt] it continues. Any other error is the last call. Keys and values
// are valid until yield returns.
func (m *readView) entries(ctx context.Context, p bucketRoot, seen pageSet, yield func(k, v []byte, err error) bool) {
	w := &traversal{m: m, ctx: ctx, seen: seen, yield: yield}
	if p.root != 0 {
		w.page(p.root, 0, nil, nil)
		return
	}
	if err := ctx.Err(); err != nil {
		yield(nil, nil, err)
		return
	}
	n := nodeOf(p.inline)
	if n.flags != pageLeaf || n.overflow != 0 || n.id != 0 {
		w.yield(nil, nil, m.fault(m.root, "a page within a value is no leaf"))
		return
	}
	w.node(&n, 0, nil, nil)
}

// bucketRoots returns the locations of the buckets.
func (m *readView) bucketRoots(ctx context.Context, seen pageSet, fault func(error)) (places [bucketCount]bucketRoot, err error) {
	var found [bucketCount]bool
	w := &traversal{m: m, ctx: ctx, seen: seen, inner: true, yield: func(k, v []byte, failure error) bool {
		if failure != nil {
			if !errors.Is(failure, store.ErrCorrupt) {
				err = failure
				return false
			}
			fault(failure)
			return true
		}
		for b, name := range bucketNames {
			if string(k) == name {
				found[b] = true
				places[b] = bucketRoot{root: order.Uint64(v), inline: bytes.Clone(v[bucketHead:])}
				return true
			}
		}
		fault(m.fault(m.root, "there is a bucket %q", k))
		return true
	}}
	w.page(m.root, 0, nil, nil)
	for b, ok := range found {
		if !ok && err == nil {
			if bucket(b) < bucketOldReceipt {
				fault(m.fault(m.root, "bucket %v is missing", bucket(b)))
			}
			places[b].inline = make([]byte, pageHeaderBytes)
			order.PutUint16(places[b].inline[8:], pageLeaf)
		}
	}
	return places, err
}

// page visits a page and the pages below it. All keys must be at or above low and below high;
// nil means no bound. It returns false to end the traversal.
func (w *traversal) page(id uint64, depth int, low, high []byte) bool {
	if err := w.ctx.Err(); err != nil {
		w.yield(nil, nil, err)
		return false
	}
	if depth == depthMax {
		return w.yield(nil, nil, w.m.fault(id, "it is %d pages below the root", depth))
	}
	if depth == len(w.bufs) {
		w.bufs = append(w.bufs, nil)
	}
	n, buf, err := w.m.read(id, w.bufs[depth])
	w.bufs[depth] = buf
	if err != nil {
		return w.yield(nil, nil, err) && errors.Is(err, store.ErrCorrupt)
	}
	for p := id; p <= id+uint64(n.overflow); p++ {
		if !w.seen.add(p) {
			return w.yield(nil, nil, w.m.fault(p, "it is in use twice"))
		}
	}
	if n.count == 0 && depth > 0 {
		return w.yield(nil, nil, w.m.fault(id, "it is empty"))
	}
	return w.node(&n, depth, low, high)
}

// node visits the entries of a page. From a damaged page it visits the entries that are
// within the page.
func (w *traversal) node(n *node, depth int, low, high []byte) bool {
	if fault := n.check(); fault != nil && !w.yield(nil, nil, w.m.fault(n.id, "%v", fault)) {
		return false
	}
	if n.flags != pageBranch && n.flags != pageLeaf {
		return true
	}
	for i := range n.count {
		e, ok := n.element(i)
		if !ok {
			continue
		}
		if bytes.Compare(e.key, low) < 0 || (high != nil && bytes.Compare(e.key, high) >= 0) {
			if !w.yield(nil, nil, w.m.fault(n.id, "key %q is not between %q and %q", e.key, low, high)) {
				return false
			}
		}
		if n.flags == pageLeaf {
			if !w.leaf(n, &e) {
				return false
			}
			continue
		}
		below := high
		if next, ok := n.element(i + 1); ok && i+1 < n.count {
			below = next.key
		}
		if !w.page(e.page, depth+1, e.key, below) {
			return false
		}
	}
	return true
}

// leaf checks an entry and yields it.
func (w *traversal) leaf(n *node, e *element) bool {
	if w.some && bytes.Compare(e.key, w.last) <= 0 {
		if !w.yield(nil, nil, w.m.fault(n.id, "key %q comes after %q", e.key, w.last)) {
			return false
		}
	}
	w.last, w.some = append(w.last[:0], e.key...), true
	switch {
	case w.inner && (e.flags != elementIsBucket || len(e.value) < bucketHead || order.Uint64(e.value[8:]) != 0 ||
		order.Uint64(e.value) == 0 && len(e.value) < bucketHead+pageHeaderBytes):
		return w.yield(nil, nil, w.m.fault(n.id, "the entry of %q is none of a bucket", e.key))
	case !w.inner && e.flags != 0:
		return w.yield(nil, nil, w.m.fault(n.id, "the entry of %q has flags %x", e.key, e.flags))
	}
	return w.yield(e.key, e.value, nil)
}

// valueBytesMax is larger than any value. A greater length is damage.
const valueBytesMax = 2 * store.BatchBytesMax

// search returns the value under a key as a search of bbolt finds it, or nil. It copies the
// value to into. It bounds the length, because the length of a damaged value can be any
// number.
func (m *readView) search(b bucket, k, into []byte) (value []byte, err error) {
	err = m.log.guard(func() (err error) {
		var found []byte
		if t := b.open(m.tx); b == bucketLog {
			found = t.Get(k)
		} else {
			found, err = b.get(t, k)
		}
		if len(found) > valueBytesMax {
			return b.corrupt(k, fmt.Sprintf("value of %d bytes", len(found)))
		}
		if found != nil {
			value = append(into[:0], found...)
		}
		return err
	})
	return value, err
}

// A pageSet is a set of pages, with one bit for each page.
type pageSet []uint64

func (m *readView) newPageSet() pageSet { return make(pageSet, m.pages/64+1) }

// add adds a page and reports whether it is new.
func (s pageSet) add(id uint64) bool {
	word, bit := id/64, uint64(1)<<(id%64)
	fresh := s[word]&bit == 0
	s[word] |= bit
	return fresh
}

func (s pageSet) has(id uint64) bool { return s[id/64]&(1<<(id%64)) != 0 }

// freePages adds the free list, and the pages that it names, to seen, and reports faults.
// Each page of the file must be either in use or in the list, and not both.
func (m *readView) freePages(list uint64, seen pageSet, fault func(error)) error {
	if list == noFreeList {
		return nil
	}
	n, _, err := m.read(list, nil)
	if err == nil && n.flags != pageFree {
		err = m.fault(list, "it is no free list: flags %x", n.flags)
	}
	if err != nil {
		if !errors.Is(err, store.ErrCorrupt) {
			return err
		}
		fault(err)
		return nil
	}
	for p := list; p <= list+uint64(n.overflow); p++ {
		if !seen.add(p) {
			fault(m.fault(p, "the free list is in use twice"))
		}
	}
	ids, count := n.data[pageHeaderBytes:], uint64(n.count)
	if n.count == 0xffff { // too many for the header: the first id is the count
		count, ids = order.Uint64(ids), ids[8:]
	}
	if count > uint64(len(ids)/8) {
		fault(m.fault(list, "the free list says that it names %d pages", count))
		count = uint64(len(ids) / 8)
	}
	for i := range count {
		id := order.Uint64(ids[8*i:])
		if id < 2 || id >= m.pages {
			fault(m.fault(list, "the free list names page %d of %d", id, m.pages))
		} else if !seen.add(id) {
			fault(m.fault(id, "the free list names it, and it is in use"))
		}
	}
	for id := uint64(2); id < m.pages; id++ {
		if !seen.has(id) {
			fault(m.fault(id, "it is neither in use nor in the free list"))
		}
	}
	return nil
}

const noFreeList = 1<<64 - 1

// freeList returns the page of the free list, which is known only from the meta page. The
// caller should keep commits from writing both meta pages after the view was opened;
// otherwise freeList returns an error.
func (m *readView) freeList() (uint64, error) {
	for i := range 2 {
		var meta [metaBytes]byte
		if _, err := m.log.file.ReadAt(meta[:], int64(i*m.pageBytes)+pageHeaderBytes); err != nil {
			return 0, err
		}
		h := fnv.New64a()
		h.Write(meta[:metaSumAt])
		if order.Uint64(meta[metaSumAt:]) == h.Sum64() && order.Uint64(meta[metaTxAt:]) == uint64(m.tx.ID()) {
			return order.Uint64(meta[metaFreeAt:]), nil
		}
	}
	return 0, errors.New("neither meta page is of this transaction")
}

// Offsets of fields in a meta page, after the page header.
const (
	metaFreeAt = 32
	metaTxAt   = 48
)
