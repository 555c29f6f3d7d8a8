package projection

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/perdure/perdure"
	"github.com/perdure/perdure/internal/core/projector"
	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/stream"
)

const (
	// windowMax bounds the positions of one scan. After each scan a reader tells its segments its
	// position.
	windowMax = 1 << 16
	// nearMax is the distance to the head at which a reader changes to the live stream.
	nearMax = 1024
	// pollMin is the first pause before a waiting reader looks again, on a log without a stream.
	// The pause doubles, up to Config.Poll.
	pollMin = time.Millisecond
	// readRetryMin and readRetryMax bound the pauses after the log has failed.
	readRetryMin = 50 * time.Millisecond
	readRetryMax = 10 * time.Second
)

// A reader reads one partition for all of its segments, on a goroutine of its own. Far behind the
// head it uses scans with a filter, near the head the live stream.
type reader struct {
	run       *run
	partition int
	segments  []*segment

	// All events up to seen that the open segments select have been put. Only the reader's
	// goroutine changes seen.
	seen seen
	head atomic.Uint64 // the last head that the reader has seen

	rate   rate         // how fast the slowest of the segments passes the log
	rateAt atomic.Int64 // time of the next measurement

	mu     sync.Mutex
	seeks  map[*segment]store.Position
	stop   context.CancelFunc // ends the current reading
	err    error              // error of the last read, nil if it worked
	asking chan struct{}      // one element: there are seeks
}

func newReader(r *run, partition int) *reader {
	return &reader{run: r, partition: partition, seeks: map[*segment]store.Position{}, asking: make(chan struct{}, 1)}
}

// seek makes the reader segmentQueue a segment from above a position.
func (r *reader) seek(l *segment, after store.Position) {
	l.queue.shut()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.seeks[l] = after
	if r.stop != nil {
		r.stop()
	}
	select {
	case r.asking <- struct{}{}:
	default:
	}
}

// begin opens the feeds of the segments that have asked to seek. It returns the position to read
// from, and the context of the reading. It waits for the first seek.
func (r *reader) begin(ctx context.Context, at store.Position) (context.Context, store.Position) {
	for {
		r.mu.Lock()
		for _, after := range r.seeks {
			if at == 0 || after < at-1 {
				at = after + 1 // plus one, so that 0 means no position
			}
		}
		if at != 0 {
			r.seen.set(at-1, store.ID{})
			for l, after := range r.seeks {
				l.queue.open(after)
			}
			clear(r.seeks)
			reading, stop := context.WithCancel(ctx)
			r.stop = stop
			r.mu.Unlock()
			return reading, at - 1
		}
		r.mu.Unlock()
		select {
		case <-r.asking:
		case <-ctx.Done():
			return ctx, 0
		}
	}
}

func (r *reader) loop(ctx context.Context) {
	var next store.Position
	fails := 0
	for ctx.Err() == nil {
		reading, at := r.begin(ctx, next)
		err := contained(func() error { return r.read(reading, at) })
		next = r.at() + 1
		r.mu.Lock()
		sought := len(r.seeks) > 0
		if r.stop != nil {
			r.stop()
			r.stop = nil
		}
		if sought || ctx.Err() != nil {
			err = nil
		}
		r.err = err
		r.mu.Unlock()
		if err == nil {
			fails = 0
			continue
		}
		if r.at() > at {
			fails = 0
		}
		r.run.logger.Warn("projection cannot read the log", "projection", r.run.name, "version", r.run.version,
			"partition", r.partition, "position", r.at().String(), "error", err)
		_ = contained(func() error { // the clock may end the goroutine
			r.run.sleep(ctx, projector.Backoff(readRetryMin, readRetryMax, fails), r.asking)
			return nil
		})
		fails++
	}
}

func (r *reader) at() store.Position {
	p, _ := r.seen.get()
	return p
}

// measure measures the rate, at most once in rateEvery.
func (r *reader) measure(now time.Time) {
	if due := r.rateAt.Load(); now.UnixNano() < due || !r.rateAt.CompareAndSwap(due, now.Add(rateEvery).UnixNano()) {
		return
	}
	least := store.LastPosition(r.partition)
	for _, l := range r.segments {
		l.mu.Lock()
		least = min(least, l.core.Covered())
		l.mu.Unlock()
	}
	r.mu.Lock()
	r.rate.add(least, now)
	r.mu.Unlock()
}

// well clears the error of the last read: the log can be read again.
func (r *reader) well() {
	r.mu.Lock()
	r.err = nil
	r.mu.Unlock()
}

