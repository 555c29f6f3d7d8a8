package stream

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/perdure/perdure/internal/guard"
	"github.com/perdure/perdure/store"
)

// Defaults of [SubscriptionConfig].
const (
	OpenMaxDefault     = 256
	AttemptsMaxDefault = 10
	SaveEveryDefault   = 256
	SaveAfterDefault   = time.Second
)

// A SubscriptionConfig says what a subscription reads and within which bounds.
// Name and Checkpoints are needed; the zero value of everything else is a good
// default.
type SubscriptionConfig struct {
	// Name is that of the subscription. Its position is kept under it.
	Name string
	// Checkpoints keep the position. [LogCheckpoints] keeps it in the log itself. A
	// subscription with others registers a bookmark in the log as well, which
	// follows what they have saved: see [Readers]. On a log that takes no commits, or
	// keeps no bookmarks, nothing holds what it has yet to read.
	Checkpoints Checkpoints

	// Kinds, Types, Tags and Keys select events like those of a [Query]. The
	// position moves over what is not selected. A subscription should be given
	// another name with another selection: it goes on from where it was.
	Kinds, Types, Tags []string
	Keys               []store.Key
	// SkipDamaged names the events that the log cannot read and that the subscription
	// passes over. Without them it ends before a damaged event with an error that names
	// the position. Each that it passes over is logged, and is among those of
	// [SubscriptionStats]. Subscribe returns an error matching [store.ErrInvalid] if one
	// of them can be read, or is not there, such as after the log has been repaired.
	SkipDamaged []store.Position
	// FromHead begins at the head of the log if the subscription is new.
	// Otherwise a new one begins with the first event.
	FromHead bool

	// OpenMax bounds, for each partition, the events from the first that is not
	// acknowledged to the last that is read: what is held in memory, and what comes
	// again after a crash because one commit was not done with. A commit that has
	// more events goes alone. With 1, commits come one by one, in order even when
	// they are refused. Zero is [OpenMaxDefault].
	OpenMax int
	// AttemptsMax bounds the deliveries of a commit. One that is refused as often
	// goes to DeadLetter. Zero is [AttemptsMaxDefault], and -1 no bound.
	AttemptsMax int
	// DeadLetter decides on a commit that has been refused too often. If it
	// returns nil, the commit counts as acknowledged; an error has it delivered
	// once more after the delay of the last refusal, and so does a panic, which goes
	// on to the caller of Nack. It is called by the goroutine that refuses. Nil stops the subscription with an [*ExhaustedError]; [Skip]
	// drops the commit.
	DeadLetter func(ctx context.Context, d *Delivery, cause error) error

	// SaveEvery and SaveAfter say after how many acknowledgements, and how long
	// after the first, the position is saved, if it has moved. Close saves it too.
	// Zero is [SaveEveryDefault] and [SaveAfterDefault].
	SaveEvery int
	SaveAfter time.Duration
}

// Skip is a [SubscriptionConfig.DeadLetter] that drops the commit.
func Skip(context.Context, *Delivery, error) error { return nil }

// Errors of a subscription.
var (
	// ErrExhausted ends a subscription. The error is an [*ExhaustedError].
	ErrExhausted = errors.New("attempts are used up")
	// ErrSettled: the delivery has been acknowledged or refused before.
	ErrSettled = errors.New("delivery is settled")
)

// An ExhaustedError names the commit that stops a subscription. It matches
// [ErrExhausted] and its cause.
type ExhaustedError struct {
	Subscription string
	// Position is the end of the commit.
	Position store.Position
	Key      store.Key
	Attempts int
	// Cause is why it was refused the last time.
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
	}{{&c.OpenMax, OpenMaxDefault}, {&c.AttemptsMax, AttemptsMaxDefault}, {&c.SaveEvery, SaveEveryDefault}} {
		if *f.value == 0 {
			*f.value = f.standard
		}
	}
	if c.SaveAfter == 0 {
		c.SaveAfter = SaveAfterDefault
	}
	return nil
}

