package admin

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"
	"time"

	"github.com/perdure/perdure/store"
)

// FaultsMax is the default bound for the faults that a [Report] names. All faults are counted.
const FaultsMax = 1000

// VerifyOptions change how [Verify] works. The zero value has good defaults.
type VerifyOptions struct {
	// Progress is called from time to time, by one goroutine at a time.
	Progress func(Progress)
	// FaultsMax bounds the faults that the report names. Zero means [FaultsMax].
	FaultsMax int
}

// A Report is the result of [Verify].
type Report struct {
	// Origin has the heads and the last sequence of the log, and Stats the log's own figures.
	Origin store.Origin
	Stats  store.Stats
	// Counts are the numbers of whole records of each kind, indexed by [store.RecordKind]. Bytes
	// is the size of their stored forms.
	Counts [recordKinds]int64
	Bytes  int64
	// Files says that the store, as a [store.Verifier], has checked its files and indices too.
	Files bool
	// Faults are the first faults that were found. Each is a [*store.CorruptError] that matches
	// [store.ErrCorrupt] and names the place as far as it is known. FaultCount counts all faults.
	// One damage can cause several faults: for example, an event that cannot be read is also
	// missing in its entity.
	Faults     []error
	FaultCount int64
	// Duration is the time that Verify took.
	Duration time.Duration
}

// Count returns the number of whole records of a kind.
func (r *Report) Count(s store.RecordKind) int64 { return r.Counts[s] }

// Err returns nil if no fault was found. Otherwise its error matches [store.ErrCorrupt], names the
// first fault and has the number of faults.
func (r *Report) Err() error {
	switch {
	case r.FaultCount == 0:
		return nil
	case r.FaultCount == 1 || len(r.Faults) == 0:
		return errors.Join(r.Faults...)
	}
	return fmt.Errorf("%d faults, the first: %w", r.FaultCount, r.Faults[0])
}

// Verify reads every live record of a log, as the log is now, and checks everything that can be
// checked:
//
//   - every record decodes, has a right checksum, and is the record that belongs to its place;
//   - the positions of a partition end at its head, and have no gaps other than deleted events:
//     exactly those that are missing in their entities;
//   - the versions of an entity have no gaps, except for deleted ones at the beginning that a
//     state covers;
//   - batches are whole: after each event there are as many events of its batch as it says;
//   - the events found by position and those found by entity are the same;
//   - states, receipts and messages refer to events and versions that exist;
//   - the log's own counts are right;
//   - the store's own check of its files and indices passes (see [store.Verifier]).
//
// Verify goes on after damage, so that it finds all of it. Commits may go on at the same time.
// Verify holds a few records in memory, and the data that the store needs for an [store.Export].
//
// If the store cannot export its logs, the error matches [errors.ErrUnsupported]. An error means
// that the log could not be read to its end, not that it is damaged: the report has the damage.
func Verify(ctx context.Context, log store.Log, options VerifyOptions) (report *Report, failure error) {
	begun := time.Now()
	x, err := log.Export(ctx)
	if err != nil {
		return nil, fmt.Errorf("verify: %w", err)
	}
	defer func() { failure = errors.Join(failure, x.Close()) }()
	v := newVerifier(x, options)
	if err := v.run(ctx); err != nil {
		return nil, fmt.Errorf("verify: %w", err)
	}
	newMeter(v.progress, "check the files", -1).report()
	switch err := log.VerifyFiles(ctx, v.fault); {
	case err == nil:
		v.Files = true
	case !errors.Is(err, errors.ErrUnsupported):
		return nil, fmt.Errorf("verify: %w", err)
	}
	v.Duration = time.Since(begun)
	return &v.Report, nil
}

// A verifier reads an export once for each order of its records, and keeps a few numbers for each
// partition.
type verifier struct {
	Report
	x         store.Export
	progress  func(Progress)
	faultsMax int

	parts  []partitionTally
	inLog  eventSum // events by position
	byName eventSum // events by entity
	// entities counts the entities with events or a saved state.
	entities int64
}

