package projection

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/perdure/perdure/internal/project"
	"github.com/perdure/perdure/store"
)

// bookmarkEvery is how often a runner moves its bookmarks in the log. They are
// never ahead of what is in the read model, and as long behind as they may be:
// they only keep the log from deleting what is yet to be read.
const bookmarkEvery = 5 * time.Second

// bookmarkName names the bookmarks of a version.
func bookmarkName(name string, version int) string {
	return fmt.Sprintf("projection/%s/v%d", name, version)
}

// setBookmarks commits bookmarks to the log, if it has any.
func (r *run) setBookmarks(ctx context.Context, marks []store.Bookmark) error {
	if _, ok := r.log.(store.Bookmarks); !ok || len(marks) == 0 {
		return nil
	}
	results, err := r.log.Commit(ctx, []*store.Batch{{Bookmarks: marks}})
	if err == nil && len(results) > 0 {
		err = results[0].Err
	}
	if errors.Is(err, errors.ErrUnsupported) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("set bookmarks: %w", err)
	}
	return nil
}

// firstBookmarks has the log keep what a version has yet to read, wherever it is.
func (r *run) firstBookmarks(ctx context.Context, heads []store.Position) error {
	var marks []store.Bookmark
	err := r.back.view(ctx, func(t txn) (err error) {
		marks, err = r.passed(ctx, t, len(heads))
		return err
	})
	if err != nil {
		return err
	}
	return r.setBookmarks(ctx, marks)
}

// passed returns what the notes say: the positions that no lane of a partition
// will want an event at or below of.
func (r *run) passed(ctx context.Context, t txn, partitions int) ([]store.Bookmark, error) {
	lanes, err := laneNotes(ctx, t, r.name, r.version)
	if err != nil {
		return nil, err
	}
	marks := make([]store.Bookmark, partitions)
	for p := range marks {
		marks[p] = store.Bookmark{Name: bookmarkName(r.name, r.version), Position: store.LastPosition(p)}
	}
	for id, n := range lanes {
		if id.partition < partitions {
			marks[id.partition].Position = min(marks[id.partition].Position, n.Position)
		}
	}
	prefix := versionPrefix(r.name, r.version) + "parked/"
	for n, err := range t.notes(ctx, prefix) {
		if err != nil {
			return nil, err
		}
		e, err := decodeParked(n.Value)
		if err != nil {
			return nil, fmt.Errorf("note %s: %w", n.Key, err)
		}
		if p := e.Position.Partition(); p < partitions {
			marks[p].Position = min(marks[p].Position, e.Position-1)
		}
	}
	for p := range marks {
		if marks[p].Position == store.LastPosition(p) {
			marks[p].Position = store.NewPosition(p, 0) // the version has not begun
		}
	}
	return marks, nil
}

// keepBookmarks moves the bookmarks from time to time.
func (r *run) keepBookmarks(ctx context.Context) {
	last := map[int]store.Position{}
	for r.sleep(ctx, bookmarkEvery, nil) {
		if !r.mayMark() {
			continue
		}
		if err := r.mark(ctx, last); err != nil && ctx.Err() == nil {
			r.logger.Warn("projection cannot set its bookmarks", "projection", r.name, "version", r.version, "error", err)
		}
	}
}

// mark moves the bookmarks that are not what they were last.
func (r *run) mark(ctx context.Context, last map[int]store.Position) error {
	var marks []store.Bookmark
	err := r.back.view(ctx, func(t txn) (err error) {
		marks, err = r.passed(ctx, t, len(r.readers))
		return err
	})
	if err != nil {
		return err
	}
	moved := marks[:0]
	for _, m := range marks {
		if last[m.Position.Partition()] != m.Position {
			moved = append(moved, m)
		}
	}
	if err := r.setBookmarks(ctx, moved); err != nil {
		return err
	}
	for _, m := range moved {
		last[m.Position.Partition()] = m.Position
	}
	return nil
}

// mayMark reports whether the runner is at work: one that stands by leaves the
// bookmarks to the other one, and one that is being reset or removed has none.
func (r *run) mayMark() bool {
	r.mu.Lock()
	changing := r.changing
	r.mu.Unlock()
	if changing {
		return false
	}
	for _, l := range r.list() {
		l.mu.Lock()
		phase, err := l.core.Phase()
		l.mu.Unlock()
		if phase == project.Standby || phase == project.Loading || errors.Is(err, project.ErrRemoved) {
			return false
		}
	}
	return true
}
