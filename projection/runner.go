package projection

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"sync"
	"time"

	"github.com/perdure/perdure/internal/core/projector"
	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/stream"
)

// The errors of a [Runner] that callers can test for.
var (
	// ErrNotRunning: the call needs a runner that runs in this process.
	ErrNotRunning = errors.New("projection is not running here")
	// ErrRunning: the runner runs already.
	ErrRunning = errors.New("projection is running already")
	// ErrServing: readers use this version.
	ErrServing = errors.New("version serves readers")
	// ErrNotParked: the entity is not parked.
	ErrNotParked = projector.ErrNotParked
	// ErrRemoved: the version has been removed.
	ErrRemoved = projector.ErrRemoved
)

// A Runner is one version of a projection with its target. Make it by [Projection.Into]. Many
// goroutines may call its methods at once. Most methods also work where the runner does not run:
// they use the notes in the target then.
type Runner struct {
	*settings

	back backend

	mu       sync.Mutex
	run      *run          // nil if it is not running here
	attached chan struct{} // closed once the runner runs here
}

func newRunner(s *settings, b backend) *Runner {
	return &Runner{settings: s, back: b, attached: make(chan struct{})}
}

// Name returns the name of the projection.
func (r *Runner) Name() string { return r.name }

// Version returns the version of the runner's projection.
func (r *Runner) Version() int { return r.version }

func (r *Runner) attach(n *run) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.run != nil {
		return fmt.Errorf("projection %q version %d: %w", r.name, r.version, ErrRunning)
	}
	r.run = n
	close(r.attached)
	return nil
}

func (r *Runner) detach(n *run) {
	r.mu.Lock()
	if r.run == n {
		r.run, r.attached = nil, make(chan struct{})
	}
	r.mu.Unlock()
	n.progress()
}

// active returns the run, or nil.
func (r *Runner) active() *run {
	n, _ := r.activeOr()
	return n
}

// activeOr returns the run, or nil and a channel that is closed once there is a run.
func (r *Runner) activeOr() (*run, <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.run, r.attached
}

func (r *Runner) wrap(doing string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s projection %q version %d: %w", doing, r.name, r.version, err)
}

// check returns an error that lists the mistakes in the declaration of the projection.
func (r *Runner) check() error { return r.settings.err() }

// running returns the run, or an error matching ErrNotRunning.
func (r *Runner) running() (*run, error) {
	if err := r.check(); err != nil {
		return nil, err
	}
	if n := r.active(); n != nil {
		return n, nil
	}
	return nil, ErrNotRunning
}

// Pause makes the runner handle no more events after its current batches, until [Runner.Resume]
// or the end of the process.
func (r *Runner) Pause() error {
	n, err := r.running()
	if err != nil {
		return r.wrap("pause", err)
	}
	n.mu.Lock()
	if n.resumed == nil {
		n.resumed = make(chan struct{})
	}
	n.mu.Unlock()
	for _, l := range n.list() {
		l.signal()
	}
	return nil
}

// Resume ends a [Runner.Pause], and makes a runner that has stopped try again.
func (r *Runner) Resume() error {
	n, err := r.running()
	if err != nil {
		return r.wrap("resume", err)
	}
	n.mu.Lock()
	if n.resumed != nil {
		close(n.resumed)
		n.resumed = nil
	}
	n.mu.Unlock()
	select {
	case n.retry <- struct{}{}:
	default:
	}
	for _, l := range n.list() {
		l.input((*projector.Segment).Resume)
	}
	return nil
}

// reload makes the segments read their notes again.
func (r *run) reload() {
	for _, l := range r.list() {
		l.input(func(c *projector.Segment) {
			c.Resume()
			c.Reload()
		})
	}
}

