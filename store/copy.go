package store

import (
	"context"
	"errors"
	"fmt"
	"time"
)

const (
	// copyRecordsMax and copyBytesMax bound what one [Import.Add] of a copy adds.
	copyRecordsMax = 1000
	copyBytesMax   = 4 << 20
)

// A CopyReport says what a copy has copied.
type CopyReport struct {
	// Digest is that of both logs.
	Digest *Digest
	// Records and Bytes are how many there were, and how long their stored forms are.
	Records, Bytes int64
	// Duration is how long it took, the check at the end included.
	Duration time.Duration
}

// Copy fills a new, empty log with all that another one holds: events, states,
// messages, receipts, claims and bookmarks with the versions, positions,
// sequences, ids and times that they have. At the end it reads the copy and
// compares the digests of both. The copy has an identity of its own ([LogInfo]).
//
// What is copied is the log as it was when Copy began, as one moment. Commits
// may go on, and are not in the copy; who wants to go on with the copy ends the
// engine first.
//
// From must be an [Exporter] and to an [Exporter] and [Importer] with as many
// partitions, else the error matches [errors.ErrUnsupported] or [ErrInvalid]. A
// damaged record ends the copy with an error matching [ErrCorrupt]. After an
// error to is left unfinished (see [Importer]), unless the error came before the
// first record. Progress may be nil.
func Copy(ctx context.Context, from, to Log, progress func(Progress)) (*CopyReport, error) {
	begun := time.Now()
	importer, ok := to.(Importer)
	if !ok {
		return nil, fmt.Errorf("copy: %w: a %T cannot be filled", errors.ErrUnsupported, to)
	}
	if _, ok := to.(Exporter); !ok {
		return nil, fmt.Errorf("copy: %w: a %T cannot be compared", errors.ErrUnsupported, to)
	}
	want, err := transfer(ctx, from, importer, progress)
	if err != nil {
		return nil, fmt.Errorf("copy: %w", err)
	}
	got, err := NewDigest(ctx, to, func(p Progress) {
		if progress != nil {
			p.Phase = "compare: " + p.Phase
			progress(p)
		}
	})
	if err != nil {
		return nil, fmt.Errorf("copy: read it again: %w", err)
	}
	if !got.equal(want) {
		return nil, fmt.Errorf("copy: %w", &CorruptError{What: "copy", Reason: "it differs: " + want.Difference(got)})
	}
	report := &CopyReport{Digest: want, Duration: time.Since(begun)}
	for _, s := range want.Sorts {
		report.Records += s.Count
		report.Bytes += s.Bytes
	}
	return report, nil
}

// transfer copies all records and returns the digest of what it has read.
func transfer(ctx context.Context, from Log, importer Importer, progress func(Progress)) (d *Digest, failure error) {
	x, err := export(ctx, from)
	if err != nil {
		return nil, err
	}
	defer func() { failure = errors.Join(failure, x.Close()) }()
	in, err := importer.Import(ctx, x.Origin())
	if err != nil {
		return nil, err
	}
	defer func() { failure = errors.Join(failure, in.Close()) }()
	chunk := chunk{in: in}
	d, err = digestOf(ctx, x, progress, func(r Record, n int) error { return chunk.add(ctx, r, n) })
	if err != nil {
		return nil, err
	}
	if err := chunk.flush(ctx); err != nil {
		return nil, err
	}
	if err := in.Finish(ctx); err != nil {
		return nil, err
	}
	return d, nil
}

// A chunk gathers records for one Add.
type chunk struct {
	in      Import
	records []Record
	bytes   int
}

func (c *chunk) add(ctx context.Context, r Record, n int) error {
	c.records = append(c.records, cloneRecord(r))
	c.bytes += n
	if len(c.records) >= copyRecordsMax || c.bytes >= copyBytesMax {
		return c.flush(ctx)
	}
	return nil
}

func (c *chunk) flush(ctx context.Context) error {
	if len(c.records) == 0 {
		return nil
	}
	err := c.in.Add(ctx, c.records...)
	clear(c.records)
	c.records, c.bytes = c.records[:0], 0
	return err
}

// cloneRecord returns a record that outlives the step that it was yielded by.
func cloneRecord(r Record) Record {
	switch r := r.(type) {
	case *Event:
		return r.Clone()
	case *State:
		return r.Clone()
	case *Message:
		c := *r
		return &c
	case *Receipt:
		c := *r
		return &c
	case *Claimed:
		c := *r
		return &c
	case *Bookmark:
		c := *r
		return &c
	}
	panic(fmt.Sprintf("store: a %T is no record", r))
}

// Backup lets a log copy its files to path (see [Backuper]). The log must be
// able to, else the error matches [errors.ErrUnsupported].
func Backup(ctx context.Context, log Log, path string, options BackupOptions) error {
	b, ok := log.(Backuper)
	if !ok {
		return fmt.Errorf("backup: %w: a %T cannot copy its files", errors.ErrUnsupported, log)
	}
	if err := b.Backup(ctx, path, options); err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	return nil
}
