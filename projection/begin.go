package projection

import (
	"bytes"
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/perdure/perdure/internal/core/projector"
	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/stream"
)

// The reasons that stop a version at its beginning until the operator helps. All of them also
// match [store.ErrInvalid].
var (
	// ErrOtherLog says that the notes of a version name another log than the one that the runner
	// reads. If this log is a copy of that one, see [Runner.Adopt]; otherwise give the projection
	// a new [Version], or build it from the start by [Runner.Reset].
	ErrOtherLog = errors.New("read model is of another log")
	// ErrReplaced says that the log lacks the event up to which the read model was built: the log
	// was restored from an older backup, or replaced. So the read model has rows of events that
	// the log does not have. Give the projection a new [Version], build it from the start by
	// [Runner.Reset], or restore the read model to the same time as the log.
	ErrReplaced = stream.ErrReplaced
	// ErrDeleted says that events which the version had yet to handle may have been deleted from
	// the log. Rows may be missing. Give the projection a new [Version], or build it from the
	// events that are left by [Runner.Reset].
	ErrDeleted = stream.ErrDeleted
)

const (
	// beginTriesMax bounds the attempts to begin a version while other processes change it.
	beginTriesMax = 16
	// supersededEvery is how often a runner checks whether the version is its own again.
	supersededEvery = 2 * time.Second
)

// errAgain says that the notes have changed since they were read.
var errAgain = errors.New("another runner changes the notes of the version again and again")

// begin makes the version, or finds it, and tries until it succeeds. It returns false if the
// context has ended.
func (r *run) begin(ctx context.Context) (about, bool) {
	said := ""
	for fails := 0; ctx.Err() == nil; fails++ {
		select {
		case <-r.retry: // this attempt begins again anyway
		default:
		}
		var a about
		var err error
		if r.isRemoved() {
			err = ErrRemoved
		} else {
			err = contained(func() (err error) {
				a, err = r.open(ctx)
				return err
			})
		}
		if err == nil {
			return a, true
		}
		older := errors.Is(err, errOlder)
		stopped := !older && (errors.Is(err, store.ErrCorrupt) || errors.Is(err, store.ErrFormat) ||
			errors.Is(err, store.ErrInvalid) || errors.Is(err, ErrRemoved))
		r.mu.Lock()
		r.err, r.failed, r.superseded = err, stopped, older
		r.mu.Unlock()
		r.progress()
		if ctx.Err() != nil {
			break
		}
		switch text := err.Error(); {
		case errors.Is(err, ErrRemoved):
		case older && text != said:
			r.logger.Warn("projection stands by", "projection", r.name, "version", r.version, "error", err)
			said = text
		case !older:
			r.logger.Error("projection cannot begin", "projection", r.name, "version", r.version, "error", err)
		}
		switch {
		case stopped:
			select {
			case <-r.retry:
			case <-ctx.Done():
			}
		case older:
			r.sleep(ctx, supersededEvery, r.retry)
		default:
			r.sleep(ctx, projector.Backoff(r.limits.RetryMin, r.limits.RetryMax, fails), r.retry)
		}
	}
	return about{}, false
}

func (r *run) isRemoved() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.removed
}

// A found has the notes of a version before it begins.
type found struct {
	note     []byte // the version's note; nil if there is none
	about    about
	segments map[segmentID]segmentNote
	marks    []store.Position // positions for checkpoints, one for each partition
}

// look reads the notes of the version.
func (r *run) look(ctx context.Context) (f found, err error) {
	err = r.back.view(ctx, func(t txn) (err error) {
		f = found{}
		if f.note, err = t.note(ctx, r.aboutKey()); err != nil || f.note == nil {
			return err
		}
		if f.about, err = decodeAbout(f.note); err != nil {
			return err
		}
		if f.segments, err = segmentNotes(ctx, t, r.name, r.version); err != nil {
			return err
		}
		f.marks, err = r.passed(ctx, t, f.segments, f.about.partitions)
		return err
	})
	return f, err
}