// Switch makes readers use this version from their next query on. In the same transaction this
// version takes over from the old one the effects of all events that the old one has yet to
// handle, see [Replaying]. So each effect is done once, by one of the two versions, whichever is
// further ahead, and whether or not the old one still runs. As long as the old version runs, it
// goes on, so that switching back is as quick. Remove it by [Runner.Remove]. If readers use this
// version already, Switch does nothing. Switch does not check whether the version has caught up;
// see [Runner.Status] and [SwitchWhenLive].
func (r *Runner) Switch(ctx context.Context) error {
	if err := r.check(); err != nil {
		return r.wrap("switch to", err)
	}
	now := time.Now()
	var self store.ID
	process := processText()
	n := r.active()
	if n != nil {
		now, self = n.now(), n.self
	}
	err := r.back.update(ctx, func(t txn) error { return r.switchIn(ctx, t, now, self, process) })
	if err == nil && n != nil {
		n.reload()
	}
	return r.wrap("switch to", err)
}

func (r *Runner) switchIn(ctx context.Context, t txn, now time.Time, self store.ID, process string) error {
	old, err := servingOf(ctx, t, r.name)
	if err != nil || old == r.version {
		return err
	}
	mine, err := r.hold(ctx, t, r.version)
	if err != nil {
		return err
	}
	if len(mine) == 0 {
		return fmt.Errorf("%w: it has not begun", store.ErrNotFound)
	}
	var others map[segmentID]segmentNote
	if old != 0 {
		if others, err = r.hold(ctx, t, old); err != nil {
			return err
		}
	}
	if _, _, err := handOver(others, mine, nil); err != nil {
		return err
	}
	for id, n := range mine {
		if !n.Effects().OwnsFuture() { // the old version has no such partition, or no notes
			n.SetEffects(projector.AllEffectsAfter(n.Position))
			mine[id] = n
		}
	}
	// The notes of both versions get a new revision, so a transaction in progress that read which
	// version served before cannot commit.
	for _, v := range []struct {
		version  int
		segments map[segmentID]segmentNote
	}{{r.version, mine}, {old, others}} {
		for id, n := range v.segments {
			n.Revision++
			n.Writer, n.process, n.time = self, process, now
			if err := t.setNote(ctx, keysOf(r.name, v.version, id).segment, encodeSegment(&n)); err != nil {
				return err
			}
		}
	}
	return t.setNote(ctx, servingKey(r.name), encodeServing(r.version, now))
}

// hold reads the notes of all segments of a version, and keeps other transactions from changing
// them until this one ends.
func (r *Runner) hold(ctx context.Context, t txn, version int) (map[segmentID]segmentNote, error) {
	segments, err := segmentNotes(ctx, t, r.name, version)
	if err != nil {
		return nil, err
	}
	for id := range segments {
		if segments[id], err = readSegment(ctx, t, keysOf(r.name, version, id).segment, id.partition); err != nil {
			return nil, err
		}
	}
	return segments, nil
}

// Reset builds the version again from the start of the log: [Clear] and [Prepare] run in one
// transaction with the new positions. Events that the version has handled before count as
// replayed, see [Replaying], and so do the events that its parked entities miss. The runner must
// be running, so that the log is known. It may have stopped, for example because its notes name
// another log or other rules: a reset replaces these by the log and the rules of the runner.
func (r *Runner) Reset(ctx context.Context) error { return r.ResetAfter(ctx, nil) }

// ResetAfter is like [Runner.Reset], but leaves out the events at and below the given positions,
// at most one for each partition and none above the head of the log. Partitions without a position
// begin at their start.
func (r *Runner) ResetAfter(ctx context.Context, positions []store.Position) error {
	n, err := r.running()
	if err == nil && !r.clears {
		err = errNoClear
	}
	if err == nil {
		err = n.reset(ctx, positions)
	}
	return r.wrap("reset", err)
}

// errNoClear refuses a reset or a removal.
var errNoClear = fmt.Errorf("%w: it has no Clear rule (add one that removes the rows of a version)", errors.ErrUnsupported)

