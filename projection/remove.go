package projection

import (
	"context"
	"fmt"
)

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
		return fmt.Errorf("run the Clear rule: %w", err)
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

func hasPrefix(s, prefix string) bool { return len(s) >= len(prefix) && s[:len(prefix)] == prefix }
