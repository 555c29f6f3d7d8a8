package pebble

import (
	"encoding/binary"
	"fmt"

	"github.com/perdure/perdure/store"
)

// A blob holds events of one partition in the order of their positions. Its key is the
// position of its last event. Its value is the number of events as be32, and then for each
// event be32(length), be32(the low half of its position) and the sealed event, so that a
// damaged event does not affect the others. A commit writes one blob for each partition that
// it appends to, and more if they become large, so that deleting an event rewrites few bytes.
//
// Invariant: the positions in a blob are above the key of the blob before it. The last event
// of a blob may have been deleted; then the key does not change.
type blob struct {
	value []byte
	count uint32
	last  store.Position
}

const (
	// blobBytesMax is the size from which a commit begins a new blob. A blob is larger if its
	// last event is large.
	blobBytesMax   = 16 << 10
	blobHeadBytes  = 4
	blobFrameBytes = 8
)

func (b *blob) full() bool { return len(b.value) >= blobBytesMax }

func (b *blob) reset() { b.value, b.count, b.last = b.value[:0], 0, 0 }

// append adds an event and returns its sealed form, which is valid until the next call of
// append.
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

// add adds an event that is already sealed.
func (b *blob) add(at store.Position, sealed []byte) {
	if b.count == 0 {
		b.value = append(b.value[:0], make([]byte, blobHeadBytes)...)
	}
	b.value = binary.BigEndian.AppendUint32(b.value, uint32(len(sealed)))
	b.value = binary.BigEndian.AppendUint32(b.value, uint32(at))
	b.value = append(b.value, sealed...)
	b.count++
}

// finish returns the encoded value of the blob.
func (b *blob) finish() []byte {
	if b.count == 0 {
		b.value = append(b.value[:0], make([]byte, blobHeadBytes)...)
	}
	binary.BigEndian.PutUint32(b.value, b.count)
	return b.value
}

// events calls fn with the position and the sealed form of each event of a blob whose key is
// the position end. It stops when fn returns false. It returns an error if the
// blob is damaged.
func events(end store.Position, v []byte, fn func(at store.Position, sealed []byte) bool) error {
	if len(v) < blobHeadBytes {
		return fmt.Errorf("blob of %d bytes", len(v))
	}
	count := binary.BigEndian.Uint32(v)
	for v = v[blobHeadBytes:]; count > 0; count-- {
		if len(v) < blobFrameBytes {
			return fmt.Errorf("blob ends %d events early", count)
		}
		n, low := uint64(binary.BigEndian.Uint32(v)), binary.BigEndian.Uint32(v[4:])
		if v = v[blobFrameBytes:]; n > uint64(len(v)) {
			return fmt.Errorf("event of %d bytes where %d are left", n, len(v))
		}
		if !fn(end-store.Position(uint32(end)-low), v[:n:n]) {
			return nil
		}
		v = v[n:]
	}
	if len(v) > 0 {
		return fmt.Errorf("%d bytes behind the last event", len(v))
	}
	return nil
}