// found returns the notes of the version, or an error if it has none.
func (r *run) found(ctx context.Context) (f found, err error) {
	if f, err = r.look(ctx); err == nil && f.note == nil {
		err = fmt.Errorf("%w: it has not begun", store.ErrNotFound)
	}
	return f, err
}

func (r *run) reset(ctx context.Context, after []store.Position) error {
	heads, id, err := r.identify(ctx)
	if err != nil {
		return err
	}
	from := make([]store.Position, len(heads))
	for p := range from {
		from[p] = store.NewPosition(p, 0)
	}
	given := make([]bool, len(heads))
	for _, p := range after {
		switch {
		case p.Partition() >= len(heads):
			return fmt.Errorf("%w: position %v: the log has %d partitions", store.ErrInvalid, p, len(heads))
		case given[p.Partition()]:
			return fmt.Errorf("%w: position %v is the second of its partition (give one)", store.ErrInvalid, p)
		case p > heads[p.Partition()]:
			return fmt.Errorf("%w: position %v is above the head of the log, %v (it would leave out events to come)",
				store.ErrInvalid, p, heads[p.Partition()])
		}
		given[p.Partition()] = true
		from[p.Partition()] = p
	}
	for range beginTriesMax {
		f, err := r.found(ctx)
		if err != nil {
			return err
		}
		if err = r.resetFrom(ctx, &f, from, heads, id); !errors.Is(err, errAgain) {
			r.reload()
			r.restart()
			return err
		}
	}
	return errAgain
}

// resetFrom resets the version that was found to positions.
func (r *run) resetFrom(ctx context.Context, f *found, from, heads []store.Position, id store.ID) error {
	want := f.about
	want.segments, want.partitions, want.log, want.selection = r.segments, len(heads), id, r.plan.selection
	want.resets++
	if want.instance.IsZero() {
		want.instance = r.fresh
	}
	var err error
	if want.deleted, err = r.deletions(ctx); err != nil {
		return err
	}
	ids := make([]store.ID, len(from))
	for p := range from {
		proof, err := stream.ProofAt(ctx, r.log, from[p])
		if err != nil {
			return err
		}
		ids[p] = proof.Event
	}
	// Before the notes change, the log is made to keep the events that the reset version reads
	// again. It keeps the events of the old notes too until the result of the reset is known.
	release, err := r.reserve(ctx, &want, from)
	if err != nil {
		return err
	}
	err = contained(func() error {
		return r.back.update(ctx, func(t txn) error { return r.resetIn(ctx, t, f, &want, from, ids, heads) })
	})
	release()
	return err
}

// resetIn does a reset in its transaction.
func (r *run) resetIn(ctx context.Context, t txn, f *found, want *about, from []store.Position, ids []store.ID, heads []store.Position) error {
	b, err := t.note(ctx, r.aboutKey())
	if err != nil {
		return err
	}
	if !bytes.Equal(b, f.note) {
		return errAgain
	}
	before, err := r.runner.hold(ctx, t, r.version)
	if err != nil {
		return err
	}
	rules := context.WithValue(ctx, infoKey{}, info{version: r.version, replaying: true})
	if err := t.clearVersion(rules); err != nil {
		return fmt.Errorf("clear: %w", err)
	}
	if err := t.prepareVersion(rules); err != nil {
		return fmt.Errorf("prepare: %w", err)
	}
	revision := uint64(0)
	for _, l := range before {
		revision = max(revision, l.Revision)
	}
	segments := make(map[segmentID]segmentNote)
	for p := range want.partitions {
		for i := range want.segments {
			l := segmentNote{process: r.process, time: r.now()}
			l.Position, l.Revision, l.Writer = store.NewPosition(p, 0), revision+1, r.self
			l.SetEffects(projector.NoEffects(p))
			segments[segmentID{p, i}] = l
		}
	}
	// The version must still do the effects that it had yet to do, and no others.
	clamp := heads
	if len(heads) != f.about.partitions {
		clamp = nil
	}
	serving, err := servingOf(ctx, t, r.name)
	if err != nil {
		return err
	}
	if _, _, err := handOver(before, segments, clamp); err != nil {
		return err
	}
	for id, l := range segments {
		if serving == r.version && !l.Effects().OwnsFuture() {
			l.SetEffects(projector.AllEffectsAfter(l.Position))
		}
		l.Position, l.At = from[id.partition], ids[id.partition]
		segments[id] = l
	}
	if err := removeNotes(ctx, t, versionPrefix(r.name, r.version)); err != nil {
		return err
	}
	for id, l := range segments {
		if err := t.setNote(ctx, keysOf(r.name, r.version, id).segment, encodeSegment(&l)); err != nil {
			return err
		}
	}
	return t.setNote(ctx, r.aboutKey(), encodeAbout(*want))
}

