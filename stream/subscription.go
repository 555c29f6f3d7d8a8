package stream

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"sync"
	"time"

	"github.com/perdure/perdure/internal/guard"
	"github.com/perdure/perdure/store"
)

// A SubscriptionConfig configures a [Subscription]. Name and Checkpoints are required;
// the zero value of every other field is a good default.
type SubscriptionConfig struct {
	// Name is the name of the subscription, under which its position is saved, such as
	// "mail".
	Name string
	// Checkpoints save the position. [LogCheckpoints] saves it in the log itself. With
	// other checkpoints the subscription also registers a checkpoint in the log, which
	// follows the saved position: see [Readers]. On a log that takes no commits, or
	// keeps no checkpoints, events that the subscription has not yet read may be deleted.
	Checkpoints Checkpoints

	// Kinds, Types, Tags and Keys select events like those of a [Query]. The position
	// also moves over events that are not selected. Choose another name for another
	// selection: under the same name the subscription goes on from its saved position.
	Kinds, Types, Tags []string
	Keys               []store.Key
	// SkipDamaged are the positions of damaged events that the subscription passes
	// over. At any other damaged event it ends with an error that names the position.
	// Each event that it passes over is logged and is in SubscriptionStats.Damaged.
	// Subscribe returns an error matching [store.ErrInvalid] if one of them can be
	// read, or is not there, such as after the log has been repaired.
	SkipDamaged []store.Position
	// FromHead makes a new subscription begin at the head of the log. Without it a new
	// subscription begins with the first event.
	FromHead bool

	// OpenMax bounds, for each partition, the number of events from the first one that
	// is not acknowledged to the last one that is read. These events are in memory, and
	// may come again after a crash. A commit with more events than OpenMax is delivered
	// alone. With 1, commits come one by one, in order even if they are refused. Zero
	// means 256.
	OpenMax int
	// AttemptsMax bounds the deliveries of a commit. A commit that was refused that
	// many times goes to DeadLetter. Zero means 10; -1 means no
	// bound.
	AttemptsMax int
	// DeadLetter decides about a commit that was refused AttemptsMax times. If it
	// returns nil, the commit counts as acknowledged. If it returns an error, the
	// commit is delivered again after the delay of the last refusal. If it panics, the
	// same happens (after at least a second), and the panic goes on to the caller of
	// Nack. It runs on the goroutine that calls Nack. Without a DeadLetter the
	// subscription ends with an [*ExhaustedError]; [Skip] drops the commit.
	DeadLetter func(ctx context.Context, d *Delivery, cause error) error

	// The position is saved after SaveEvery acknowledgements, or the time SaveAfter
	// after it has first moved, whichever comes first. Close saves it too. Zero means
	// 256 and a second.
	SaveEvery int
	SaveAfter time.Duration
}

// Skip is a [SubscriptionConfig.DeadLetter] that drops the commit.
func Skip(context.Context, *Delivery, error) error { return nil }

// Errors of a subscription.
var (
	// ErrExhausted ends a subscription without a DeadLetter when a commit has used up
	// its attempts. The error is an [*ExhaustedError].
	ErrExhausted = errors.New("attempts are used up")
	// ErrAcked means that the delivery was acknowledged or refused before.
	ErrAcked = errors.New("delivery was answered before")
)

// An ExhaustedError names the commit that has ended a subscription. It matches
// [ErrExhausted] and its cause.
type ExhaustedError struct {
	Subscription string
	// Position is the position that the consumer passes with the commit, its Through.
	Position store.Position
	Key      store.Key
	Attempts int
	// Cause is the error of the last refusal.
	Cause error
}

func (e *ExhaustedError) Error() string {
	return fmt.Sprintf("subscription %q: commit of %v at position %v: attempts are used up after %d: %v",
		e.Subscription, e.Key, e.Position, e.Attempts, e.Cause)
}

func (e *ExhaustedError) Unwrap() []error { return []error{ErrExhausted, e.Cause} }

