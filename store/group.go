package store

import "fmt"

// CheckGroup returns the size of a group in bytes. It returns an error matching [ErrTooLarge] if
// the group has more batches or bytes than one [Log.Commit] may have. Every store calls it before
// it stores anything. A nil batch counts as empty.
func CheckGroup(group []*Batch) (bytes int, err error) {
	if len(group) > GroupBatchesMax {
		return 0, fmt.Errorf("%w: group of %d batches, at most %d are allowed", ErrTooLarge, len(group), GroupBatchesMax)
	}
	for _, b := range group {
		if b != nil {
			bytes += b.Bytes()
		}
	}
	if bytes > GroupBytesMax {
		return bytes, fmt.Errorf("%w: group of %d batches with %d bytes, at most %d are allowed; commit it in parts",
			ErrTooLarge, len(group), bytes, GroupBytesMax)
	}
	return bytes, nil
}

// recordFrame is the maximum size of a record in addition to its texts and payloads: numbers,
// times, ids, lengths and a checksum.
const recordFrame = 128

// Bytes returns the size of the batch's records in a store: payloads, metadata, tags and names,
// rounded up by some hundred bytes for each record. It costs a few additions for each record, and
// reads no payload. [GroupBytesMax] bounds it.
func (b *Batch) Bytes() int {
	key := len(b.Key.Kind) + len(b.Key.ID)
	n := b.bytes
	if !b.prepared {
		for i := range b.Events {
			n += b.Events[i].sizeHead(b.Key) + recordFrame
		}
	}
	if b.records() == len(b.Events) {
		return n // most batches end here
	}
	for _, s := range []*State{b.Save, b.Snapshot} {
		if s != nil {
			n += recordFrame + key + len(s.Type) + len(s.Payload) + len(s.Fold) + sizeMetadata(&s.Metadata)
		}
	}
	for i := range b.Settle {
		n += recordFrame
		if m := b.Settle[i].Message; m != nil {
			n += m.bytes()
		}
	}
	for i := range b.Enqueue {
		n += recordFrame + key + b.Enqueue[i].bytes()
	}
	for i := range b.Receipts {
		r := &b.Receipts[i]
		n += recordFrame + key + len(r.Name) + len(r.Fingerprint) + len(r.ReplyType) + len(r.Reply) + r.Refusal.bytes()
	}
	for _, names := range [][]string{b.Cancel, b.Forget} {
		for _, name := range names {
			n += recordFrame + key + len(name)
		}
	}
	for _, claims := range [][]Claim{b.Release, b.Claim} {
		for i := range claims {
			n += recordFrame + key + len(claims[i].Space) + len(claims[i].Value)
		}
	}
	for i := range b.Checkpoints {
		n += recordFrame + len(b.Checkpoints[i].Name)
	}
	return n
}

// bytes returns the size of the texts and payloads of the message.
func (m *Message) bytes() int {
	return len(m.Source.Kind) + len(m.Source.ID) + len(m.Target.Kind) + len(m.Target.ID) + len(m.ReplyTo.Kind) + len(m.ReplyTo.ID) +
		len(m.Timer) + len(m.Type) + len(m.Payload) + len(m.ReplyName) + len(m.LastError) + sizeMetadata(&m.Metadata)
}

// bytes returns the size of the refusal, which may be nil.
func (r *Refusal) bytes() int {
	if r == nil {
		return 0
	}
	n := len(r.Message)
	for i := range r.Details {
		n += recordFrame/4 + len(r.Details[i].Type) + len(r.Details[i].Payload)
	}
	return n
}