// Adopt lets a version whose notes name another log go on with the log that the runner reads. That
// log must be a copy, as Copy of package store/admin and `perdure copy` make it: the events at all
// positions of the version are the same. If they differ, or if the notes do not name the events,
// Adopt changes nothing and returns an error that matches [ErrOtherLog]. Without Adopt, or
// [AdoptCopies], the runner stops if the log is not the one that its notes name.
func (r *Runner) Adopt(ctx context.Context) error {
	n, err := r.running()
	if err == nil {
		err = n.adopt(ctx)
	}
	return r.wrap("adopt the log for", err)
}

func (r *run) adopt(ctx context.Context) error {
	heads, id, err := r.identify(ctx)
	if err != nil {
		return err
	}
	f, err := r.found(ctx)
	if err != nil {
		return err
	}
	if f.about.partitions != len(heads) {
		return fmt.Errorf("%w: %w: that log has %d partitions, this one has %d", store.ErrInvalid, ErrOtherLog, f.about.partitions, len(heads))
	}
	if f.about.log == id {
		return nil
	}
	if err := r.prove(ctx, f.segments); err != nil {
		return err
	}
	want := f.about
	want.log = id
	if want.instance.IsZero() {
		want.instance = r.fresh
	}
	err = r.back.update(ctx, func(t txn) error {
		b, err := t.note(ctx, r.aboutKey())
		if err != nil {
			return err
		}
		if !bytes.Equal(b, f.note) {
			return errAgain
		}
		segments, err := r.runner.hold(ctx, t, r.version)
		if err != nil {
			return err
		}
		for segment, l := range segments {
			if l.Position != f.segments[segment].Position {
				return errAgain // a runner on the other log has moved it
			}
			l.Revision++
			l.Writer, l.process, l.time = r.self, r.process, r.now()
			if err := t.setNote(ctx, keysOf(r.name, r.version, segment).segment, encodeSegment(&l)); err != nil {
				return err
			}
		}
		return t.setNote(ctx, r.aboutKey(), encodeAbout(want))
	})
	if err == nil {
		r.saysAdopted()
		r.restart()
	}
	return err
}

// removeBatch is the number of notes that are read at once before they are removed.
const removeBatch = 256

func removeNotes(ctx context.Context, t txn, prefix string) error {
	for {
		var keys []string
		for n, err := range t.notes(ctx, prefix) {
			if err != nil {
				return err
			}
			if keys = append(keys, n.Key); len(keys) == removeBatch {
				break
			}
		}
		for _, k := range keys {
			if err := t.setNote(ctx, k, nil); err != nil {
				return err
			}
		}
		if len(keys) < removeBatch {
			return nil
		}
	}
}

// Remove removes the version: [Clear] runs, and all of its notes are removed, in one transaction;
// then its checkpoints are removed from the log. The runner stops, also in other processes. Use it
// to cancel a rebuild, or to remove an old version. If readers use the version and there is
// another one, Remove refuses with an error that matches [ErrServing]. The runner must be
// running, so that the log is known; it may have stopped. If the version runs again later, it
// begins from the start. The target keeps a note of the effects that were done, so that the next
// version does not repeat them.
func (r *Runner) Remove(ctx context.Context) error {
	n, err := r.running()
	if err == nil && !r.clears {
		err = errNoClear
	}
	if err == nil {
		err = n.remove(ctx)
	}
	return r.wrap("remove", err)
}