func (c *SubscriptionConfig) defaults() error {
	switch {
	case c.Name == "":
		return fmt.Errorf("%w: SubscriptionConfig.Name is empty", store.ErrInvalid)
	case c.Checkpoints == nil:
		return fmt.Errorf("%w: SubscriptionConfig.Checkpoints is nil", store.ErrInvalid)
	case c.OpenMax < 0:
		return fmt.Errorf("%w: SubscriptionConfig.OpenMax is negative: %d", store.ErrInvalid, c.OpenMax)
	case c.AttemptsMax < -1:
		return fmt.Errorf("%w: SubscriptionConfig.AttemptsMax is below -1: %d", store.ErrInvalid, c.AttemptsMax)
	case c.SaveEvery < 0:
		return fmt.Errorf("%w: SubscriptionConfig.SaveEvery is negative: %d", store.ErrInvalid, c.SaveEvery)
	case c.SaveAfter < 0:
		return fmt.Errorf("%w: SubscriptionConfig.SaveAfter is negative: %v", store.ErrInvalid, c.SaveAfter)
	}
	for _, f := range []struct {
		value    *int
		standard int
	}{{&c.OpenMax, 256}, {&c.AttemptsMax, 10}, {&c.SaveEvery, 256}} {
		if *f.value == 0 {
			*f.value = f.standard
		}
	}
	if c.SaveAfter == 0 {
		c.SaveAfter = time.Second
	}
	return nil
}

// A Subscription delivers the commits of a log and takes acknowledgements.
//
// A commit is delivered at least once: again if it is refused, and again after a crash,
// unless a position at or above it was saved. No commit is skipped: all commits up to
// the saved position are acknowledged. First deliveries come in the order of the
// partition; a refused commit may come again after later ones, unless
// [SubscriptionConfig.OpenMax] is 1. There is no order between partitions.
//
// A name has one subscription at a time. The subscription that is opened last takes
// over the position, and the earlier one ends with [ErrFenced] at its next save. Until
// then both deliver, so a commit may be delivered twice, but none is skipped.
//
// A slow consumer delays no other reader and no writer; it only delays the deletion of
// events that it has not yet acknowledged. If the consumer falls far behind, it gets an
// error matching [ErrLagged], and goes on at its position. Before the first delivery
// the position becomes a checkpoint in the log, also if the [Checkpoints] are not in the
// log. Therefore events that the consumer has not acknowledged are not deleted, unless
// an operator removes the checkpoint, see [Readers]. If events were deleted before the
// subscription has read them, the consumer gets an error matching [ErrDeleted].
//
// While the log cannot be read, the subscription waits and tries again, see
// [SubscriptionStats.ReadErr]. While positions cannot be saved, it goes on delivering.
// If the log panics, or ends the goroutine that reads it, the subscription tries again
// up to 16 times in a row; then it ends with an error.
//
// Many goroutines at once may call the methods of a subscription and of its deliveries.
//
// One goroutine for each partition reads the log, and one goroutine saves positions;
// Close ends them. The state of commits is in the trackers, which mu guards.
type Subscription struct {
	config     SubscriptionConfig
	hub        *Hub
	checkpoint CheckpointWriter
	stop       context.CancelFunc // ends the goroutines
	running    sync.WaitGroup
	ended      chan struct{} // closed when all goroutines have ended
	retry      time.Time     // earliest time of the next save after an error; only the saving goroutine uses it

	mu       sync.Mutex
	trackers []*ackTracker    // one ackTracker for each partition
	turn     int              // index of the ackTracker that take asks first
	notices  []notices        // notices for Next, by partition
	err      error            // the error that has ended the subscription
	saveErr  error            // error of the last save, nil if it succeeded
	readErr  []error          // by partition: error because of which the log cannot be read
	damaged  []store.Position // positions of damaged events that were passed over
	closed   bool
	fenced   bool // the name was taken over, and Next or Close has returned that

	// hold is the registration of a subscription whose checkpoints are not in the log,
	// and held are the positions of its checkpoints. Only the goroutine that saves uses
	// them.
	hold *Registration
	held []store.Position
	// unheld are the positions of the checkpoints before they were removed. It is nil
	// unless they were removed and are not yet set again.
	unheld []store.Position
	behind bool // guarded by mu: the last attempt to move the checkpoints has failed

	closing chan struct{} // a semaphore of one: the goroutine that closes has put the token

	work  signal // there may be something for Next
	room  signal // there may be room for a commit
	dirty signal // there may be something to save
}