func newVerifier(x store.Export, options VerifyOptions) *verifier {
	return &verifier{
		x: x, progress: options.Progress, faultsMax: cmp.Or(options.FaultsMax, FaultsMax),
		Report: Report{Origin: x.Origin(), Stats: x.Stats()},
	}
}

// A partitionTally has the counts of one partition.
type partitionTally struct {
	last   store.Position // the last event that was found
	found  uint64         // events found, damaged ones included
	pruned uint64         // events that entities lack at their beginning
}

// An eventSum is equal for two equal sets of events, in whatever order they come: it adds up a
// mixed number for each event.
type eventSum struct {
	count   int64
	sum     uint64
	unknown bool // some events could not be read
}

func (s *eventSum) add(e *store.Event) {
	const prime = 1099511628211
	h := uint64(14695981039346656037)
	for _, part := range [...]string{e.Key.Kind, "\x00", e.Key.ID} {
		for i := range len(part) {
			h = (h ^ uint64(part[i])) * prime
		}
	}
	for _, n := range [...]uint64{uint64(e.Version), uint64(e.Position)} {
		h = (h ^ n) * 0xff51afd7ed558ccd
		h ^= h >> 33
	}
	s.count++
	s.sum += h * 0xc4ceb9fe1a85ec53
}

func (v *verifier) run(ctx context.Context) error {
	v.parts = make([]partitionTally, len(v.Origin.Heads))
	for _, step := range []func(context.Context) error{
		v.events, v.perEntity, v.messages, v.claims, v.checkpoints,
	} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	v.compare()
	return nil
}

// fault records a fault.
func (v *verifier) fault(err error) {
	v.FaultCount++
	if len(v.Faults) < v.faultsMax {
		v.Faults = append(v.Faults, err)
	}
}

func (v *verifier) faultf(c store.CorruptError, format string, args ...any) {
	c.Reason = fmt.Sprintf(format, args...)
	v.fault(&c)
}

// records yields the readable records of a kind and records the faults of the others. It calls
// damaged with each error about a damaged record.
func (v *verifier) records(ctx context.Context, s store.RecordKind, failure *error, damaged func(*store.CorruptError)) iter.Seq[store.Record] {
	m := newMeter(v.progress, fmt.Sprintf("check %vs", s), totalOf(s, &v.Stats))
	var buf []byte
	return func(yield func(store.Record) bool) {
		defer m.report()
		for r, err := range v.x.Records(ctx, s) {
			c, isDamage := errors.AsType[*store.CorruptError](err)
			switch {
			case isDamage:
				v.fault(err)
				if damaged != nil {
					damaged(c)
				}
				continue
			case err != nil:
				*failure = fmt.Errorf("read %vs: %w", s, err)
				return
			}
			if s != store.KindVersion {
				if err := store.ValidateRecord(r); err != nil {
					v.faultf(store.CorruptError{What: s.String()}, "%v", err)
				}
				v.Counts[s]++
				buf = store.AppendRecord(buf[:0], r)
				v.Bytes += int64(len(buf))
			}
			m.add(1)
			if !yield(r) {
				return
			}
		}
	}
}