// identify returns the heads of the log and its id; the id is zero if the log does not tell it.
func (r *run) identify(ctx context.Context) (heads []store.Position, id store.ID, err error) {
	if heads, err = r.log.Heads(ctx); err != nil {
		return nil, id, fmt.Errorf("read heads: %w", err)
	}
	stats, err := r.log.Stats(ctx)
	if err != nil && !errors.Is(err, errors.ErrUnsupported) {
		return nil, id, fmt.Errorf("identify the log: %w", err)
	}
	return heads, stats.Info.ID, nil
}

// open finds the notes of the version and checks that they fit this log and these rules. If there
// are none, open makes the version in one transaction.
func (r *run) open(ctx context.Context) (about, error) {
	for range beginTriesMax {
		a, err := r.openOnce(ctx)
		if !errors.Is(err, errAgain) {
			return a, err
		}
	}
	return about{}, errAgain
}

func (r *run) openOnce(ctx context.Context) (about, error) {
	heads, id, err := r.identify(ctx)
	if err != nil {
		return about{}, err
	}
	f, err := r.look(ctx)
	if err != nil {
		return about{}, err
	}
	want := f.about
	if f.note == nil {
		want = about{segments: r.segments, partitions: len(heads), log: id, began: r.now(), instance: r.fresh}
	} else if err := r.suits(&f.about, len(heads), id); err != nil {
		return about{}, err
	}
	if want.instance.IsZero() {
		want.instance = r.fresh // notes of former releases lack it
	}
	marks := f.marks
	if f.note == nil {
		for p := range heads {
			marks = append(marks, store.NewPosition(p, 0))
		}
	}
	// Register before any event is read, so that no unread event is deleted.
	if err := r.register(ctx, &want, marks); err != nil {
		return about{}, err
	}
	var scanned *scanned
	if f.note == nil {
		if want.deleted, err = r.deletions(ctx); err != nil {
			return about{}, err
		}
		want.selection = r.plan.selection
	} else if scanned, err = r.verify(ctx, &f, heads); err != nil {
		return about{}, err
	} else {
		want.selection = r.plan.selection
	}
	copied := r.otherLog(&f.about, id)
	if copied {
		if err := r.prove(ctx, f.segments); err != nil {
			return about{}, err
		}
		want.log = id
	}
	if want.log.IsZero() {
		want.log = id
	}
	err = r.back.update(ctx, func(t txn) error { return r.openVersion(ctx, t, &f, &want, scanned, copied) })
	if err == nil {
		err = r.skipsAtBegin(ctx)
	}
	if err == nil && copied {
		r.saysAdopted()
	}
	if err == nil && f.note == nil && len(want.deleted) > 0 {
		r.logger.Warn("projection begins with the events that are left: others had been deleted from the log before",
			"projection", r.name, "version", r.version, "through", fmt.Sprint(want.deleted))
	}
	return want, err
}

// suits returns an error if the version cannot go on with this log and these options.
func (r *run) suits(a *about, partitions int, id store.ID) error {
	const cure = "(if this log is a copy of that one, Adopt proves it and goes on; else give the projection a new Version, or Reset or Remove this one)"
	switch {
	case a.partitions != partitions || r.otherLog(a, id) && !r.adopts:
		return fmt.Errorf("%w: %w: its notes name log %v with %d partitions, and this is log %v with %d partitions %s",
			store.ErrInvalid, ErrOtherLog, a.log, a.partitions, id, partitions, cure)
	case a.segments != r.segments:
		return fmt.Errorf("%w: the version has %d segments, not %d (another Parallelism needs a new Version, or a Reset)",
			store.ErrInvalid, a.segments, r.segments)
	}
	return nil
}

// otherLog reports whether the notes name another log than the log with this id.
func (r *run) otherLog(a *about, id store.ID) bool {
	return !a.log.IsZero() && !id.IsZero() && a.log != id
}

