package postgres

import (
	"encoding/binary"
	"iter"
	"slices"

	"github.com/perdure/perdure/store"
)

// The statements that add rows of events: a COPY in its binary format, and an INSERT from
// arrays.
const (
	sqlCopyEvents   = `COPY S.events (position, version, kind, id, type, tags, record) FROM STDIN WITH (FORMAT binary) WHERE ` + sqlIfHeld
	sqlCopyMessages = `COPY S.messages (sequence, due, parked, kind, id, timer, record) FROM STDIN WITH (FORMAT binary) WHERE ` + sqlIfHeld
	sqlCopyReceipts = `COPY S.receipts (kind, id, name, record) FROM STDIN WITH (FORMAT binary) WHERE ` + sqlIfHeld

	sqlInsertEvents = `INSERT INTO S.events (position, version, kind, id, type, tags, record)
		SELECT e.position, e.version, e.kind, e.id, e.type, e.tags::text[], e.record
		FROM unnest($1::bigint[], $2::bigint[], $3::text[], $4::text[], $5::text[], $6::text[], $7::bytea[])
			AS e (position, version, kind, id, type, tags, record) WHERE ` + sqlIfHeld
)

const (
	copyHeader  = "PGCOPY\n\xff\r\n\x00" + "\x00\x00\x00\x00" + "\x00\x00\x00\x00" // signature, flags, extension
	copyTrailer = "\xff\xff"
	copyColumns = 7
	copyNull    = "\xff\xff\xff\xff"
	// copyRoom bounds the bytes of a row without its record and its texts.
	copyRoom = 96
	textOID  = 25
)

// rowsRoom returns an upper bound of the bytes that the rows of events take.
func rowsRoom(events []*store.Event) int {
	n := len(copyHeader) + len(copyTrailer)
	for _, e := range events {
		n += copyRoom + len(e.Key.Kind) + len(e.Key.ID) + len(e.Type) + store.SizeEvent(e)
		for _, t := range e.Tags {
			n += 4 + len(t)
		}
	}
	return n
}

// appendRows appends events in the binary format of COPY. The events belong to valid batches,
// so each record is shorter than a message may be.
func appendRows(w []byte, events []*store.Event) []byte {
	w = append(slices.Grow(w, rowsRoom(events)), copyHeader...)
	for _, e := range events {
		w = appendRow(w, e)
	}
	return append(w, copyTrailer...)
}

func appendRow(w []byte, e *store.Event) []byte {
	w = binary.BigEndian.AppendUint16(w, copyColumns)
	w = appendNumber(w, uint64(e.Position))
	w = appendNumber(w, uint64(e.Version))
	w = appendField(w, e.Key.Kind)
	w = appendField(w, e.Key.ID)
	w = appendField(w, e.Type)
	w = appendTags(w, e.Tags)
	from := len(w)
	w = store.AppendEvent(binary.BigEndian.AppendUint32(w, 0), e)
	if !putLength(w, from, 4) {
		panic("postgres: the record of an event is longer than a message may be") // a valid batch is far smaller
	}
	return w
}

// partBytesMax is the size at which a part of a message ends. The server reports progress after
// each part, see [Log.inspect]. A part is larger if its last row is large.
const partBytesMax = 256 << 10

// appendParts appends events as the messages that a COPY in binary format reads.
func appendParts(w []byte, events []*store.Event) ([]byte, bool) {
	begin := func(w []byte) ([]byte, int) { return append(w, 'd', 0, 0, 0, 0), len(w) + 1 }
	room := rowsRoom(events)
	w, from := begin(slices.Grow(w, room))
	if room <= partBytesMax {
		w = appendRows(w, events)
		return w, putLength(w, from, 0)
	}
	w = append(w, copyHeader...)
	for _, e := range events {
		if len(w)-from > partBytesMax {
			if !putLength(w, from, 0) {
				return w, false
			}
			w, from = begin(w)
		}
		w = appendRow(w, e)
	}
	w = append(w, copyTrailer...)
	return w, putLength(w, from, 0)
}

