package projection

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/perdure/perdure"
	"github.com/perdure/perdure/internal/core/projector"
	"github.com/perdure/perdure/store"
)

// ErrStopped says that a projection has stopped, so that waiting for it is of no use. The error
// gives the reason.
var ErrStopped = errors.New("runner has stopped")

// WaitFor waits until the read model shows the result of a command, so that its caller can read
// its own writes. The receipt is the result of [perdure.Ref.Do]. See [Runner.AtLeast].
func WaitFor(ctx context.Context, r *Runner, receipt perdure.Receipt) error {
	return r.AtLeast(ctx, receipt.Position)
}

// AtLeast waits until the read model has everything that the projection selects at or below a
// position, in the partition of that position. Events that parked entities miss are the
// exception. A position can be sent as text, such as in an HTTP header, by
// [store.Position.String] and [store.ParsePosition]. A position with sequence 0 is always
// reached.
//
// A version that readers do not use stays behind the version that they use, so AtLeast waits for
// both. If the version that serves has stood still for a second, for example because its program
// has ended, this version does its work, effects included.
//
// If the runner runs in this process, it wakes AtLeast; otherwise AtLeast reads the notes every
// 50 milliseconds. It returns an error matching [ErrStopped] if the runner has stopped, and the
// context's error if that ends first.
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
			timer := time.NewTimer(pollStandard)
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

// noted reports whether the positions in the notes have reached a position.
func (r *Runner) noted(ctx context.Context, p store.Position) (bool, error) {
	reached := false
	err := r.back.view(ctx, func(t txn) error {
		segments, err := segmentNotes(ctx, t, r.name, r.version)
		if err != nil {
			return err
		}
		reached = false
		for id, n := range segments {
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

// await waits for a position. It returns false without an error if the run ends first.
func (r *run) await(ctx context.Context, p store.Position) (bool, error) {
	r.waiting.Add(1)
	defer r.waiting.Add(-1)
	begun, told := r.moves(p), make(map[*segment]bool)
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
				l.signal() // it may have gone to sleep before it could see the waiting caller
			}
		}
		for _, l := range r.segmentsOf(p) {
			if !told[l] {
				told[l] = true
				l.input(func(c *projector.Segment) { c.Demand(p) })
			}
		}
		if standby { // another process does the work, and sends no signal here
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

// moves returns, for each segment of the partition of a position, how often it has read or written
// its note.
func (r *run) moves(p store.Position) map[*segment]uint64 {
	counts := make(map[*segment]uint64)
	for _, l := range r.segmentsOf(p) {
		l.mu.Lock()
		counts[l] = l.moves
		l.mu.Unlock()
	}
	return counts
}

func (r *run) segmentsOf(p store.Position) []*segment {
	r.mu.Lock()
	defer r.mu.Unlock()
	if p.Partition() < len(r.readers) {
		return r.readers[p.Partition()].segments
	}
	return nil
}

// confirm reports whether the read model is still as the segments know it: all of them have read or
// written their notes since the caller began to wait, or no other process has reset the version.
// If confirm cannot find that out, again tells the caller to ask again.
func (r *run) confirm(ctx context.Context, p store.Position, begun map[*segment]uint64) (ok, again bool) {
	known := true
	for _, l := range r.segmentsOf(p) {
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
			l.input((*projector.Segment).Reload)
		}
		return false, true
	}
	return true, false
}

// pass waits for one of the signals, or for the end.
func (r *run) pass(ctx context.Context, changed, timer <-chan struct{}) {
	select {
	case <-changed:
	case <-timer:
	case <-r.ended:
	case <-ctx.Done():
	}
}

// reached reports whether the segments of a partition have covered a position, and if not, whether
// other processes do that work.
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
	for _, l := range readers[p.Partition()].segments {
		l.mu.Lock()
		phase, failure := l.core.Phase()
		state, loaded := l.core.State()
		loaded = loaded && !l.core.Stale()
		covered := l.core.Covered()
		if r.config.once {
			covered = state.Position
		}
		l.mu.Unlock()
		if loaded && covered >= p && !errors.Is(failure, projector.ErrRemoved) {
			continue // also if it has stopped at a later event
		}
		done = false
		switch phase {
		case projector.Stopped:
			return false, false, failure
		case projector.Standby:
			standby = true
		}
	}
	return done, standby, nil
}
