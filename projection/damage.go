package projection

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"

	"github.com/perdure/perdure/internal/core/projector"
	"github.com/perdure/perdure/internal/damage"
	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/stream"
)

// DamagedMax bounds the number of damaged events that a version passes over.
const DamagedMax = 10_000

// A DamagedEvent is an event that the log cannot read, and that a version passes over because the
// operator said so, see [Runner.SkipDamaged].
type DamagedEvent struct {
	Position store.Position
	// Error is the error of the log. Time is when the version was told to pass over the event.
	Error string
	Time  time.Time
}

// SkipDamaged makes each version pass over these damaged events of the log, as
// [Runner.SkipDamaged] does for one version. It is for read models in memory, which each start
// builds again. The runner does not begin if one of the positions is wrong, such as after the log
// has been repaired.
func SkipDamaged(positions ...store.Position) Option {
	return option(func(s *settings) {
		for _, p := range positions {
			if p.Sequence() == 0 {
				s.mistake("SkipDamaged(%v) names no event (sequences begin at 1)", p)
			}
		}
		s.skips = append(s.skips, positions...)
	})
}

// SkipDamaged makes the version pass over events that the log cannot read. Without it a runner
// waits before a damaged event, tries again, and names its position in the error of its [Status].
// After SkipDamaged the rows lack the event, and the runner handles all later events. The skipped
// events are logged, and noted in the target, where [Runner.Damaged] finds them and [Status]
// counts them. Another version, or this one after a [Runner.Reset], needs its own call.
//
// SkipDamaged skips all positions or none. It returns an error matching [store.ErrInvalid] if the
// log can read one of the events or has no event there, or if the version has passed the
// position. The runner must be running, so that the log is known. For example, if the status says
// that the event at position 500 cannot be read, and no backup has it, SkipDamaged(ctx, 500)
// makes the runner go on with event 501.
func (r *Runner) SkipDamaged(ctx context.Context, positions ...store.Position) error {
	n, err := r.running()
	if err == nil {
		if err = n.skipDamaged(ctx, positions); err == nil {
			n.restart()
		}
	}
	return r.wrap("skip damaged events of", err)
}

// Damaged yields the damaged events that the version passes over, by position.
func (r *Runner) Damaged(ctx context.Context) iter.Seq2[*DamagedEvent, error] {
	return listNotes(ctx, r, "damaged/", func(b []byte) (*DamagedEvent, error) {
		d, err := decodeDead(b)
		if err != nil {
			return nil, err
		}
		return &DamagedEvent{Position: d.Position, Error: d.Error, Time: d.Time}, nil
	})
}

func (r *run) damagedPrefix() string { return versionPrefix(r.name, r.version) + "damaged/" }

func (r *run) damagedKey(p store.Position) string {
	return fmt.Sprintf("%s%04d/%016d", r.damagedPrefix(), p.Partition(), p.Sequence())
}

// skipDamaged stores notes about the events to pass over.
func (r *run) skipDamaged(ctx context.Context, positions []store.Position) error {
	heads, _, err := r.identify(ctx)
	if err != nil {
		return err
	}
	for range beginTriesMax {
		f, err := r.found(ctx)
		if err == nil {
			err = r.skipFound(ctx, &f, heads, positions)
		}
		if !errors.Is(err, errAgain) {
			return err
		}
	}
	return errAgain
}

func (r *run) skipFound(ctx context.Context, f *found, heads, positions []store.Position) error {
	lost := make(map[store.Position]error)
	for _, p := range positions {
		known, err := r.skips(ctx, p)
		if err != nil {
			return err
		}
		if known {
			continue
		}
		if lost[p], err = stream.Damaged(ctx, r.log, heads, p); err != nil {
			return err
		}
		least := store.LastPosition(p.Partition())
		for id, l := range f.segments {
			if id.partition == p.Partition() {
				least = min(least, l.Position)
			}
		}
		if p < least {
			return fmt.Errorf("%w: position %v: the version has passed it and is at %v", store.ErrInvalid, p, least)
		}
	}
	if len(lost) == 0 {
		return nil
	}
	return r.back.update(ctx, func(t txn) error {
		b, err := t.note(ctx, r.aboutKey())
		if err != nil {
			return err
		}
		if !bytes.Equal(b, f.note) {
			return errAgain
		}
		count := len(lost)
		for _, err := range t.notes(ctx, r.damagedPrefix()) {
			if err != nil {
				return err
			}
			count++
		}
		if count > DamagedMax {
			return fmt.Errorf("%w: %d damaged events, and at most %d can be passed over (restore the log, or copy it and begin with the copy)", store.ErrTooLarge, count, DamagedMax)
		}
		for p, why := range lost {
			d := &projector.DeadLetter{
				Key: store.Key{Kind: store.LostKind, ID: p.String()}, Version: 1, Position: p, Through: p,
				Error: projector.Text(why.Error(), store.DamageBytesMax), Time: r.now(),
			}
			if err := t.setNote(ctx, r.damagedKey(p), encodeDead(d)); err != nil {
				return err
			}
		}
		return nil
	})
}

