package projection

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/perdure/perdure"
	"github.com/perdure/perdure/internal/project"
	"github.com/perdure/perdure/store"
)

// ErrStopped says that a projection has stopped, so that waiting for it is of no
// use. The error says why.
var ErrStopped = errors.New("projection has stopped")

// WaitFor waits until the read model shows what the caller of a command has
// done: read your writes. The receipt is what [perdure.Ref.Do] returns. See
// [Runner.AtLeast].
func WaitFor(ctx context.Context, r *Runner, receipt perdure.Receipt) error {
	return r.AtLeast(ctx, receipt.Position)
}

// AtLeast waits until everything that the projection wants at or below a
// position, in its partition, is in the read model, but for what is missing of
// parked entities. A position travels as text, such as in a header of HTTP, by
// [store.Position.String] and [store.ParsePosition]; a position with sequence 0
// is reached always.
//
// A version that readers do not use goes behind the one that they use, and waiting
// for it waits for both; but if that one has stood still for a second, such as
// because its program is gone, this one does its work, effects and all.
//
// Where the runner is run, it is woken; elsewhere it looks at the notes every
// [PollDefault]. It returns an error matching [ErrStopped] if the runner has
// stopped, and the context's error if that ends first.
func (r *Runner) AtLeast(ctx context.Context, p store.Position) error {
	if err := r.check(); err != nil {
		return err
	}
	if p.Sequence() == 0 {
		return nil
	}
	for {
		n, attached := r.activeOr()
		if n == nil {
			done, err := r.noted(ctx, p)
			if done || err != nil {
				return r.wrap("wait for", err)
			}
			timer := time.NewTimer(PollDefault)
			select {
			case <-attached:
			case <-timer.C:
			case <-ctx.Done():
			}
			timer.Stop()
			if err := ctx.Err(); err != nil {
				return r.wrap("wait for", err)
			}
			continue
		}
		done, err := n.await(ctx, p)
		if done || err != nil {
			return r.wrap("wait for", err)
		}
	}
}

// noted reports whether the notes say that a position is reached.
func (r *Runner) noted(ctx context.Context, p store.Position) (bool, error) {
	reached := false
	err := r.back.view(ctx, func(t txn) error {
		lanes, err := laneNotes(ctx, t, r.name, r.version)
		if err != nil {
			return err
		}
		reached = false
		for id, n := range lanes {
			if id.partition != p.Partition() {
				continue
			}
			if reached = n.Position >= p; !reached {
				break
			}
		}
		return nil
	})
	return reached, err
}

// await waits for a position. It returns false without an error if the run has
// ended meanwhile.
func (r *run) await(ctx context.Context, p store.Position) (bool, error) {
	r.waiting.Add(1)
	defer r.waiting.Add(-1)
	begun, told := r.moves(p), make(map[*lane]bool)
	for first := true; ; first = false {
		r.mu.Lock()
		if r.changed == nil {
			r.changed = make(chan struct{})
		}
		changed := r.changed
		err, standby := r.err, r.superseded
		if !r.failed && !(standby && r.config.once) {
			err = nil
		}
		r.mu.Unlock()
		done := false
		if err == nil && !standby {
			done, standby, err = r.reached(p)
		}
		if err != nil {
			return false, fmt.Errorf("%w: %w", ErrStopped, err)
		}
		poll := standby
		if done {
			if done, poll = r.confirm(ctx, p, begun); done {
				return true, nil
			}
		}
		if first {
			for _, l := range r.list() {
				l.signal() // it may have gone to sleep before it knew that somebody waits
			}
		}
		for _, l := range r.lanesOf(p) {
			if !told[l] {
				told[l] = true
				l.input(func(c *project.Lane) { c.Demand(p) })
			}
		}
		if standby { // another process is at work, which tells nobody here
			if done, err := r.runner.noted(ctx, p); done || err != nil {
				return done, err
			}
		}
		if poll {
			timer := make(chan struct{})
			stop := r.config.Clock.AfterFunc(r.config.Poll, func() { close(timer) })
			r.pass(ctx, changed, timer)
			stop()
		} else {
			r.pass(ctx, changed, nil)
		}
		select {
		case <-r.ended:
			return false, nil
		default:
		}
		if err := ctx.Err(); err != nil {
			return false, err
		}
	}
}

// moves returns how often each lane of the partition of a position has read or
// written its note.
func (r *run) moves(p store.Position) map[*lane]uint64 {
	counts := make(map[*lane]uint64)
	for _, l := range r.lanesOf(p) {
		l.mu.Lock()
		counts[l] = l.moves
		l.mu.Unlock()
	}
	return counts
}

func (r *run) lanesOf(p store.Position) []*lane {
	r.mu.Lock()
	defer r.mu.Unlock()
	if p.Partition() < len(r.readers) {
		return r.readers[p.Partition()].lanes
	}
	return nil
}

// confirm reports whether the read model is still what the lanes know of it: all of
// them have read or written their notes since the caller has begun to wait, or the
// version has not been reset, by another process. If that cannot be found out, the
// caller had better ask again.
func (r *run) confirm(ctx context.Context, p store.Position, begun map[*lane]uint64) (ok, again bool) {
	known := true
	for _, l := range r.lanesOf(p) {
		l.mu.Lock()
		before, there := begun[l]
		known = known && there && l.moves > before
		l.mu.Unlock()
	}
	if known {
		return true, false
	}
	gone := false
	err := r.back.view(ctx, func(t txn) error {
		b, err := t.note(ctx, r.aboutKey())
		if err != nil {
			return err
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		gone = r.again == nil || !bytes.Equal(b, r.note)
		return nil
	})
	if err != nil {
		return false, true
	}
	if gone {
		for _, l := range r.list() {
			l.input((*project.Lane).Reload)
		}
		return false, true
	}
	return true, false
}

// pass waits for one of the signals, or the end.
func (r *run) pass(ctx context.Context, changed, timer <-chan struct{}) {
	select {
	case <-changed:
	case <-timer:
	case <-r.ended:
	case <-ctx.Done():
	}
}

// reached reports whether the lanes of a partition have covered a position, and
// if not, whether it is for others to do that.
func (r *run) reached(p store.Position) (done, standby bool, err error) {
	r.mu.Lock()
	readers := r.readers
	r.mu.Unlock()
	if len(readers) == 0 {
		return false, false, nil
	}
	if p.Partition() >= len(readers) {
		return false, false, fmt.Errorf("%w: position %v: the log has %d partitions", store.ErrInvalid, p, len(readers))
	}
	done = true
	for _, l := range readers[p.Partition()].lanes {
		l.mu.Lock()
		phase, failure := l.core.Phase()
		state, loaded := l.core.State()
		loaded = loaded && !l.core.Stale()
		covered := l.core.Covered()
		if r.config.once {
			covered = state.Position
		}
		l.mu.Unlock()
		if loaded && covered >= p && !errors.Is(failure, project.ErrRemoved) {
			continue // also if it has stopped at what comes later
		}
		done = false
		switch phase {
		case project.Stopped:
			return false, false, failure
		case project.Standby:
			standby = true
		}
	}
	return done, standby, nil
}