// A Subscription hands out the commits of a log and takes acknowledgements.
//
// A commit is delivered at least once: again if it is refused, and again after a
// crash, unless the position has been saved behind it. It is never skipped: the
// position that is saved has nothing below it that is not acknowledged. Commits
// are delivered for the first time in the order of each partition; refused ones
// come again behind later ones, unless [SubscriptionConfig.OpenMax] is 1. There
// is no order between partitions.
//
// A name has one subscription at a time, that which was opened last: it takes
// the position over, and the earlier one ends with [ErrFenced] when it next
// saves. Until then both deliver, so a commit may be delivered by both, but none
// is skipped.
//
// A slow consumer holds up nobody but the pruning of events that it has not got.
// If it falls far behind, it is told so by an error matching [ErrLagged], and
// goes on where it was. Its position is a bookmark in the log from before the first
// delivery on, also if its [Checkpoints] are elsewhere, so what it has not
// acknowledged is not deleted, unless an operator removes the bookmark, see
// [Readers]. If events were deleted before it came to them, it is told so by an
// error matching [ErrDeleted].
//
// While the log cannot be read it waits and tries again, see
// [SubscriptionStats.ReadErr]; while positions cannot be saved it goes on. A log that
// panics, or ends the goroutine that reads it, is tried again too, 16 times in a row;
// then the subscription ends with an error.
//
// Its methods, and those of its deliveries, may be called by many goroutines at
// once.
//
// One goroutine for each partition reads, one saves; both end with Close. All
// state is in the ledgers, under mu.
type Subscription struct {
	config     SubscriptionConfig
	hub        *Hub
	checkpoint Checkpoint
	stop       context.CancelFunc // of the goroutines
	running    sync.WaitGroup
	ended      chan struct{} // closed when all of them have ended
	retry      time.Time     // no save before, after an error; of the goroutine that saves

	mu      sync.Mutex
	ledgers []*ledger        // by partition
	turn    int              // whose ledger is asked first
	notices []notices        // for Next, of each partition
	err     error            // why it has ended
	saveErr error            // of the last save, if it failed
	readErr []error          // of each partition: why the log cannot be read
	damaged []store.Position // that were passed over
	closed  bool
	fenced  bool // and Next has said so, or Close

	// The bookmarks of a subscription whose checkpoints are not in the log. Only
	// the goroutine that saves uses them; held is where they are.
	hold *Registration
	held []store.Position
	// unheld is where they were before they were removed, until they are set again
	// and the consumer is told; else nil.
	unheld []store.Position
	behind bool // under mu: bookmarks are to be moved, and could not be

	closing chan struct{} // held by the one who closes

	work  signal // there may be something for Next
	room  signal // there may be room for a commit
	dirty signal // there may be something to save
}

// Subscribe opens a subscription. It claims the name and reads the position; the
// context is for that only. The caller closes it.
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
		ledgers: make([]*ledger, len(h.parts)), notices: make([]notices, len(h.parts)), readErr: make([]error, len(h.parts)),
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
	for part := range s.ledgers {
		s.running.Go(func() { s.feed(running, part, 0) })
	}
	s.running.Go(func() { s.saveLoop(running) })
	go func() {
		s.running.Wait()
		close(s.ended)
	}()
	return s, nil
}

// resume goes on from the positions that were saved, if they are of this log.
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
		if p.Partition() >= len(s.ledgers) {
			return fmt.Errorf("%w: subscription %q is at position %v: the log has %d partitions", store.ErrInvalid, s.config.Name, p, len(s.ledgers))
		}
		proof := Proof{Position: p, Event: proofs[p].Event}
		if _, err := proof.check(ctx, s.hub.log, heads); err != nil {
			return fmt.Errorf("subscription %q: %w", s.config.Name, err)
		}
		s.ledgers[p.Partition()] = newLedger(&s.config, p, p)
	}
	return nil
}

// begin sets where partitions begin that have no position yet, and saves that
// before anything is delivered. If it did not, the log would not know of a reader
// that has acknowledged nothing yet, and delete what it has not acknowledged; and
// one that begins at the head would begin at a later one after a crash.
func (s *Subscription) begin(ctx context.Context) error {
	heads := make([]store.Position, len(s.ledgers))
	if s.config.FromHead {
		var err error
		if heads, err = s.hub.log.Heads(ctx); err != nil {
			return fmt.Errorf("read heads: %w", err)
		}
	}
	var fresh []Proof
	for part, l := range s.ledgers {
		if l != nil {
			continue
		}
		at := max(store.NewPosition(part, 0), heads[part])
		s.ledgers[part] = newLedger(&s.config, at, at)
		fresh = append(fresh, Proof{Position: at})
	}
	if len(fresh) > 0 {
		if err := s.keepProofs(ctx, fresh); err != nil {
			return err
		}
	}
	return s.register(ctx)
}