// skips reports whether the version passes over the damaged event at a position.
func (r *run) skips(ctx context.Context, p store.Position) (known bool, err error) {
	err = r.back.view(ctx, func(t txn) error {
		b, err := t.note(ctx, r.damagedKey(p))
		if err == nil && b != nil {
			_, err = decodeDead(b)
		}
		known = err == nil && b != nil
		return err
	})
	return known, err
}

// atDamage returns the error of a runner that waits before a damaged event.
func atDamage(p store.Position, err error) error {
	return damage.At(p, err, "restore it, or pass over it by Runner.SkipDamaged")
}

// passDamage puts the events after the position of the reader one by one, and passes over the
// damaged ones that the notes name. It returns nil when the reader may go on from its new
// position.
func (r *reader) passDamage(ctx context.Context, head store.Position, cause error) error {
	after := r.at()
	p, ok := damage.First(after, head, cause)
	if !ok {
		return cause
	}
	r.mode(true) // all events that were read before are complete
	passed := false
	for ; p <= head; p++ {
		err := r.putAt(ctx, p)
		switch {
		case err == nil && passed:
			return r.undeleted(ctx, after)
		case err == nil:
			continue
		case !errors.Is(err, store.ErrCorrupt):
			return err
		}
		known, failure := r.run.skips(ctx, p)
		if failure != nil {
			return failure
		}
		if !known {
			return atDamage(p, err)
		}
		r.run.logger.Warn("projection passes over a damaged event", "projection", r.run.name, "version", r.run.version,
			"position", p.String(), "error", err)
		r.seen.set(p, store.ID{})
		for _, l := range r.segments {
			l.signal() // perhaps no later event makes it look at the position
		}
		passed = true
	}
	if !passed {
		return cause // the damaged event was not found
	}
	return r.undeleted(ctx, after)
}

// putAt puts the event at a position, if the plan selects it.
func (r *reader) putAt(ctx context.Context, p store.Position) error {
	q := r.run.plan.query
	q.After, q.Through = p-1, p
	id := store.ID{}
	for e, err := range r.run.log.Scan(ctx, q) {
		if err != nil {
			return err
		}
		id = e.ID
		l := r.segmentOf(e.Key)
		ready, err := l.queue.put(ctx, e)
		if err != nil {
			return err
		}
		if ready {
			l.signal()
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	r.seen.set(p, id)
	return nil
}

// skipsAtBegin stores the notes for the positions of the option [SkipDamaged].
func (r *run) skipsAtBegin(ctx context.Context) error {
	if len(r.settings.skips) == 0 {
		return nil
	}
	return r.skipDamaged(ctx, slices.Clone(r.settings.skips))
}

// scanBeside is a scan that passes over the same damaged events as the version.
func (r *run) scanBeside(ctx context.Context, q store.Query) iter.Seq2[*store.Event, error] {
	return func(yield func(*store.Event, error) bool) {
		for {
			again := false
			for e, err := range r.log.Scan(ctx, q) {
				if c, ok := errors.AsType[*store.CorruptError](err); ok && c.Position > q.After {
					known, failure := r.skips(ctx, c.Position)
					if again = failure == nil && known; again {
						q.After = c.Position
						break
					}
					err = cmp.Or(failure, err)
				}
				if err == nil {
					q.After = e.Position
				}
				if !yield(e, err) {
					return
				}
			}
			if !again || q.Through != 0 && q.After >= q.Through {
				return
			}
		}
	}
}