// parts splits events into parts, for one statement each.
func parts(events []*store.Event) iter.Seq[[]*store.Event] {
	return func(yield func([]*store.Event) bool) {
		for len(events) > 0 {
			n, bytes := 0, 0
			for n < len(events) && (n == 0 || bytes < partBytesMax) {
				bytes += store.SizeEvent(events[n])
				n++
			}
			if !yield(events[:n]) {
				return
			}
			events = events[n:]
		}
	}
}

func appendNumber(w []byte, n uint64) []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint32(w, 8), n)
}

// appendField appends a text of up to some thousand bytes. [store.Batch.Validate] bounds the
// texts of a batch.
func appendField(w []byte, text string) []byte {
	return append(binary.BigEndian.AppendUint32(w, uint32(len(text))), text...)
}

// appendTags appends a text[], or NULL if there are no tags.
func appendTags(w []byte, tags []string) []byte {
	if len(tags) == 0 {
		return append(w, copyNull...)
	}
	from := len(w)
	// The fields are: total length, dimensions, null flag, type of the elements, and the
	// size and lower bound of the only dimension.
	for _, n := range []uint32{0, 1, 0, textOID, uint32(len(tags)), 1} {
		w = binary.BigEndian.AppendUint32(w, n)
	}
	for _, t := range tags {
		w = appendField(w, t)
	}
	binary.BigEndian.PutUint32(w[from:], uint32(len(w)-from-4))
	return w
}

// unnested returns events as the array arguments of sqlInsertEvents.
func unnested(events []*store.Event) []any {
	n := len(events)
	positions, versions := make([]int64, n), make([]int64, n)
	texts := make([]string, 3*n)
	kinds, ids, types := texts[:n:n], texts[n:2*n:2*n], texts[2*n:]
	records := make([][]byte, n)
	var tags []*string // nil if no event has any
	room := 0
	for _, e := range events {
		room += store.SizeEvent(e)
	}
	buf := make([]byte, 0, room)
	for i, e := range events {
		positions[i], versions[i] = int64(e.Position), int64(e.Version)
		kinds[i], ids[i], types[i] = e.Key.Kind, e.Key.ID, e.Type
		if len(e.Tags) > 0 {
			if tags == nil {
				tags = make([]*string, n)
			}
			literal := string(appendArray(nil, e.Tags, appendElement))
			tags[i] = &literal
		}
		from := len(buf)
		buf = store.AppendEvent(buf, e)
		records[i] = buf[from:len(buf):len(buf)]
	}
	return []any{positions, versions, kinds, ids, types, tags, records}
}

// appendColumns appends rows as the messages that a COPY in binary format reads. Each element
// of columns holds one column of all rows.
func appendColumns(w []byte, columns []any) ([]byte, bool) {
	from := len(w) + 1
	w = append(append(w, 'd', 0, 0, 0, 0), copyHeader...)
	for i := range lengthOf(columns[0]) {
		if len(w)-from > partBytesMax {
			if !putLength(w, from, 0) {
				return w, false
			}
			from = len(w) + 1
			w = append(w, 'd', 0, 0, 0, 0)
		}
		w = binary.BigEndian.AppendUint16(w, uint16(len(columns)))
		for _, c := range columns {
			switch c := c.(type) {
			case []int64:
				w = appendNumber(w, uint64(c[i]))
			case []bool:
				w = append(binary.BigEndian.AppendUint32(w, 1), 0)
				if c[i] {
					w[len(w)-1] = 1
				}
			case []string:
				w = appendField(w, c[i])
			case []*string:
				if c[i] == nil {
					w = append(w, copyNull...)
				} else {
					w = appendField(w, *c[i])
				}
			case [][]byte:
				start := len(w)
				w = append(binary.BigEndian.AppendUint32(w, 0), c[i]...)
				if !putLength(w, start, 4) {
					return w, false
				}
			default:
				return w, false
			}
		}
	}
	w = append(w, copyTrailer...)
	return w, putLength(w, from, 0)
}

// lengthOf returns the number of rows in a column.
func lengthOf(column any) int {
	switch c := column.(type) {
	case []int64:
		return len(c)
	case []string:
		return len(c)
	}
	return 0
}
