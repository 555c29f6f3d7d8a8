package pebble

import (
	"encoding/binary"
	"fmt"

	"github.com/perdure/perdure/store"
)

// A blob holds events of one partition in the order of their positions, under
// the position of the last one: their number as be32, then each as be32(length),
// be32(the low half of its position) and the sealed event, so that a damaged one
// spoils no other. A commit writes one for each partition that it moves,
// and more if they become large, so that deleting an event rewrites little.
//
// Invariant: the positions in a blob are above the key of the blob before it.
// The last event of a blob may have been deleted; then the key stays as it is.
type blob struct {
	value []byte
	count uint32
	last  store.Position
}

const (
	// blobBytesMax is where a commit begins a new blob; one is longer if its
	// last event is.
	blobBytesMax   = 16 << 10
	blobHeadBytes  = 4
	blobFrameBytes = 8
)

func (b *blob) full() bool { return len(b.value) >= blobBytesMax }

func (b *blob) reset() { b.value, b.count, b.last = b.value[:0], 0, 0 }

// append adds an event and returns its sealed form, which is valid until the
// next one.
func (b *blob) append(e *store.Event) (sealed []byte) {
	if b.count == 0 {
		b.value = append(b.value[:0], make([]byte, blobHeadBytes)...)
	}
	from := len(b.value) + blobFrameBytes
	b.value = store.AppendEvent(append(b.value, make([]byte, blobFrameBytes)...), e)
	sealed = b.value[from:]
	binary.BigEndian.PutUint32(b.value[from-8:], uint32(len(sealed)))
	binary.BigEndian.PutUint32(b.value[from-4:], uint32(e.Position))
	b.count++
	b.last = e.Position
	return sealed
}

// add adds a sealed event.
func (b *blob) add(at store.Position, sealed []byte) {
	if b.count == 0 {
		b.value = append(b.value[:0], make([]byte, blobHeadBytes)...)
	}
	b.value = binary.BigEndian.AppendUint32(b.value, uint32(len(sealed)))
	b.value = binary.BigEndian.AppendUint32(b.value, uint32(at))
	b.value = append(b.value, sealed...)
	b.count++
}

// finish returns the value.
func (b *blob) finish() []byte {
	if b.count == 0 {
		b.value = append(b.value[:0], make([]byte, blobHeadBytes)...)
	}
	binary.BigEndian.PutUint32(b.value, b.count)
	return b.value
}

// events calls fn with position and sealed form of each event of the blob under
// a position, until it returns false, and says what is wrong.
func events(end store.Position, v []byte, fn func(at store.Position, sealed []byte) bool) (reason string) {
	if len(v) < blobHeadBytes {
		return fmt.Sprintf("blob of %d bytes", len(v))
	}
	count := binary.BigEndian.Uint32(v)
	for v = v[blobHeadBytes:]; count > 0; count-- {
		if len(v) < blobFrameBytes {
			return fmt.Sprintf("blob ends %d events early", count)
		}
		n, low := uint64(binary.BigEndian.Uint32(v)), binary.BigEndian.Uint32(v[4:])
		if v = v[blobFrameBytes:]; n > uint64(len(v)) {
			return fmt.Sprintf("event of %d bytes where %d are left", n, len(v))
		}
		if !fn(end-store.Position(uint32(end)-low), v[:n:n]) {
			return ""
		}
		v = v[n:]
	}
	if len(v) > 0 {
		return fmt.Sprintf("%d bytes behind the last event", len(v))
	}
	return ""
}