// keepProofs saves positions with the ids of the events at them, if the checkpoint
// keeps those.
func (s *Subscription) keepProofs(ctx context.Context, proofs []Proof) error {
	if k, ok := s.checkpoint.(ProofKeeper); ok {
		for i := range proofs {
			if p := &proofs[i]; p.Event.IsZero() && p.Position.Sequence() > 0 {
				if found, err := ProofAt(ctx, s.hub.log, p.Position); err == nil {
					*p = found
				} // else it is saved without
			}
		}
		return k.SaveProofs(ctx, proofs)
	}
	positions := make([]store.Position, len(proofs))
	for i := range proofs {
		positions[i] = proofs[i].Position
	}
	return s.checkpoint.Save(ctx, positions)
}

// register sets bookmarks in the log for checkpoints that are elsewhere.
func (s *Subscription) register(ctx context.Context) error {
	if k, ok := s.checkpoint.(*logCheckpoint); ok && sameLog(k.log, s.hub.log) {
		return nil // they are its bookmarks
	}
	readers, err := NewReaders(s.hub.log)
	if err != nil {
		return nil //nolint:nilerr // a log without bookmarks respects none
	}
	var at []store.Position
	for _, l := range s.ledgers {
		at = append(at, l.saved)
	}
	hold, err := readers.Register(ctx, BookmarkPrefix+s.config.Name, checkpointInstance, at...)
	if errors.Is(err, errors.ErrUnsupported) {
		return nil // the log is opened for reading: nothing can hold it
	}
	if err == nil {
		s.hold, s.held = hold, at
	}
	return err
}

// checkpointInstance is the instance of a subscription whose checkpoints are not
// in the log: a name has one subscription at a time.
const checkpointInstance = "checkpoint"

// sameLog reports whether two logs are one.
func sameLog(a, b store.Log) bool {
	t := reflect.TypeOf(a)
	return t != nil && t == reflect.TypeOf(b) && t.Comparable() && a == b
}

// moveBookmarks moves the bookmarks of checkpoints that are elsewhere to what is
// saved there. It is called by the goroutine that saves.
func (s *Subscription) moveBookmarks(ctx context.Context) error {
	if s.hold == nil {
		return nil
	}
	if s.unheld != nil {
		if err := s.registerAgain(ctx); err != nil {
			return err
		}
	}
	s.mu.Lock()
	var moved []store.Position
	for part, l := range s.ledgers {
		if l.saved != s.held[part] {
			moved = append(moved, l.saved)
		}
	}
	s.mu.Unlock()
	if len(moved) == 0 {
		return nil
	}
	err := s.hold.Move(ctx, moved...)
	if errors.Is(err, ErrUnregistered) {
		err = s.registerAgain(ctx)
	}
	if err == nil {
		for _, p := range moved {
			s.held[p.Partition()] = p
		}
	}
	return err
}

// registerAgain sets the bookmarks again after somebody has removed them, and
// tells the consumer if it may have lost events.
func (s *Subscription) registerAgain(ctx context.Context) error {
	if s.unheld == nil {
		s.unheld = slices.Clone(s.held)
	}
	if err := s.register(ctx); err != nil {
		return err
	}
	for part, at := range s.unheld {
		q := s.query(part)
		q.After = at
		lost, err := deletedAbove(ctx, s.hub.log, q)
		if err != nil {
			return err
		}
		if lost != nil {
			s.notify(part, lost)
		}
	}
	s.unheld = nil
	return nil
}

// Next returns the next commit that is to be delivered, or waits for one. An error
// matching [ErrLagged] or [ErrDeleted] is a notice: the next call goes on. Any other error
// is the context's, or says why the subscription has ended: [ErrClosed],
// [ErrFenced], [ErrExhausted], or what the log says.
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

// take returns a delivery, or why there is none, or when there may be one.
func (s *Subscription) take(now time.Time) (d *Delivery, due time.Time, err error) {
	if s.err != nil {
		return nil, due, s.err
	}
	for part := range s.notices {
		if err := s.notices[part].take(); err != nil {
			return nil, due, err
		}
	}
	for range s.ledgers {
		part := s.turn % len(s.ledgers)
		s.turn++
		l := s.ledgers[part]
		if u := l.take(now); u != nil {
			return &Delivery{Commit: *u.commit, Attempt: u.attempt, Cause: u.cause, subscription: s, unit: u, part: part}, due, nil
		}
		due = earlier(due, l.due())
	}
	return nil, due, nil
}

// All yields what [Subscription.Next] returns until the context or the
// subscription ends; it then yields the error as its last. Several goroutines may
// iterate at once and share the commits.
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

