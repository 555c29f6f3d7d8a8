package memory

import (
	"encoding/binary"
	"slices"

	"github.com/perdure/perdure/store"
)

const (
	// Chunks grow from chunkBytesMin to chunkBytesMax, so that a small log is small. An
	// event larger than chunkBytesMax has a chunk of its own.
	chunkBytesMin = 8 << 10
	chunkBytesMax = 1 << 20
	// pageRefs is the number of events in a page of a partition.
	pageRefs = 1024
	// tailBytes is the size of the fields behind the position in a stored event: the tag
	// and the time.
	tailBytes = 1 + 8
)

// An arena holds stored events, many to a chunk, so that an append seldom allocates and the
// garbage collector has little to scan. A chunk is dropped when the last of its events has
// been deleted.
type arena struct {
	chunks [][]byte // nil where all events have been deleted
	live   []int    // number of events in each chunk
	used   int      // bytes used of the last chunk
}

// A ref is the place of a stored event. The zero ref stands for a deleted event.
type ref struct {
	chunk, offset, length uint32
}

// event stores e and returns its place.
func (a *arena) event(e *store.Event) ref {
	last := len(a.chunks) - 1
	if n := store.SizeEvent(e); last < 0 || len(a.chunks[last])-a.used < n {
		size := min(chunkBytesMin<<min(last+1, 7), chunkBytesMax)
		last = a.begin(make([]byte, max(size, n)))
	}
	chunk := a.chunks[last]
	end := len(store.AppendEvent(chunk[:a.used], e))
	at := ref{chunk: uint32(last), offset: uint32(a.used), length: uint32(end - a.used)}
	a.live[last]++
	a.used = end
	return at
}

// whole stores an event in its stored form, in a chunk of its own. That chunk is full, so
// the next event begins another one.
func (a *arena) whole(sealed []byte) ref {
	last := a.begin(sealed)
	a.live[last] = 1
	a.used = len(sealed)
	return ref{chunk: uint32(last), length: uint32(len(sealed))}
}

// begin appends chunk as the last one and returns its number.
func (a *arena) begin(chunk []byte) int {
	if last := len(a.chunks) - 1; last >= 0 && a.live[last] == 0 {
		a.drop(last)
	}
	a.chunks = append(a.chunks, chunk)
	a.live = append(a.live, 0)
	a.used = 0
	return len(a.chunks) - 1
}

func (a *arena) drop(i int) {
	a.chunks = slices.Clone(a.chunks) // readers hold the old list
	a.chunks[i] = nil
}

// bytes returns a stored event. Chunks is a.chunks or an older copy of it.
func (at ref) bytes(chunks [][]byte) []byte {
	return chunks[at.chunk][at.offset : at.offset+at.length : at.offset+at.length]
}

// position returns the position of a stored event. It verifies the checksum, but decodes
// only the position, which has a fixed place near the end.
func (a *arena) position(at ref) (store.Position, error) {
	b, err := store.Unseal(at.bytes(a.chunks))
	if err != nil {
		return 0, &store.CorruptError{What: "event", Reason: err.Error()}
	}
	return store.Position(binary.LittleEndian.Uint64(b[len(b)-tailBytes-8:])), nil
}

// release removes one event.
func (a *arena) release(at ref) {
	i := int(at.chunk)
	a.live[i]--
	if a.live[i] == 0 && i < len(a.chunks)-1 {
		a.drop(i)
	}
}

// A partition lists its events in order: the event with sequence n is at index n-1. Pages
// do not move, so that a long log grows without being copied.
type partition struct {
	pages []*page
	head  uint64 // sequence of the last event
}

type page [pageRefs]ref

func (p *partition) append(at ref) {
	i := p.head % pageRefs
	if i == 0 {
		p.pages = append(p.pages, new(page))
	}
	p.pages[len(p.pages)-1][i] = at
	p.head++
}

// replace changes the refs of the given sequences, in new copies of their pages, because
// readers hold the old ones.
func (p *partition) replace(refs map[uint64]ref) {
	p.pages = slices.Clone(p.pages)
	fresh := make(map[uint64]bool)
	for seq, at := range refs {
		n, i := (seq-1)/pageRefs, (seq-1)%pageRefs
		if !fresh[n] {
			c := *p.pages[n]
			p.pages[n] = &c
			fresh[n] = true
		}
		p.pages[n][i] = at
	}
}
