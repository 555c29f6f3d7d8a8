package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"time"
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
	Origin Origin
	Stats  Stats
	// Counts are the numbers of whole records of each kind, indexed by [RecordKind]. Bytes is the size
	// of their stored forms.
	Counts [recordKinds]int64
	Bytes  int64
	// Files says that the store, as a [Verifier], has checked its files and indices too.
	Files bool
	// Faults are the first faults that were found. Each is a [*CorruptError] that matches
	// [ErrCorrupt] and names the place as far as it is known. FaultCount counts all faults. One
	// damage can cause several faults: for example, an event that cannot be read is also missing
	// in its entity.
	Faults     []error
	FaultCount int64
	// Duration is the time that Verify took.
	Duration time.Duration
}

// Count returns the number of whole records of a kind.
func (r *Report) Count(s RecordKind) int64 { return r.Counts[s] }

// Err returns nil if no fault was found. Otherwise its error matches [ErrCorrupt], names the
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
//   - the store's own check of its files and indices passes (see [Verifier]).
//
// Verify goes on after damage, so that it finds all of it. Commits may go on at the same time.
// Verify holds a few records in memory, and the data that the store needs for an [Export].
//
// If the store cannot export its logs, the error matches [errors.ErrUnsupported]. An error means
// that the log could not be read to its end, not that it is damaged: the report has the damage.
func Verify(ctx context.Context, log Log, options VerifyOptions) (report *Report, failure error) {
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
	x         Export
	progress  func(Progress)
	faultsMax int

	parts  []partitionTally
	inLog  eventSum // events by position
	byName eventSum // events by entity
	// entities counts the entities with events or a saved state.
	entities int64
}

func newVerifier(x Export, options VerifyOptions) *verifier {
	return &verifier{
		x: x, progress: options.Progress, faultsMax: cmp.Or(options.FaultsMax, FaultsMax),
		Report: Report{Origin: x.Origin(), Stats: x.Stats()},
	}
}

// A partitionTally has the counts of one partition.
type partitionTally struct {
	last   Position // the last event that was found
	found  uint64   // events found, damaged ones included
	pruned uint64   // events that entities lack at their beginning
}

// An eventSum is equal for two equal sets of events, in whatever order they come: it adds up a
// mixed number for each event.
type eventSum struct {
	count   int64
	sum     uint64
	unknown bool // some events could not be read
}