func (r *run) remove(ctx context.Context) error {
	f, err := r.found(ctx)
	if err != nil {
		return err
	}
	err = contained(func() error {
		return r.back.update(ctx, func(t txn) error { return r.removeIn(ctx, t, &f) })
	})
	if err != nil {
		r.reload()
		return err
	}
	r.mu.Lock()
	r.err, r.failed, r.superseded, r.removed = ErrRemoved, true, false, true
	r.mu.Unlock()
	r.reload()
	r.progress()
	return r.unregister(ctx, &f.about)
}

// removeIn does a removal in its transaction.
func (r *run) removeIn(ctx context.Context, t txn, f *found) error {
	serving, err := servingOf(ctx, t, r.name)
	if err != nil {
		return err
	}
	segments, err := r.runner.hold(ctx, t, r.version)
	if err != nil {
		return err
	}
	switch {
	case serving == r.version:
		others := false
		for o, err := range t.notes(ctx, versionsPrefix(r.name)) {
			if err != nil {
				return err
			}
			others = others || !hasPrefix(o.Key, versionPrefix(r.name, r.version))
		}
		if others {
			return ErrServing
		}
		if err := r.leave(ctx, t, f, segments); err != nil {
			return err
		}
	case serving != 0:
		if err := r.giveBack(ctx, t, serving, segments); err != nil {
			return err
		}
	}
	rules := context.WithValue(ctx, infoKey{}, info{version: r.version, replaying: true})
	if err := t.clearVersion(rules); err != nil {
		return fmt.Errorf("clear: %w", err)
	}
	return removeNotes(ctx, t, versionPrefix(r.name, r.version))
}

// leave removes the note about the serving version and stores which effects were done.
func (r *run) leave(ctx context.Context, t txn, f *found, segments map[segmentID]segmentNote) error {
	if err := t.setNote(ctx, servingKey(r.name), nil); err != nil {
		return err
	}
	prefix := donePrefix(r.name)
	if err := removeNotes(ctx, t, prefix); err != nil {
		return err
	}
	if err := t.setNote(ctx, prefix+"about", encodeAbout(about{
		segments: f.about.segments, partitions: f.about.partitions, log: f.about.log, began: f.about.began,
	})); err != nil {
		return err
	}
	for id, n := range segments {
		n.Parked, n.Dead = 0, 0
		if err := t.setNote(ctx, prefix+"lane/"+id.String(), encodeSegment(&n)); err != nil {
			return err
		}
	}
	return nil
}

// giveBack returns the effects that the version has yet to do to the version that serves.
func (r *run) giveBack(ctx context.Context, t txn, serving int, segments map[segmentID]segmentNote) error {
	others, err := r.runner.hold(ctx, t, serving)
	if err != nil {
		return err
	}
	_, took, err := handOver(segments, others, nil)
	if err != nil {
		return err
	}
	for id, n := range others {
		if !took[id] {
			continue
		}
		n.Revision++
		n.Writer, n.process, n.time = r.self, r.process, r.now()
		if err := t.setNote(ctx, keysOf(r.name, serving, id).segment, encodeSegment(&n)); err != nil {
			return err
		}
	}
	return nil
}

func hasPrefix(s, prefix string) bool { return len(s) >= len(prefix) && s[:len(prefix)] == prefix }

// A ParkedEntity is an entity whose events, from Version on, a read model misses, because a rule
// has failed at the first of them.
type ParkedEntity struct {
	Key store.Key
	// Version, Position and Type are those of the first event that the read model misses.
	Version  store.Version
	Position store.Position
	Type     string
	// Error is the error of the last attempt, Attempts the number of attempts, and Time the time
	// of the last one.
	Error    string
	Attempts int
	Time     time.Time
}