// events checks the events in the order of their positions.
func (v *verifier) events(ctx context.Context) (failure error) {
	heads := v.Origin.Heads
	var before store.Event // without the memory that it points to
	damaged := func(c *store.CorruptError) {
		v.inLog.unknown = true
		if p := c.Position.Partition(); c.Position != 0 && p < len(v.parts) {
			v.parts[p].found++
			v.parts[p].last = max(v.parts[p].last, c.Position)
		}
	}
	for r := range v.records(ctx, store.KindEvent, &failure, damaged) {
		e := r.(*store.Event)
		at := store.CorruptError{What: "event", Key: e.Key, Version: e.Version, Position: e.Position}
		p := e.Position.Partition()
		switch {
		case p >= len(heads):
			v.faultf(at, "the log has %d partitions", len(heads))
			continue
		case e.Position > heads[p]:
			v.faultf(at, "it is above the head of its partition, %v", heads[p])
			continue
		case e.Position <= v.parts[p].last:
			v.faultf(at, "it comes after position %v", v.parts[p].last)
			continue
		case store.PartitionOf(e.Key, len(heads)) != p:
			v.faultf(at, "the entity belongs to partition %d", store.PartitionOf(e.Key, len(heads)))
		}
		if b := &before; b.Remaining > 0 && e.Position == b.Position+1 && (e.Key != b.Key || e.Remaining != b.Remaining-1) {
			v.faultf(at, "%d of its batch should follow it, and %d follow the one before it, of %v", e.Remaining, b.Remaining, b.Key)
		}
		if e.CommitEnd() > heads[p] {
			v.faultf(at, "its batch ends at %v, above the head of the partition, %v", e.CommitEnd(), heads[p])
		}
		before = store.Event{Key: e.Key, Position: e.Position, Remaining: e.Remaining}
		v.parts[p].last = e.Position
		v.parts[p].found++
		v.inLog.add(e)
	}
	for p, head := range heads {
		if last := v.parts[p].last; head.Sequence() > 0 && last != head && failure == nil {
			v.faultf(store.CorruptError{What: "event", Position: head}, "the last event of partition %d is missing, found %v", p, last)
		}
	}
	return failure
}

// compare compares the tallies with each other and with the log's own figures.
func (v *verifier) compare() {
	if !v.inLog.unknown && !v.byName.unknown {
		for p, t := range v.parts {
			if gone := v.Origin.Heads[p].Sequence() - t.found; gone != t.pruned {
				v.faultf(store.CorruptError{What: "partition"}, "partition %d lacks %d of its events, its entities lack %d", p, gone, t.pruned)
			}
		}
		if v.inLog.count != v.byName.count || v.inLog.sum != v.byName.sum {
			v.faultf(store.CorruptError{What: "index"}, "it names %d events, and the partitions hold %d, not the same ones",
				v.byName.count, v.inLog.count)
		}
	}
	if v.FaultCount > 0 {
		return // then the counts are wrong anyway
	}
	for _, c := range []struct {
		what      string
		says, has int64
	}{
		{"events", v.Stats.Events, v.Counts[store.KindEvent]},
		{"entities", v.Stats.Entities, v.entities},
		{"snapshots and saved states", v.Stats.Snapshots, v.Counts[store.KindState]},
		{"messages", totalOf(store.KindMessage, &v.Stats), v.Counts[store.KindMessage]},
	} {
		if c.says >= 0 && c.says != c.has {
			v.faultf(store.CorruptError{What: "counters"}, "the log says that it holds %d %s, found %d", c.says, c.what, c.has)
		}
	}
}

// messages checks the outbox.
func (v *verifier) messages(ctx context.Context) (failure error) {
	last := uint64(0)
	for r := range v.records(ctx, store.KindMessage, &failure, nil) {
		m := r.(*store.Message)
		at := store.CorruptError{What: "message", Where: fmt.Sprintf("outbox message %d", m.Sequence), Key: m.Source}
		if m.Sequence > v.Origin.Sequence {
			v.faultf(at, "the last message has sequence %d", v.Origin.Sequence)
		}
		if m.Sequence <= last {
			v.faultf(at, "it comes after message %d", last)
		}
		last = m.Sequence
	}
	return failure
}

// claims checks that no value is claimed twice.
func (v *verifier) claims(ctx context.Context) (failure error) {
	var last store.Claim
	for r := range v.records(ctx, store.KindClaim, &failure, nil) {
		c := r.(*store.Claimed)
		if cmp.Or(strings.Compare(last.Space, c.Claim.Space), strings.Compare(last.Value, c.Claim.Value)) >= 0 {
			v.faultf(store.CorruptError{What: "claim", Key: c.Owner}, "%q in %q comes after %q in %q",
				c.Claim.Value, c.Claim.Space, last.Value, last.Space)
		}
		last = c.Claim
	}
	return failure
}

// checkpoints reads the checkpoints. Their positions are not compared with the heads: a
// log may keep the checkpoints of readers of another log.
func (v *verifier) checkpoints(ctx context.Context) (failure error) {
	for range v.records(ctx, store.KindCheckpoint, &failure, nil) {
		continue
	}
	return failure
}