// prove returns an error matching [ErrOtherLog] unless the log has, at the position of each
// segment, the event that the segment's note names.
func (r *run) prove(ctx context.Context, segments map[segmentID]segmentNote) error {
	for segment, l := range segments {
		proof := stream.Proof{Position: l.Position, Event: l.At}
		proved, err := proof.Check(ctx, r.log)
		switch {
		case errors.Is(err, ErrReplaced):
			return fmt.Errorf("%w: %w: segment %v: %w", store.ErrInvalid, ErrOtherLog, segment, err)
		case err != nil:
			return err
		case !proved:
			return fmt.Errorf("%w: %w: segment %v is at %v, and its note does not name the event there, so it cannot be compared "+
				"(give the projection a new Version, or Reset this one)", store.ErrInvalid, ErrOtherLog, segment, l.Position)
		}
	}
	return nil
}

func (r *run) saysAdopted() {
	r.logger.Info("projection goes on with another log, which has the same events", "projection", r.name, "version", r.version)
}

// verify checks that the positions of a version belong to this log, that no event was deleted
// that the version has yet to handle, and that the rules select the events that built the
// version. If the rules select more, verify also returns the result of a search through the log
// for such events; otherwise nil.
func (r *run) verify(ctx context.Context, f *found, heads []store.Position) (*scanned, error) {
	for id, n := range f.segments {
		proof := stream.Proof{Position: n.Position, Event: n.At}
		if _, err := proof.Check(ctx, r.log); errors.Is(err, ErrReplaced) {
			return nil, fmt.Errorf("%w: segment %v: %w: the read model has events that the log lacks "+
				"(give the projection a new Version, Reset this one, or restore the read model to the time of the log)", store.ErrInvalid, id, err)
		} else if errors.Is(err, store.ErrCorrupt) {
			// The version has handled this event, which is damaged now: nothing proves the
			// position.
			if known, failure := r.skips(ctx, n.Position); failure != nil || !known {
				return nil, cmp.Or(failure, atDamage(n.Position, err))
			}
		} else if err != nil {
			return nil, err
		}
	}
	if err := r.undeleted(ctx, &f.about, f.segments); err != nil {
		return nil, err
	}
	have := f.about.selection
	if have == nil || have.same(r.plan.selection) {
		return nil, nil
	}
	if left, ok := r.plan.selection.covers(have); !ok {
		err := fmt.Errorf("%w: another program keeps the read model and also selects %s, which this program would leave out; this one stands by "+
			"(to go on without, give the projection a new Version, or Reset this one)", ErrSelection, left)
		if _, older := have.covers(r.plan.selection); older {
			return nil, fmt.Errorf("%w: %w", errOlder, err)
		}
		return nil, fmt.Errorf("%w: %w", store.ErrInvalid, err)
	}
	return r.lookThrough(ctx, have, f.segments, heads)
}

// A scanned is the result of a search through the log for rules that select more events.
type scanned struct {
	// through is the last position of the search in each partition.
	through []store.Position
	// first is the first event of a segment that was not selected before. A segment without such an
	// event is missing.
	first map[segmentID]store.Position
}

// passed reports whether a segment at a position may have passed over an event that the rules now
// select.
func (s *scanned) passed(id segmentID, at store.Position) bool {
	first, ok := s.first[id]
	return at > s.through[id.partition] || ok && at >= first
}

// errOlder marks the error of a runner whose version belongs to a program that selects more
// events.
var errOlder = errors.New("version is kept by another program")

// lookThrough searches the part of the log that the version has already passed. It returns an
// error if there is an event that the rules select and that the version's selection does not. The
// search goes beyond the positions of the version, because a runner with the former rules may go
// on at the same time.
func (r *run) lookThrough(ctx context.Context, have *selection, segments map[segmentID]segmentNote, heads []store.Position) (*scanned, error) {
	s := &scanned{first: make(map[segmentID]store.Position)}
	for p, head := range heads {
		least := false
		for id, n := range segments {
			least = least || id.partition == p && n.Position.Sequence() > 0
		}
		if !least {
			s.through = append(s.through, store.NewPosition(p, 0))
			continue
		}
		s.through = append(s.through, head)
		q := r.plan.selection.query(have)
		q.After, q.Through = store.NewPosition(p, 0), head
		for e, err := range r.scanBeside(ctx, q) {
			if err != nil {
				return nil, fmt.Errorf("look for events that were not selected before: %w", err)
			}
			id := segmentID{p, projector.SegmentOf(e.Key, r.segments)}
			if _, known := s.first[id]; known || have.match(e) {
				continue
			}
			if n, ok := segments[id]; ok && e.Position <= n.Position {
				return nil, fmt.Errorf("%w: %w: the version has passed events that its rules now select, the first is a %s of %v at %v "+
					"(give the projection a new Version, or Reset this one)", store.ErrInvalid, ErrSelection, e.Type, e.Key, e.Position)
			}
			s.first[id] = e.Position
		}
	}
	return s, nil
}

