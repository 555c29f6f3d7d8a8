package store

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"
)

const (
	// copyRecordsMax and copyBytesMax bound what one [Import.Add] of a copy adds.
	copyRecordsMax = 1000
	copyBytesMax   = 4 << 20
)

// A CopyReport says what a copy has copied.
type CopyReport struct {
	// Digest is that of both logs, without damaged records.
	Digest *Digest
	// Records and Bytes are how many there were, and how long their stored forms are,
	// without damaged records.
	Records, Bytes int64
	// Faults are what is wrong with the log that was copied, as a [Report] of [Verify]
	// has them, and FaultCount counts all of them.
	Faults     []error
	FaultCount int64
	// Damaged counts the damaged records of the copy: each stands for one record that
	// could not be read, or for several whose names were lost as well. It is zero
	// if the copy holds everything although its origin has faults: if only an index was
	// damaged, or the store had each lost event a second time.
	Damaged int64
	// Recovered counts the events that could not be read where they belong, and were
	// found in another place of the log.
	Recovered int64
	// Skipped counts the records that can be read and were left out, since they
	// contradict others: one that is out of order, or of another partition.
	Skipped int64
	// Duration is how long it took, the check at the end included.
	Duration time.Duration
}

// Err returns nil if the log that was copied has no faults, or an error that matches
// [ErrCorrupt] and names the first one, and how many records of the copy are damaged.
func (r *CopyReport) Err() error {
	err := (&Report{Faults: r.Faults, FaultCount: r.FaultCount}).Err()
	switch {
	case err == nil:
		return nil
	case r.Damaged+r.Skipped == 0:
		return fmt.Errorf("the log that was copied is damaged; all that it names is in the copy: %w", err)
	}
	return fmt.Errorf("the log that was copied is damaged; %d records of the copy are, too, and %d were left out: %w", r.Damaged, r.Skipped, err)
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
// Damage does not end a copy. Copy verifies the records of the log first, and its
// report names all that is wrong with them: look at [CopyReport.Err]. A record that
// cannot be read is a damaged record in the copy: its place is taken, and each read
// of it is an error matching [ErrCorrupt], so that no reader passes it without a
// word, and [Verify] calls the copy damaged. Example: of a log whose event 500 cannot
// be read, the copy has 999 events, and at position 500 an error. Where the names of
// records are lost too, such as with a page of a file, one damaged record under
// [LostKind] stands for all of them, and entities may look younger than they were.
//
// From must be an [Exporter] and to an [Exporter] and [Importer] with as many
// partitions, else the error matches [errors.ErrUnsupported] or [ErrInvalid]. After an
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
	report := new(CopyReport)
	if err := transfer(ctx, from, importer, report, progress); err != nil {
		return nil, fmt.Errorf("copy: %w", err)
	}
	again := func(p Progress) {
		if progress != nil {
			p.Phase = "compare: " + p.Phase
			progress(p)
		}
	}
	got, damaged, err := digestBeside(ctx, to, again)
	if err != nil {
		return nil, fmt.Errorf("copy: read it again: %w", err)
	}
	switch want := report.Digest; {
	case !got.equal(want):
		return nil, fmt.Errorf("copy: %w", &CorruptError{What: "copy", Reason: "it differs: " + want.Difference(got)})
	case damaged != report.Damaged:
		return nil, fmt.Errorf("copy: %w", &CorruptError{What: "copy", Reason: fmt.Sprintf(
			"%d of its records cannot be read, and should be %d", damaged, report.Damaged)})
	}
	for _, s := range report.Digest.Sorts {
		report.Records += s.Count
		report.Bytes += s.Bytes
	}
	report.Duration = time.Since(begun)
	return report, nil
}

// digestBeside returns the digest of the records of a log that can be read, and how
// many cannot.
func digestBeside(ctx context.Context, log Log, progress func(Progress)) (d *Digest, damaged int64, failure error) {
	x, err := export(ctx, log)
	if err != nil {
		return nil, 0, err
	}
	defer func() { failure = errors.Join(failure, x.Close()) }()
	d, err = digestOf(ctx, skipping{x, &damaged}, progress, func(Record, int) error { return nil })
	return d, damaged, err
}

// skipping is an export without its damaged records, which it counts.
type skipping struct {
	Export
	damaged *int64
}

func (s skipping) Records(ctx context.Context, of Sort) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		for r, err := range s.Export.Records(ctx, of) {
			if errors.Is(err, ErrCorrupt) {
				*s.damaged++
				continue
			}
			if !yield(r, err) {
				return
			}
		}
	}
}

// transfer copies all records and fills the report, but for what the copy itself
// tells.
func transfer(ctx context.Context, from Log, importer Importer, report *CopyReport, progress func(Progress)) (failure error) {
	x, err := export(ctx, from)
	if err != nil {
		return err
	}
	defer func() { failure = errors.Join(failure, x.Close()) }()
	v := newVerifier(x, VerifyOptions{Progress: progress})
	if err := v.run(ctx); err != nil {
		return err
	}
	if opened, ok := from.(FaultTeller); ok {
		for _, err := range opened.Faults() {
			v.fault(err)
		}
	}
	report.Faults, report.FaultCount = v.Faults, v.FaultCount
	origin := x.Origin()
	origin.Damaged = v.FaultCount > 0
	in, err := importer.Import(ctx, origin)
	if err != nil {
		return err
	}
	defer func() { failure = errors.Join(failure, in.Close()) }()
	chunk := chunk{in: in}
	add := func(r Record, n int) error { return chunk.add(ctx, r, n) }
	if v.FaultCount > 0 {
		beside := &besideDamage{Export: x, from: from, pruned: v.parts, report: report, add: add}
		report.Digest, err = digestOf(ctx, beside, progress, add)
		if err == nil {
			err = beside.failed
		}
	} else {
		report.Digest, err = digestOf(ctx, x, progress, add)
	}
	if err != nil {
		return err
	}
	if err := chunk.flush(ctx); err != nil {
		return err
	}
	return in.Finish(ctx)
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