// Ack acknowledges deliveries, see [Delivery.Ack]. It acknowledges what it can
// and returns the errors of the others.
func (s *Subscription) Ack(deliveries ...*Delivery) error {
	var errs []error
	for _, d := range deliveries {
		errs = append(errs, d.Ack())
	}
	return errors.Join(errs...)
}

// SubscriptionStats are figures about a subscription.
type SubscriptionStats struct {
	// Positions are, for each partition, up to where all is acknowledged, and
	// Saved up to where that is saved.
	Positions, Saved []store.Position
	// Open is how many events count for [SubscriptionConfig.OpenMax], and Late how many
	// commits are refused and wait to be delivered again.
	Open, Late int
	// Damaged are the damaged events that it has passed over since it was opened, see
	// [SubscriptionConfig.SkipDamaged].
	Damaged []store.Position
	// SaveErr is the error of the last attempt to save, nil if it succeeded. The
	// subscription goes on and tries again.
	SaveErr error
	// ReadErr is why the log cannot be read at this moment, nil if it can. The
	// subscription tries again.
	ReadErr error
}

// Stats returns figures about the subscription at this moment.
func (s *Subscription) Stats() SubscriptionStats {
	s.mu.Lock()
	defer s.mu.Unlock()
	stats := SubscriptionStats{SaveErr: s.saveErr, ReadErr: errors.Join(s.readErr...), Damaged: slices.Clone(s.damaged)}
	for _, l := range s.ledgers {
		stats.Positions = append(stats.Positions, l.done)
		stats.Saved = append(stats.Saved, l.saved)
		stats.Open += l.open
		stats.Late += len(l.late)
	}
	return stats
}

// Close ends the subscription and saves its position, for which it has as long as
// the context. What has not been acknowledged comes again when a subscription of
// the name is opened; acknowledgements that come later return [ErrClosed]. It
// returns an error matching [ErrFenced] if the name was taken over and Next has
// not said so. If the position could not be saved, Close may be called again and
// tries again; otherwise later calls do nothing.
func (s *Subscription) Close(ctx context.Context) error {
	s.mu.Lock()
	before := s.err
	s.mu.Unlock()
	// It may wrap an error of the log or of the consumer, whose methods are user code.
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
		s.fenced = errors.Is(err, ErrFenced) // which another Close does not say again
		return struct{}{}, err
	})
	if err != nil {
		return fmt.Errorf("close subscription: %w", err)
	}
	return nil
}

// end ends the subscription with an error, unless it has ended. The caller holds mu.
func (s *Subscription) end(err error) {
	if s.err == nil {
		s.err = err
	}
	s.work.fire()
	s.room.fire()
	s.dirty.fire()
}

// feed reads the commits of a partition into its ledger. If the log ends the
// goroutine, another one goes on from there after a pause, as after a panic. So many
// have been ended in a row.
func (s *Subscription) feed(ctx context.Context, part, exits int) {
	l := s.ledgers[part]
	from := l.read
	exited := true
	defer func() {
		if !exited {
			return
		}
		if l.read > from {
			exits = 0
		}
		s.mu.Lock()
		s.readErr[part] = errExited
		s.mu.Unlock()
		if exits == 0 {
			s.hub.logger.Warn(cannotRead, "error", errExited)
		}
		if exits >= panicsMax {
			s.endWith(errExited)
			return
		}
		s.running.Go(func() {
			err := s.hub.rest(ctx, exits)
			if err == nil {
				s.feed(ctx, part, exits+1)
				return
			}
			s.endWith(err)
		})
	}()
	err := s.read(ctx, part, exits > 0)
	exited = false
	if err != nil {
		s.endWith(err)
	}
}

func (s *Subscription) endWith(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.end(fmt.Errorf("subscription %q: %w", s.config.Name, err))
}

// errExited says that the code of a user has ended the goroutine that it ran on.
var errExited = errors.New("the log or the checkpoints have called runtime.Goexit")