// read reads until the context ends or the log fails.
func (r *reader) read(ctx context.Context, at store.Position) error {
	pause := pollMin
	for {
		heads, err := r.run.log.Heads(ctx)
		if err != nil {
			return fmt.Errorf("read heads: %w", err)
		}
		if r.partition >= len(heads) {
			return fmt.Errorf("%w: the log has %d partitions", store.ErrFormat, len(heads))
		}
		head := heads[r.partition]
		if head < at {
			// The log is shorter than before. The next beginning of the run finds out why.
			r.run.restart()
			return fmt.Errorf("%w: it has been read through %v, and ends at %v", ErrReplaced, at, head)
		}
		if limit := r.run.config.limit; limit != nil {
			head = min(head, limit[r.partition])
		}
		r.head.Store(uint64(head))
		switch {
		case head > at && (head-at > nearMax || r.run.follow == nil):
			pause = pollMin
			through := min(head, at+windowMax)
			if err := r.scan(ctx, at, through); err != nil {
				r.mode(true) // all events that were read before are complete
				if err := r.passDamage(ctx, through, err); err != nil {
					return err
				}
				through = r.at()
			}
			r.well()
			at = through
		case r.run.follow != nil:
			r.well()
			if err := r.follow(ctx, at); err != nil {
				if err := r.passDamage(ctx, head, err); err != nil {
					return err
				}
			}
			at = r.at()
		default:
			r.well()
			r.mode(true)
			if !r.run.sleep(ctx, pause, nil) {
				return ctx.Err()
			}
			pause = min(2*pause, r.run.config.Poll)
		}
	}
}

func (r *reader) mode(eager bool) {
	for _, l := range r.segments {
		if l.queue.mode(eager) {
			l.signal()
		}
	}
}

// scan puts the events above after, up to and including through.
func (r *reader) scan(ctx context.Context, after, through store.Position) error {
	r.mode(false)
	q := r.run.plan.query
	q.After, q.Through = after, through
	for e, err := range r.run.log.Scan(ctx, q) {
		if err != nil {
			return err
		}
		l := r.segmentOf(e.Key)
		ready, err := l.queue.put(ctx, e)
		if err != nil {
			return err
		}
		r.seen.set(e.Position, e.ID)
		if ready {
			l.signal()
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	id, err := r.idAt(ctx, through)
	if err != nil {
		return err
	}
	if err := r.undeleted(ctx, after); err != nil {
		return err
	}
	r.seen.set(through, id)
	r.mode(true)
	return nil
}

// idAt returns the id of the event at a position. The id is zero if the event was deleted, or if
// the rules do not select it and the log cannot read it.
func (r *reader) idAt(ctx context.Context, p store.Position) (id store.ID, err error) {
	if at, id := r.seen.get(); at == p && !id.IsZero() {
		return id, nil
	}
	for e, err := range r.run.log.Scan(ctx, store.Query{After: p - 1, Through: p}) {
		if errors.Is(err, store.ErrCorrupt) {
			return store.ID{}, nil
		}
		if err != nil {
			return id, err
		}
		id = e.ID
	}
	return id, nil
}

// undeleted returns an error if events above a position may have been deleted before they were
// read.
func (r *reader) undeleted(ctx context.Context, after store.Position) error {
	through, err := r.run.deletions(ctx)
	if err != nil {
		return err
	}
	r.run.mu.Lock()
	missing := r.run.about.missing(r.partition)
	r.run.mu.Unlock()
	for _, d := range through {
		if d.Partition() == r.partition && d > after && d > missing {
			r.run.restart()
			return fmt.Errorf("%w: the log was to be read above %v, and events through %v may be missing", ErrDeleted, after, d)
		}
	}
	return nil
}

// follow puts the events above after as they are committed. It returns nil when the reader should
// scan instead.
func (r *reader) follow(ctx context.Context, after store.Position) error {
	r.mode(true)
	for e, err := range r.run.follow(ctx, store.Query{After: after}) {
		switch {
		case errors.Is(err, stream.ErrLagged):
			return nil
		case errors.Is(err, stream.ErrDeleted):
			if err := r.undeleted(ctx, r.at()); err != nil {
				return err
			}
			continue // it was deleted before the version began
		case err != nil:
			return err
		}
		if r.run.plan.wants(e) {
			l := r.segmentOf(e.Key)
			ready, err := l.queue.put(ctx, e)
			if err != nil {
				return err
			}
			r.advance(e)
			if ready {
				l.signal()
			}
		} else {
			r.advance(e)
		}
		for _, l := range r.segments {
			if l.idle.Load() {
				l.signal()
			}
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return perdure.ErrClosed
}

func (r *reader) advance(e *store.Event) {
	r.seen.set(e.Position, e.ID)
	if store.Position(r.head.Load()) < e.Position {
		r.head.Store(uint64(e.Position))
	}
}

func (r *reader) segmentOf(key store.Key) *segment {
	return r.segments[projector.SegmentOf(key, len(r.segments))]
}

func (r *reader) problem() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.err
}
