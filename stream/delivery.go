package stream

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// A Delivery is a commit that was delivered to a consumer. The consumer answers it
// once, by Ack, AckThrough or Nack, from any goroutine. The consumer must not change
// the events, since they may be delivered again.
type Delivery struct {
	Commit
	// Attempt counts the deliveries of this commit by this subscription, from 1. After
	// a crash or a new Subscribe the count begins again.
	Attempt int
	// Cause is the error with which the previous attempt was refused, nil at the first
	// attempt.
	Cause error

	subscription *Subscription
	unit         *unit
	part         int
}

// Ack acknowledges the commit: the consumer has finished it. Ack returns an error
// matching [ErrAcked] if the delivery was answered before, or [ErrClosed] if the
// subscription is closed: then the commit comes again. It does not wait for the
// position to be saved.
func (d *Delivery) Ack() error {
	return d.answer(func(l *ackTracker, now time.Time) { l.ack(d.unit, now) })
}

// AckThrough acknowledges the commit and all commits below it in its partition,
// including refused commits that wait for their next delivery.
func (d *Delivery) AckThrough() error {
	return d.answer(func(l *ackTracker, now time.Time) { l.ackThrough(d.unit, now) })
}

func (d *Delivery) answer(how func(l *ackTracker, now time.Time)) error {
	s := d.subscription
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := d.check(); err != nil {
		return err
	}
	how(s.trackers[d.part], time.Now())
	s.room.fire()
	s.dirty.fire()
	return nil
}

// check returns an error if the delivery cannot be answered any more, else nil.
func (d *Delivery) check() error {
	s := d.subscription
	switch {
	case s.closed:
		return fmt.Errorf("answer delivery at position %v: %w", d.Through, ErrClosed)
	case !s.trackers[d.part].outstanding(d.unit, d.Attempt):
		return fmt.Errorf("answer delivery at position %v: %w", d.Through, ErrAcked)
	}
	return nil
}

// Nack refuses the commit because of an error. The commit is delivered again after the
// delay, or, if that was the last attempt, passed to [SubscriptionConfig.DeadLetter]
// with the context. Nack returns the same errors as Ack.
func (d *Delivery) Nack(ctx context.Context, delay time.Duration, cause error) error {
	s := d.subscription
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := d.check(); err != nil {
		return err
	}
	l := s.trackers[d.part]
	if !l.nack(d.unit, cause, time.Now().Add(delay)) {
		s.work.fire()
		return nil
	}
	if s.config.DeadLetter == nil {
		s.end(&ExhaustedError{
			Subscription: s.config.Name, Position: d.Through, Key: d.Events[0].Key, Attempts: d.Attempt, Cause: cause,
		})
		return nil
	}
	s.decide(ctx, d, cause, func(err error, returned bool) {
		if !returned {
			delay = max(delay, brokenRetryMin)
		}
		if err != nil {
			d.unit.cause = err
			l.again(d.unit, time.Now().Add(delay))
			s.work.fire()
			return
		}
		l.ack(d.unit, time.Now())
		s.room.fire()
		s.dirty.fire()
	})
	return nil
}

// brokenRetryMin is the shortest pause before a commit is delivered again after
// DeadLetter has panicked or ended its goroutine.
const brokenRetryMin = time.Second

// decide calls DeadLetter for a commit whose attempts are used up, and then calls
// conclude with the result. If DeadLetter panics or ends its goroutine, the commit
// comes again, and the panic goes on to the caller of Nack. The caller holds mu; decide
// releases it for the call of DeadLetter and takes it again.
func (s *Subscription) decide(ctx context.Context, d *Delivery, cause error, conclude func(err error, returned bool)) {
	err, returned := errors.New("DeadLetter has not returned"), false
	defer func() {
		s.mu.Lock()
		conclude(err, returned)
	}()
	s.mu.Unlock()
	err = s.config.DeadLetter(ctx, d, cause)
	returned = true
}