// read reads a partition until it cannot go on, or the context ends. Failing says
// that the last reading has failed.
func (s *Subscription) read(ctx context.Context, part int, failing bool) (err error) {
	defer contain(&err)
	l := s.ledgers[part]
	q := s.query(part)
	q.After = l.read
	begin := func() *reader {
		return &reader{hub: s.hub, q: q, marked: true, pass: s.passes, failing: failing, failed: func(why error) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.readErr[part] = why
		}}
	}
	for c, err := range s.hub.commits(ctx, begin) {
		if errors.Is(err, ErrLagged) || errors.Is(err, ErrDeleted) {
			s.notify(part, err)
			continue
		}
		if err == nil {
			err = s.put(ctx, l, c)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// query returns what is selected of a partition.
func (s *Subscription) query(part int) Query {
	c := &s.config
	return Query{Query: store.Query{After: store.NewPosition(part, 0), Kinds: c.Kinds, Types: c.Types, Tags: c.Tags}, Keys: c.Keys}
}

// notices are what Next tells of a partition: of each sort one, which says all.
type notices struct {
	lagged  error
	deleted *DeletedError
}

func (n *notices) take() (err error) {
	switch {
	case n.deleted != nil:
		err, n.deleted = n.deleted, nil
	case n.lagged != nil:
		err, n.lagged = n.lagged, nil
	}
	return err
}

// notify has Next return a notice.
func (s *Subscription) notify(part int, notice error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if d, ok := errors.AsType[*DeletedError](notice); ok {
		s.notices[part].deleted = d.merge(s.notices[part].deleted)
	} else {
		s.notices[part].lagged = notice
	}
	s.work.fire()
}

// put adds a commit to a ledger when there is room for it.
func (s *Subscription) put(ctx context.Context, l *ledger, c *Commit) error {
	for {
		s.mu.Lock()
		if s.err != nil {
			defer s.mu.Unlock()
			return s.err
		}
		if l.room(len(c.Events)) {
			l.add(c, time.Now())
			s.work.fire()
			s.dirty.fire()
			s.mu.Unlock()
			return nil
		}
		woken := s.room.wait()
		s.mu.Unlock()
		if err := await(ctx, woken, time.Time{}); err != nil {
			return err
		}
	}
}

// saveLoop saves positions when they are due.
func (s *Subscription) saveLoop(ctx context.Context) {
	ended := false
	defer func() {
		if !ended { // the checkpoints have ended the goroutine
			s.retry = time.Now().Add(s.config.SaveAfter)
			s.running.Go(func() { s.saveLoop(ctx) })
		}
	}()
	s.saves(ctx)
	ended = true
}

func (s *Subscription) saves(ctx context.Context) {
	for {
		s.mu.Lock()
		var due time.Time
		for _, l := range s.ledgers {
			due = earlier(due, l.saveAt())
		}
		if s.behind {
			due = earlier(due, s.retry)
		}
		woken := s.dirty.wait()
		s.mu.Unlock()
		now := time.Now()
		if !due.IsZero() && due.Before(s.retry) {
			due = s.retry
		}
		if due.IsZero() || due.After(now) {
			if await(ctx, woken, due) != nil {
				return
			}
			continue
		}
		if err := s.save(ctx); errors.Is(err, ErrFenced) {
			s.mu.Lock()
			s.end(err)
			s.mu.Unlock()
			return
		} else if err != nil {
			s.retry = time.Now().Add(s.config.SaveAfter)
		}
	}
}

// save saves the positions of all partitions that have moved, and then moves the
// bookmarks of checkpoints that are elsewhere. It is called by one goroutine at a
// time.
func (s *Subscription) save(ctx context.Context) (err error) {
	err = errExited
	saved := false
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.saveErr = err
		if saved {
			s.behind = err != nil
		}
	}()
	if failed := s.savePositions(ctx); failed != nil {
		err = failed
		return err
	}
	saved = true
	_, err = guard.Call("log", func() (struct{}, error) { return struct{}{}, s.moveBookmarks(ctx) })
	return err
}

func (s *Subscription) savePositions(ctx context.Context) error {
	var positions []store.Position
	var proofs []Proof // their copies: a checkpoint may do with them what it likes
	s.mu.Lock()
	for _, l := range s.ledgers {
		if p, ok := l.save(); ok {
			positions = append(positions, p)
			proofs = append(proofs, Proof{Position: p, Event: l.eventAt(p)})
		}
	}
	s.mu.Unlock()
	if len(positions) == 0 {
		return nil
	}
	err := errExited
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, p := range positions {
			s.ledgers[p.Partition()].keep(p, err == nil, time.Now())
		}
	}()
	_, err = guard.Call("checkpoints", func() (struct{}, error) {
		err := s.keepProofs(ctx, proofs)
		if err != nil {
			_, _ = err.Error(), errors.Is(err, ErrFenced) // they are user code, which others will call
		}
		return struct{}{}, err
	})
	return err
}

// await waits until it is woken, it is due, or the context ends. Zero is never due.
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

// earlier returns the earlier of two times; zero is never.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// A signal wakes those who wait for it. Its user's lock guards it.
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