func (r *run) aboutKey() string { return versionPrefix(r.name, r.version) + "about" }

// openVersion makes the version that want describes, or changes the version that was found to fit
// want. copied says that the version goes on with a copy of its log.
func (r *run) openVersion(ctx context.Context, t txn, f *found, want *about, looked *scanned, copied bool) error {
	b, err := t.note(ctx, r.aboutKey())
	switch {
	case err != nil:
		return err
	case !bytes.Equal(b, f.note):
		return errAgain
	case b == nil:
		return r.makeVersion(ctx, t, want)
	}
	next := encodeAbout(*want)
	if bytes.Equal(next, b) {
		return nil
	}
	if looked != nil || copied {
		// From here on no runner with the other rules, or on the other log, can change a note.
		segments, err := r.runner.hold(ctx, t, r.version)
		if err != nil {
			return err
		}
		for id, n := range segments {
			switch {
			case looked != nil && looked.passed(id, n.Position):
				return errAgain // it may have passed over an event that these rules select
			case copied && n.Position != f.segments[id].Position:
				return errAgain // only the former position was proved
			}
			n.Revision++
			n.Writer, n.process, n.time = r.self, r.process, r.now()
			if err := t.setNote(ctx, keysOf(r.name, r.version, id).segment, encodeSegment(&n)); err != nil {
				return err
			}
		}
	}
	return t.setNote(ctx, r.aboutKey(), next)
}

// makeVersion writes the notes of a new version and runs Prepare.
func (r *run) makeVersion(ctx context.Context, t txn, want *about) error {
	rules := context.WithValue(ctx, infoKey{}, info{version: r.version, replaying: true})
	if err := t.prepareVersion(rules); err != nil {
		return fmt.Errorf("run the Prepare rule: %w", err)
	}
	serving, err := t.note(ctx, servingKey(r.name))
	if err != nil {
		return err
	}
	segments := make(map[segmentID]segmentNote)
	for p := range want.partitions {
		for i := range want.segments {
			n := segmentNote{process: r.process, time: want.began}
			n.Position, n.Writer, n.Revision = store.NewPosition(p, 0), r.self, 1
			n.SetEffects(projector.AllEffectsAfter(n.Position))
			if serving != nil {
				n.SetEffects(projector.NoEffects(p))
			}
			segments[segmentID{p, i}] = n
		}
	}
	if serving == nil {
		if err := t.setNote(ctx, servingKey(r.name), encodeServing(r.version, want.began)); err != nil {
			return err
		}
		if err := r.succeed(ctx, t, want, segments); err != nil {
			return err
		}
	}
	for id, n := range segments {
		if err := t.setNote(ctx, keysOf(r.name, r.version, id).segment, encodeSegment(&n)); err != nil {
			return err
		}
	}
	return t.setNote(ctx, r.aboutKey(), encodeAbout(*want))
}

// succeed makes a version take over from the version that served last and was removed: the events
// that the former version has handled have had their effects.
func (r *run) succeed(ctx context.Context, t txn, want *about, segments map[segmentID]segmentNote) error {
	b, err := t.note(ctx, donePrefix(r.name)+"about")
	if err != nil || b == nil {
		return err
	}
	before, err := decodeAbout(b)
	if err != nil {
		return err
	}
	done, err := segmentsUnder(ctx, t, donePrefix(r.name))
	if err != nil {
		return err
	}
	if before.partitions == want.partitions && (before.log.IsZero() || want.log.IsZero() || before.log == want.log) {
		for id, n := range segments {
			n.SetEffects(projector.NoEffects(id.partition))
			segments[id] = n
		}
		if _, _, err := handOver(done, segments, nil); err != nil {
			return err
		}
	}
	return removeNotes(ctx, t, donePrefix(r.name))
}

