package admin

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"strings"

	"github.com/perdure/perdure/store"
)

// A Digest is a fingerprint of the content of a log. It is equal for two logs with the same
// records, heads and last sequence, even in different stores, and differs if one bit of them
// differs. The identity of a log ([store.LogInfo]) is not part of it.
type Digest struct {
	// Records are the digests of the records of each kind, indexed by [store.RecordKind].
	Records [recordKinds]RecordDigest
	// Total is the SHA-256 of the whole content.
	Total [sha256.Size]byte
}

// A RecordDigest is a fingerprint of the records of one kind.
type RecordDigest struct {
	// Count is the number of records, and Bytes is the size of their stored forms.
	Count, Bytes int64
	// Sum is the SHA-256 of the stored forms in their order, each preceded by its length.
	Sum [sha256.Size]byte
}

// Of returns the digest of the records of one kind.
func (d *Digest) Of(s store.RecordKind) RecordDigest { return d.Records[s] }

// String returns the total in hexadecimal digits.
func (d *Digest) String() string { return hex.EncodeToString(d.Total[:]) }

// Difference names the kinds of records in which two digests differ. It is empty if they are
// equal.
func (d *Digest) Difference(other *Digest) string {
	var parts []string
	for s, a := range d.Records {
		b := other.Records[s]
		switch {
		case a.Count != b.Count:
			parts = append(parts, fmt.Sprintf("%d %vs and %d", a.Count, store.RecordKind(s), b.Count))
		case a.Sum != b.Sum:
			parts = append(parts, fmt.Sprintf("%vs differ", store.RecordKind(s)))
		}
	}
	if len(parts) == 0 && d.Total != other.Total {
		return "heads or the last sequence differ"
	}
	return strings.Join(parts, ", ")
}

// NewDigest reads a log as it is now and returns its digest. If the store cannot export its logs,
// the error matches [errors.ErrUnsupported]. At the first damaged record NewDigest stops with an
// error matching [store.ErrCorrupt]. progress may be nil.
func NewDigest(ctx context.Context, log store.Log, progress func(Progress)) (d *Digest, failure error) {
	x, err := log.Export(ctx)
	if err != nil {
		return nil, fmt.Errorf("digest: %w", err)
	}
	defer func() { failure = errors.Join(failure, x.Close()) }()
	d, err = digestOf(ctx, x, progress, func(store.Record, int) error { return nil })
	if err != nil {
		return nil, fmt.Errorf("digest: %w", err)
	}
	return d, nil
}

// digestOf returns the digest of an export. It calls each for every record, with the size of its
// stored form.
func digestOf(ctx context.Context, x store.Export, progress func(Progress), each func(r store.Record, n int) error) (*Digest, error) {
	d := new(Digest)
	stats := x.Stats()
	for _, s := range store.RecordKinds() {
		m := newMeter(progress, fmt.Sprintf("read %vs", s), totalOf(s, &stats))
		sum := newRecordSum()
		for r, err := range x.Records(ctx, s) {
			if err != nil {
				return nil, fmt.Errorf("read %vs: %w", s, err)
			}
			if err := each(r, sum.add(r)); err != nil {
				return nil, err
			}
			m.add(1)
		}
		m.report()
		d.Records[s] = sum.digest()
	}
	d.seal(x.Origin())
	return d, nil
}

// seal computes Total.
func (d *Digest) seal(o store.Origin) {
	total := sha256.New()
	for _, s := range d.Records {
		writeNumber(total, uint64(s.Count))
		total.Write(s.Sum[:])
	}
	for _, h := range o.Heads {
		writeNumber(total, uint64(h))
	}
	writeNumber(total, o.Sequence)
	total.Sum(d.Total[:0])
}

// A recordSum is a running digest of records.
type recordSum struct {
	d    RecordDigest
	hash hash.Hash
	buf  []byte
}

func newRecordSum() *recordSum { return &recordSum{hash: sha256.New()} }

// add adds a record and returns the size of its stored form.
func (s *recordSum) add(r store.Record) int {
	s.buf = store.AppendRecord(s.buf[:0], r)
	writeNumber(s.hash, uint64(len(s.buf)))
	s.hash.Write(s.buf)
	s.d.Count++
	s.d.Bytes += int64(len(s.buf))
	return len(s.buf)
}

func (s *recordSum) digest() RecordDigest {
	s.hash.Sum(s.d.Sum[:0])
	return s.d
}

func writeNumber(h hash.Hash, n uint64) {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], n)
	h.Write(b[:])
}

// equal reports whether two digests are the same.
func (d *Digest) equal(other *Digest) bool { return bytes.Equal(d.Total[:], other.Total[:]) }