// Subscribe opens a subscription: it claims the name and reads the position. The
// context is only for these steps. The caller must close the subscription.
func (h *Hub) Subscribe(ctx context.Context, c SubscriptionConfig) (*Subscription, error) {
	if err := c.defaults(); err != nil {
		return nil, fmt.Errorf("subscribe: %w", err)
	}
	checkpoint, saved, err := c.Checkpoints.Claim(ctx, c.Name)
	if err != nil {
		return nil, fmt.Errorf("subscribe: %w", err)
	}
	s := &Subscription{
		config: c, hub: h, checkpoint: checkpoint, closing: make(chan struct{}, 1), ended: make(chan struct{}),
		trackers: make([]*ackTracker, len(h.parts)), notices: make([]notices, len(h.parts)), readErr: make([]error, len(h.parts)),
	}
	err = s.resume(ctx, saved)
	if err == nil {
		err = s.checkSkips(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("subscribe: %w", err)
	}
	if err := s.begin(ctx); err != nil {
		return nil, fmt.Errorf("subscribe: %w", err)
	}
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	s.stop = stop
	for part := range s.trackers {
		s.running.Go(func() { s.feed(running, part, 0) })
	}
	s.running.Go(func() { s.saveLoop(running) })
	go func() {
		s.running.Wait()
		close(s.ended)
	}()
	return s, nil
}

// resume makes trackers at the saved positions. It returns an error if a position does
// not belong to this log.
func (s *Subscription) resume(ctx context.Context, saved []store.Position) error {
	proofs := map[store.Position]Proof{}
	if k, ok := s.checkpoint.(ProofKeeper); ok {
		for _, p := range k.Proofs() {
			proofs[p.Position] = p
		}
	}
	heads, err := s.hub.log.Heads(ctx)
	if err != nil {
		return fmt.Errorf("read heads: %w", err)
	}
	for _, p := range saved {
		if p.Partition() >= len(s.trackers) {
			return fmt.Errorf("%w: subscription %q is at position %v: the log has %d partitions", store.ErrInvalid, s.config.Name, p, len(s.trackers))
		}
		proof := Proof{Position: p, Event: proofs[p].Event}
		if _, err := proof.check(ctx, s.hub.log, heads); err != nil {
			return fmt.Errorf("subscription %q: %w", s.config.Name, err)
		}
		s.trackers[p.Partition()] = newAckTracker(&s.config, p, p)
	}
	return nil
}

// begin makes trackers for partitions without a saved position, and saves their first
// positions before the first delivery. Otherwise the log would have no checkpoint of a
// subscription that has acknowledged no commit yet, and might delete its events; and a
// subscription that begins at the head would begin at a later head after a crash.
func (s *Subscription) begin(ctx context.Context) error {
	heads := make([]store.Position, len(s.trackers))
	if s.config.FromHead {
		var err error
		if heads, err = s.hub.log.Heads(ctx); err != nil {
			return fmt.Errorf("read heads: %w", err)
		}
	}
	var fresh []Proof
	for part, l := range s.trackers {
		if l != nil {
			continue
		}
		at := max(store.NewPosition(part, 0), heads[part])
		s.trackers[part] = newAckTracker(&s.config, at, at)
		fresh = append(fresh, Proof{Position: at})
	}
	if len(fresh) > 0 {
		if err := s.keepProofs(ctx, fresh); err != nil {
			return err
		}
	}
	return s.register(ctx)
}

// Next returns the next delivery, or waits for one. An error matching [ErrLagged] or
// [ErrDeleted] is a notice: the next call goes on. Any other error is the error of the
// context, or says why the subscription has ended: [ErrClosed], [ErrFenced],
// [ErrExhausted], or an error of the log.
func (s *Subscription) Next(ctx context.Context) (*Delivery, error) {
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		s.mu.Lock()
		d, due, err := s.take(time.Now())
		woken := s.work.wait()
		s.mu.Unlock()
		if d != nil || err != nil {
			return d, err
		}
		if err := await(ctx, woken, due); err != nil {
			return nil, err
		}
	}
}

// take returns a delivery, or an error, or else the time at which a refused commit
// becomes due (zero if there is none).
func (s *Subscription) take(now time.Time) (d *Delivery, due time.Time, err error) {
	if s.err != nil {
		return nil, due, s.err
	}
	for part := range s.notices {
		if err := s.notices[part].take(); err != nil {
			return nil, due, err
		}
	}
	for range s.trackers {
		part := s.turn % len(s.trackers)
		s.turn++
		l := s.trackers[part]
		if u := l.take(now); u != nil {
			return &Delivery{Commit: *u.commit, Attempt: u.attempt, Cause: u.cause, subscription: s, unit: u, part: part}, due, nil
		}
		due = earlier(due, l.due())
	}
	return nil, due, nil
}

// All yields the results of [Subscription.Next] until the context or the subscription
// ends. The last step yields the error. Several goroutines may iterate at once and
// share the commits.
func (s *Subscription) All(ctx context.Context) iter.Seq2[*Delivery, error] {
	return func(yield func(*Delivery, error) bool) {
		for {
			d, err := s.Next(ctx)
			if !yield(d, err) || err != nil && !errors.Is(err, ErrLagged) && !errors.Is(err, ErrDeleted) {
				return
			}
		}
	}
}

