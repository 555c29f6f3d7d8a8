package projection

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/perdure/perdure/internal/core/projector"
	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/stream"
)

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
var errNoClear = fmt.Errorf("%w: the projection has no Clear rule (add one that removes the rows of a version)", errors.ErrUnsupported)

// found returns the notes of the version, or an error if it has none.
func (r *run) found(ctx context.Context) (f found, err error) {
	if f, err = r.look(ctx); err == nil && f.note == nil {
		err = fmt.Errorf("%w: the version has not begun", store.ErrNotFound)
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
		return fmt.Errorf("run the Clear rule: %w", err)
	}
	if err := t.prepareVersion(rules); err != nil {
		return fmt.Errorf("run the Prepare rule: %w", err)
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