// handOver gives the effects that a version owns to another version, as [projector.HandOver] does
// for a partition. It returns the segments that have changed. If heads are given, no event above a
// head counts as done.
func handOver(from, to map[segmentID]segmentNote, heads []store.Position) (gave, took map[segmentID]bool, err error) {
	gave, took = make(map[segmentID]bool), make(map[segmentID]bool)
	for p := range partitionsOf(from, to) {
		a, b := statesOf(from, p), statesOf(to, p)
		if heads != nil {
			for i := range a {
				a[i].SetEffects(a[i].Effects().Clamp(heads[p]))
				a[i].Position = min(a[i].Position, heads[p])
			}
		}
		aChanged, bChanged, err := projector.HandOver(a, b, -1, store.LastPosition(p))
		if err != nil {
			return nil, nil, fmt.Errorf("hand effects over in partition %d: %w", p, err)
		}
		for i := range a {
			id := segmentID{p, i}
			n := from[id]
			n.EffectsAfter, n.EffectEdges = a[i].EffectsAfter, a[i].EffectEdges
			from[id], gave[id] = n, aChanged[i]
		}
		for i := range b {
			id := segmentID{p, i}
			n := to[id]
			n.EffectsAfter, n.EffectEdges = b[i].EffectsAfter, b[i].EffectEdges
			to[id], took[id] = n, bChanged[i]
		}
	}
	return gave, took, nil
}

// partitionsOf returns the partitions in which both versions have segments.
func partitionsOf(a, b map[segmentID]segmentNote) map[int]bool {
	both := make(map[int]bool)
	for id := range a {
		if _, ok := b[segmentID{id.partition, 0}]; ok {
			both[id.partition] = true
		}
	}
	return both
}

// statesOf returns the states of the segments of a partition, in order.
func statesOf(segments map[segmentID]segmentNote, partition int) (states []projector.State) {
	for i := 0; ; i++ {
		n, ok := segments[segmentID{partition, i}]
		if !ok {
			return states
		}
		states = append(states, n.State)
	}
}

// deletions returns the positions up to which events that the rules select have been deleted, one
// for each partition with deletions.
func (r *run) deletions(ctx context.Context) ([]store.Position, error) {
	all, err := r.log.Deleted(ctx)
	if errors.Is(err, errors.ErrUnsupported) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look for deleted events: %w", err)
	}
	var through []store.Position
	for _, m := range all {
		if len(r.plan.query.Kinds) > 0 && !slices.Contains(r.plan.query.Kinds, m.Kind) {
			continue
		}
		i, found := slices.BinarySearchFunc(through, m.Through, func(a, b store.Position) int { return a.Partition() - b.Partition() })
		if !found {
			through = slices.Insert(through, i, m.Through)
		} else {
			through[i] = max(through[i], m.Through)
		}
	}
	return through, nil
}

// undeleted returns an error matching [ErrDeleted] if events above the position of a segment may
// have been deleted since the version began.
func (r *run) undeleted(ctx context.Context, a *about, segments map[segmentID]segmentNote) error {
	through, err := r.deletions(ctx)
	if err != nil {
		return err
	}
	for _, d := range through {
		for id, n := range segments {
			if id.partition == d.Partition() && d > n.Position && d > a.missing(d.Partition()) {
				return fmt.Errorf("%w: %w: the version is at %v, and events through %v may be missing "+
					"(give the projection a new Version, or Reset this one to begin with the events that are left)", store.ErrInvalid, ErrDeleted, n.Position, d)
			}
		}
	}
	return nil
}

// instanceID names the registration of the read model in the log.
func (r *run) instanceID(a *about) string {
	if r.back.volatile() {
		return "volatile"
	}
	return hex.EncodeToString(a.instance[:]) + "." + strconv.FormatUint(a.resets, 10)
}
