package admin

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/perdure/perdure/store"
)

const (
	// copyRecordsMax and copyBytesMax bound one [store.Import.Add] of a copy.
	copyRecordsMax = 1000
	copyBytesMax   = 4 << 20
)

// A CopyReport is the result of a copy.
type CopyReport struct {
	// Digest is the digest of both logs, without damaged records.
	Digest *Digest
	// Records is the number of copied records, and Bytes is the size of their stored forms, both
	// without damaged records.
	Records, Bytes int64
	// Faults are the faults of the log that was copied, as in a [Report] of [Verify]. FaultCount
	// counts all of them.
	Faults     []error
	FaultCount int64
	// Damaged counts the damaged records of the copy. Each stands for one record that could not
	// be read, or for several whose names were lost too. Damaged is zero if the copy has
	// everything although its origin has faults: if only an index was damaged, or if the store
	// had each lost event a second time.
	Damaged int64
	// Recovered counts the events that could not be read in their place and were found in another
	// place of the log.
	Recovered int64
	// Skipped counts the readable records that were left out because they contradict others: for
	// example a record that is out of order, or in a wrong partition.
	Skipped int64
	// Duration is the time of the copy, including the check at the end.
	Duration time.Duration
}

// Err returns nil if the log that was copied has no faults. Otherwise its error matches
// [store.ErrCorrupt], names the first fault, and has the number of damaged records in the copy.
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

// FaultTeller is an optional interface of a [store.Log] that was opened although it is damaged. It
// returns the faults of its files. [Copy] uses it.
type FaultTeller interface {
	// Faults returns the faults that were found when the log was opened, as errors that match
	// [store.ErrCorrupt]. It is empty for a log that was opened as usual.
	Faults() []error
}

// Copy fills a new, empty log with all records of another one: events, states, messages,
// receipts, claims and checkpoints, with their versions, positions, sequences, ids and times. At
// the end Copy reads the new log and compares the digests of both. The new log has an identity of
// its own ([store.LogInfo]).
//
// Copy reads the log as it was when Copy began, from one read view. Later commits are possible,
// but are not in the copy. To go on with the copy, stop the engine before Copy.
//
// Damage does not end a copy. Copy verifies the records of the log first, and its report names all
// faults: check [CopyReport.Err]. For a record that cannot be read, the copy has a damaged record.
// It takes the place of the lost one, and each read of it returns an error matching
// [store.ErrCorrupt], so that no reader passes over it unnoticed, and [Verify] reports the copy as
// damaged. For example, if event 500 of a log with 1,000 events cannot be read, the copy has 999
// events, and an error at position 500. If the names of records are lost too, for example with a
// page of a file, one damaged record under [store.LostKind] stands for all of them, and entities
// may be at an older version than before.
//
// Both logs must have the same number of partitions; otherwise the error matches
// [store.ErrInvalid]. If from cannot be exported or to cannot be filled, it matches
// [errors.ErrUnsupported]. After an error, the log to is unfinished (see [store.Importer]), unless
// the error came before the first record. progress may be nil.
func Copy(ctx context.Context, from, to store.Log, progress func(Progress)) (*CopyReport, error) {
	begun := time.Now()
	report := new(CopyReport)
	if err := transfer(ctx, from, to, report, progress); err != nil {
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
		return nil, fmt.Errorf("copy: %w", &store.CorruptError{What: "copy", Reason: "it differs: " + want.Difference(got)})
	case damaged != report.Damaged:
		return nil, fmt.Errorf("copy: %w", &store.CorruptError{What: "copy", Reason: fmt.Sprintf(
			"%d of its records cannot be read, and should be %d", damaged, report.Damaged)})
	}
	for _, s := range report.Digest.Records {
		report.Records += s.Count
		report.Bytes += s.Bytes
	}
	report.Duration = time.Since(begun)
	return report, nil
}

// digestBeside returns the digest of the readable records of a log, and the number of damaged
// ones.
func digestBeside(ctx context.Context, log store.Log, progress func(Progress)) (d *Digest, damaged int64, failure error) {
	x, err := log.Export(ctx)
	if err != nil {
		return nil, 0, err
	}
	defer func() { failure = errors.Join(failure, x.Close()) }()
	d, err = digestOf(ctx, skipping{x, &damaged}, progress, func(store.Record, int) error { return nil })
	return d, damaged, err
}

// skipping is an export that leaves out damaged records, and counts them.
type skipping struct {
	store.Export
	damaged *int64
}

func (s skipping) Records(ctx context.Context, of store.RecordKind) iter.Seq2[store.Record, error] {
	return func(yield func(store.Record, error) bool) {
		for r, err := range s.Export.Records(ctx, of) {
			if errors.Is(err, store.ErrCorrupt) {
				*s.damaged++
				continue
			}
			if !yield(r, err) {
				return
			}
		}
	}
}

// transfer copies all records and fills in the report, except for the fields that the export
// fills in.
func transfer(ctx context.Context, from, to store.Log, report *CopyReport, progress func(Progress)) (failure error) {
	x, err := from.Export(ctx)
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
	in, err := to.Import(ctx, origin)
	if err != nil {
		return err
	}
	defer func() { failure = errors.Join(failure, in.Close()) }()
	chunk := chunk{in: in}
	add := func(r store.Record, n int) error { return chunk.add(ctx, r, n) }
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

// A chunk collects records for one Add.
type chunk struct {
	in      store.Import
	records []store.Record
	bytes   int
}

func (c *chunk) add(ctx context.Context, r store.Record, n int) error {
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