// Ack acknowledges deliveries, see [Delivery.Ack]. It acknowledges all that it can, and
// returns the joined errors of the others.
func (s *Subscription) Ack(deliveries ...*Delivery) error {
	var errs []error
	for _, d := range deliveries {
		errs = append(errs, d.Ack())
	}
	return errors.Join(errs...)
}

// SubscriptionStats are figures about a subscription.
type SubscriptionStats struct {
	// Positions are, for each partition, the positions up to which all commits are
	// acknowledged. Saved are the positions that are saved.
	Positions, Saved []store.Position
	// Open is the number of events that count for [SubscriptionConfig.OpenMax]. Late is
	// the number of refused commits that wait for their next delivery.
	Open, Late int
	// Damaged are the positions of the damaged events that the subscription has passed
	// over since it was opened, see [SubscriptionConfig.SkipDamaged].
	Damaged []store.Position
	// SaveErr is the error of the last attempt to save, nil if it succeeded. The
	// subscription goes on and tries again.
	SaveErr error
	// ReadErr is the error because of which the log cannot be read now, nil if it can
	// be read. The subscription tries again.
	ReadErr error
}

// Stats returns figures about the subscription at the time of the call.
func (s *Subscription) Stats() SubscriptionStats {
	s.mu.Lock()
	defer s.mu.Unlock()
	stats := SubscriptionStats{SaveErr: s.saveErr, ReadErr: errors.Join(s.readErr...), Damaged: slices.Clone(s.damaged)}
	for _, l := range s.trackers {
		stats.Positions = append(stats.Positions, l.done)
		stats.Saved = append(stats.Saved, l.saved)
		stats.Open += l.open
		stats.Late += len(l.late)
	}
	return stats
}

// Close ends the subscription and saves its position, until the context ends. Commits
// that are not acknowledged come again when a subscription of the same name is opened;
// later acknowledgements return [ErrClosed]. Close returns an error matching
// [ErrFenced] if the name was taken over and Next has not returned that error. If the
// position could not be saved, Close may be called again and tries again; otherwise
// later calls do nothing.
func (s *Subscription) Close(ctx context.Context) error {
	s.mu.Lock()
	before := s.err
	s.mu.Unlock()
	// The error may wrap an error of the log or of the consumer, whose methods are user
	// code.
	fenced, _ := guard.Call("error", func() (bool, error) { return errors.Is(before, ErrFenced), nil })
	s.mu.Lock()
	if !s.closed {
		s.closed = true
		s.fenced = fenced
		s.end(fmt.Errorf("subscription %q: %w", s.config.Name, ErrClosed))
	}
	s.mu.Unlock()
	s.stop()
	select {
	case s.closing <- struct{}{}:
	case <-ctx.Done():
		return fmt.Errorf("close subscription: %w", ctx.Err())
	}
	// The log and the checkpoints are user code, which may not return.
	_, err := guard.Apart(ctx, "log or checkpoints", func() (struct{}, error) {
		defer func() { <-s.closing }()
		select {
		case <-s.ended:
		case <-ctx.Done():
			return struct{}{}, ctx.Err()
		}
		if s.fenced {
			return struct{}{}, nil
		}
		err := s.save(ctx)
		s.fenced = errors.Is(err, ErrFenced) // a second Close does not return the error again
		return struct{}{}, err
	})
	if err != nil {
		return fmt.Errorf("close subscription: %w", err)
	}
	return nil
}

// end ends the subscription with an error, unless it has ended before. The caller holds
// mu.
func (s *Subscription) end(err error) {
	if s.err == nil {
		s.err = err
	}
	s.work.fire()
	s.room.fire()
	s.dirty.fire()
}

// await waits until the channel woken is closed, the time due has come, or the context
// ends. A zero due never comes.
func await(ctx context.Context, woken <-chan struct{}, due time.Time) error {
	var tick <-chan time.Time
	if !due.IsZero() {
		t := time.NewTimer(time.Until(due))
		defer t.Stop()
		tick = t.C
	}
	select {
	case <-woken:
		return nil
	case <-tick:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// earlier returns the earlier of two times. A zero time means never.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// A signal wakes all goroutines that wait for it. The lock of its user guards it.
type signal struct{ c chan struct{} }

func (s *signal) wait() <-chan struct{} {
	if s.c == nil {
		s.c = make(chan struct{})
	}
	return s.c
}

func (s *signal) fire() {
	if s.c != nil {
		close(s.c)
		s.c = nil
	}
}
