package projection

import (
	"context"
	"fmt"
	"iter"
	"time"

	"github.com/perdure/perdure/internal/core/projector"
	"github.com/perdure/perdure/store"
)

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
					return fmt.Errorf("read note %s: %w", n.Key, err)
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
	return r.wrap(fmt.Sprintf("retry %v in", key), r.job(ctx, key, projector.Retry))
}

// SkipEvent leaves out the first event that a parked entity misses, permanently and with a dead
// letter. Then it does the same as [Runner.Retry].
func (r *Runner) SkipEvent(ctx context.Context, key store.Key) error {
	return r.wrap(fmt.Sprintf("skip an event of %v in", key), r.job(ctx, key, projector.SkipOne))
}

// DropEvents leaves out all events that a parked entity misses, permanently and with a dead
// letter, and unparks the entity. Its rules get later events as usual.
func (r *Runner) DropEvents(ctx context.Context, key store.Key) error {
	return r.wrap(fmt.Sprintf("drop events of %v in", key), r.job(ctx, key, projector.Drop))
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
		return ErrNotParked
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