func (s *eventSum) add(e *Event) {
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

func (v *verifier) faultf(c CorruptError, format string, args ...any) {
	c.Reason = fmt.Sprintf(format, args...)
	v.fault(&c)
}

// records yields the readable records of a kind and records the faults of the others. It calls
// damaged with each error about a damaged record.
func (v *verifier) records(ctx context.Context, s RecordKind, failure *error, damaged func(*CorruptError)) iter.Seq[Record] {
	m := newMeter(v.progress, fmt.Sprintf("check %vs", s), totalOf(s, &v.Stats))
	var buf []byte
	return func(yield func(Record) bool) {
		defer m.report()
		for r, err := range v.x.Records(ctx, s) {
			c, isDamage := errors.AsType[*CorruptError](err)
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
			if s != KindVersion {
				if err := ValidateRecord(r); err != nil {
					v.faultf(CorruptError{What: s.String()}, "%v", err)
				}
				v.Counts[s]++
				buf = AppendRecord(buf[:0], r)
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
	var before Event // without the memory that it points to
	damaged := func(c *CorruptError) {
		v.inLog.unknown = true
		if p := c.Position.Partition(); c.Position != 0 && p < len(v.parts) {
			v.parts[p].found++
			v.parts[p].last = max(v.parts[p].last, c.Position)
		}
	}
	for r := range v.records(ctx, KindEvent, &failure, damaged) {
		e := r.(*Event)
		at := CorruptError{What: "event", Key: e.Key, Version: e.Version, Position: e.Position}
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
		case PartitionOf(e.Key, len(heads)) != p:
			v.faultf(at, "the entity belongs to partition %d", PartitionOf(e.Key, len(heads)))
		}
		if b := &before; b.Remaining > 0 && e.Position == b.Position+1 && (e.Key != b.Key || e.Remaining != b.Remaining-1) {
			v.faultf(at, "%d of its batch should follow it, and %d follow the one before it, of %v", e.Remaining, b.Remaining, b.Key)
		}
		if e.CommitEnd() > heads[p] {
			v.faultf(at, "its batch ends at %v, above the head of the partition, %v", e.CommitEnd(), heads[p])
		}
		before = Event{Key: e.Key, Position: e.Position, Remaining: e.Remaining}
		v.parts[p].last = e.Position
		v.parts[p].found++
		v.inLog.add(e)
	}
	for p, head := range heads {
		if last := v.parts[p].last; head.Sequence() > 0 && last != head && failure == nil {
			v.faultf(CorruptError{What: "event", Position: head}, "the last event of partition %d is missing, found %v", p, last)
		}
	}
	return failure
}

// compare compares the tallies with each other and with the log's own figures.
func (v *verifier) compare() {
	if !v.inLog.unknown && !v.byName.unknown {
		for p, t := range v.parts {
			if gone := v.Origin.Heads[p].Sequence() - t.found; gone != t.pruned {
				v.faultf(CorruptError{What: "partition"}, "partition %d lacks %d of its events, its entities lack %d", p, gone, t.pruned)
			}
		}
		if v.inLog.count != v.byName.count || v.inLog.sum != v.byName.sum {
			v.faultf(CorruptError{What: "index"}, "it names %d events, and the partitions hold %d, not the same ones",
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
		{"events", v.Stats.Events, v.Counts[KindEvent]},
		{"entities", v.Stats.Entities, v.entities},
		{"snapshots and saved states", v.Stats.Snapshots, v.Counts[KindState]},
		{"messages", totalOf(KindMessage, &v.Stats), v.Counts[KindMessage]},
	} {
		if c.says >= 0 && c.says != c.has {
			v.faultf(CorruptError{What: "counters"}, "the log says that it holds %d %s, found %d", c.says, c.what, c.has)
		}
	}
}

// messages checks the outbox.
func (v *verifier) messages(ctx context.Context) (failure error) {
	last := uint64(0)
	for r := range v.records(ctx, KindMessage, &failure, nil) {
		m := r.(*Message)
		at := CorruptError{What: "message", Where: fmt.Sprintf("outbox message %d", m.Sequence), Key: m.Source}
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
	var last Claim
	for r := range v.records(ctx, KindClaim, &failure, nil) {
		c := r.(*Claimed)
		if cmp.Or(strings.Compare(last.Space, c.Claim.Space), strings.Compare(last.Value, c.Claim.Value)) >= 0 {
			v.faultf(CorruptError{What: "claim", Key: c.Owner}, "%q in %q comes after %q in %q",
				c.Claim.Value, c.Claim.Space, last.Value, last.Space)
		}
		last = c.Claim
	}
	return failure
}

// checkpoints reads the checkpoints. Their positions are not compared with the heads: a
// log may keep the checkpoints of readers of another log.
func (v *verifier) checkpoints(ctx context.Context) (failure error) {
	for range v.records(ctx, KindCheckpoint, &failure, nil) {
		continue
	}
	return failure
}

// ---- checks entity by entity

// A feed is a sequence of records in the order of their entities.
type feed struct {
	next    func() (Record, bool)
	current Record // nil at the end
}

func (f *feed) step() {
	f.current, _ = f.next()
}

// is reports whether the current record belongs to an entity.
func (f *feed) is(key Key) bool { return f.current != nil && entityOf(f.current) == key }

// entityOf returns the entity that a record belongs to.
func entityOf(r Record) Key {
	switch r := r.(type) {
	case *Event:
		return r.Key
	case *State:
		return r.Key
	case *Receipt:
		return r.Entity
	}
	return Key{}
}

func compareKeys(a, b Key) int {
	return cmp.Or(strings.Compare(a.Kind, b.Kind), strings.Compare(a.ID, b.ID))
}

// perEntity reads versions, states and receipts side by side.
func (v *verifier) perEntity(ctx context.Context) error {
	var failures [3]error
	unread := make(map[RecordKind]bool) // kinds with records that cannot be read
	var stops []func()
	open := func(i int, s RecordKind) *feed {
		next, stop := iter.Pull(v.records(ctx, s, &failures[i], func(*CorruptError) {
			unread[s] = true
			if s == KindVersion {
				v.byName.unknown = true
			}
		}))
		f := &feed{next: next}
		f.step()
		stops = append(stops, stop)
		return f
	}
	defer func() {
		for _, stop := range stops {
			stop()
		}
	}()
	e := &entityCheck{v: v, unread: unread, versions: open(0, KindVersion), states: open(1, KindState), receipts: open(2, KindReceipt)}
	for {
		key, ok := e.lowest()
		if !ok {
			return errors.Join(failures[:]...)
		}
		if compareKeys(key, e.key) <= 0 {
			v.faultf(CorruptError{What: "entity", Key: key}, "it comes after %v", e.key)
		}
		e.begin(key)
		e.check()
	}
}

// An entityCheck is the check of one entity.
type entityCheck struct {
	v        *verifier
	unread   map[RecordKind]bool
	versions *feed
	states   *feed
	receipts *feed

	key           Key
	partition     int
	first, last   Version // versions of its events, 0 if it has none
	position      Position
	covered       Version // version of its latest state
	savedVersion  Version
	stateVersions []Version
	name          string // name of the previous receipt
}

func (e *entityCheck) lowest() (key Key, ok bool) {
	for _, f := range []*feed{e.versions, e.states, e.receipts} {
		if f.current == nil {
			continue
		}
		if k := entityOf(f.current); !ok || compareKeys(k, key) < 0 {
			key, ok = k, true
		}
	}
	return key, ok
}

func (e *entityCheck) begin(key Key) {
	e.key, e.partition = key, PartitionOf(key, len(e.v.parts))
	e.first, e.last, e.position, e.covered, e.savedVersion = 0, 0, 0, 0, 0
	e.stateVersions = e.stateVersions[:0]
	e.name = ""
}

func (e *entityCheck) at(what string, version Version, position Position) CorruptError {
	return CorruptError{What: what, Key: e.key, Version: version, Position: position}
}

// check consumes all records of the entity.
func (e *entityCheck) check() {
	v := e.v
	for ; e.versions.is(e.key); e.versions.step() {
		e.version(e.versions.current.(*Event))
	}
	for ; e.states.is(e.key); e.states.step() {
		e.state(e.states.current.(*State))
	}
	if e.last > 0 || e.savedVersion > 0 {
		v.entities++
	}
	if e.first > 1 {
		v.parts[e.partition].pruned += uint64(e.first - 1)
		if e.covered+1 < e.first && !e.unread[KindState] {
			v.faultf(e.at("event", e.first-1, 0), "the versions before %d are missing, and no state covers them", e.first)
		}
	}
	for ; e.receipts.is(e.key); e.receipts.step() {
		e.receipt(e.receipts.current.(*Receipt))
	}
}

// version checks the next event of the entity, and the state of its version.
func (e *entityCheck) version(ev *Event) {
	v := e.v
	v.byName.add(ev)
	at := e.at("event", ev.Version, ev.Position)
	switch {
	case e.last > 0 && ev.Version != e.last+1 && !e.unread[KindVersion]:
		v.faultf(at, "it comes after version %d", e.last)
	case e.last > 0 && ev.Position <= e.position:
		v.faultf(at, "the version before it is at position %v", e.position)
	}
	if ev.Position.Partition() != e.partition {
		v.faultf(at, "the entity belongs to partition %d", e.partition)
	}
	if e.first == 0 {
		e.first = ev.Version
	}
	e.last, e.position = ev.Version, ev.Position
	for e.states.is(e.key) && e.states.current.(*State).Version <= ev.Version {
		s := e.states.current.(*State)
		if s.Version == ev.Version && s.Position != ev.Position {
			v.faultf(e.at("state", s.Version, s.Position), "its event is at position %v", ev.Position)
		}
		e.note(s)
		e.states.step()
	}
}

func (e *entityCheck) note(s *State) {
	if slices.Contains(e.stateVersions, s.Version) {
		e.v.faultf(e.at("state", s.Version, s.Position), "there is another one of this version")
	}
	e.stateVersions = append(e.stateVersions, s.Version)
	e.covered = max(e.covered, s.Version)
	if s.Position != 0 && s.Position.Partition() != e.partition {
		e.v.faultf(e.at("state", s.Version, s.Position), "the entity belongs to partition %d", e.partition)
	}
}

// state checks a state whose version no event of the entity has.
func (e *entityCheck) state(s *State) {
	at := e.at("state", s.Version, s.Position)
	switch {
	case s.Position != 0 && !e.unread[KindVersion]:
		e.v.faultf(at, "the entity is at version %d", e.last)
	case s.Position == 0 && e.last > 0:
		e.v.faultf(at, "a saved state of an entity with events")
	case s.Position == 0:
		e.savedVersion = s.Version
	}
	e.note(s)
}

func (e *entityCheck) receipt(r *Receipt) {
	at := e.at("receipt", r.Version, r.Position)
	at.Where = fmt.Sprintf("receipt %q", r.Name)
	if r.Name <= e.name {
		e.v.faultf(at, "it comes after receipt %q", e.name)
	}
	e.name = r.Name
	if r.Version > max(e.last, e.savedVersion) && !e.unread[KindVersion] && !e.unread[KindState] {
		e.v.faultf(at, "the entity is at version %d", max(e.last, e.savedVersion))
	}
	if r.Position == 0 {
		return
	}
	if p := r.Position.Partition(); p >= len(e.v.Origin.Heads) || r.Position > e.v.Origin.Heads[p] {
		e.v.faultf(at, "it is above the head of the partition")
	}
}
