package projection

import (
	"context"
	"fmt"
	"time"

	"github.com/perdure/perdure/internal/core/projector"
	"github.com/perdure/perdure/store"
)

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
		return fmt.Errorf("%w: the version has not begun", store.ErrNotFound)
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