// A DeadLetter names events of an entity that a read model leaves out permanently: the one at
// Position, or all of them through Through.
type DeadLetter struct {
	Key store.Key
	// Version, Position and Type are those of the first of the events.
	Version  store.Version
	Position store.Position
	// Through is the position of the last of the events, or one above it.
	Through store.Position
	Type    string
	// Error is the error of the last attempt, and Attempts the number of attempts. Time is the
	// time at which the events were left out.
	Error    string
	Attempts int
	Time     time.Time
}

// Parked yields the entities that are parked, by partition, segment and name.
func (r *Runner) Parked(ctx context.Context) iter.Seq2[*ParkedEntity, error] {
	return listNotes(ctx, r, "parked/", func(b []byte) (*ParkedEntity, error) {
		p, err := decodeParked(b)
		return (*ParkedEntity)(p), err
	})
}

// DeadLetters yields the dead letters, by partition, segment and position.
func (r *Runner) DeadLetters(ctx context.Context) iter.Seq2[*DeadLetter, error] {
	return listNotes(ctx, r, "dead/", func(b []byte) (*DeadLetter, error) {
		d, err := decodeDead(b)
		return (*DeadLetter)(d), err
	})
}

func listNotes[N any](ctx context.Context, r *Runner, what string, decode func([]byte) (*N, error)) iter.Seq2[*N, error] {
	return func(yield func(*N, error) bool) {
		if err := r.check(); err != nil {
			yield(nil, err)
			return
		}
		var list []*N
		err := r.back.view(ctx, func(t txn) error {
			list = nil
			for n, err := range t.notes(ctx, versionPrefix(r.name, r.version)+what) {
				if err != nil {
					return err
				}
				d, err := decode(n.Value)
				if err != nil {
					return fmt.Errorf("note %s: %w", n.Key, err)
				}
				list = append(list, d)
			}
			return nil
		})
		for _, d := range list {
			if !yield(d, nil) {
				return
			}
		}
		if err != nil {
			yield(nil, r.wrap("read notes of", err))
		}
	}
}

// Retry hands a parked entity the events that it misses, in order, and unparks the entity after
// the last of them. If a rule fails again, the entity stays parked at that event and Retry
// returns the error. If the entity is not parked, the error matches [ErrNotParked]. The other
// entities go on during a retry.
func (r *Runner) Retry(ctx context.Context, key store.Key) error {
	return r.wrap("retry in", r.job(ctx, key, projector.Retry))
}

// SkipEvent leaves out the first event that a parked entity misses, permanently and with a dead
// letter. Then it does the same as [Runner.Retry].
func (r *Runner) SkipEvent(ctx context.Context, key store.Key) error {
	return r.wrap("skip in", r.job(ctx, key, projector.SkipOne))
}

// DropEvents leaves out all events that a parked entity misses, permanently and with a dead
// letter, and unparks the entity. Its rules get later events as usual.
func (r *Runner) DropEvents(ctx context.Context, key store.Key) error {
	return r.wrap("drop in", r.job(ctx, key, projector.Drop))
}

func (r *Runner) job(ctx context.Context, key store.Key, kind projector.JobKind) error {
	if err := key.Validate(); err != nil {
		return err
	}
	n, err := r.running()
	if err != nil {
		return err
	}
	n.mu.Lock()
	readers := n.readers
	n.mu.Unlock()
	if len(readers) == 0 {
		return fmt.Errorf("%v: %w", key, ErrNotParked)
	}
	rd := readers[store.PartitionOf(key, len(readers))]
	done := make(chan error, 1)
	rd.segmentOf(key).input(func(c *projector.Segment) {
		c.Do(&projector.Job{Kind: kind, Key: key, Done: func(err error) { done <- err }})
	})
	select {
	case err := <-done:
		return err
	case <-n.ended:
		return ErrNotRunning
	case <-ctx.Done():
		return ctx.Err()
	}
}
