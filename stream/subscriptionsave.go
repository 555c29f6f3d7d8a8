package stream

import (
	"context"
	"errors"
	"reflect"
	"slices"
	"time"

	"github.com/perdure/perdure/internal/guard"
	"github.com/perdure/perdure/store"
)

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
		for _, l := range s.trackers {
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
// checkpoints if the checkpoints are not in the log. Only one goroutine at a time calls
// it.
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
	_, err = guard.Call("log", func() (struct{}, error) { return struct{}{}, s.moveCheckpoints(ctx) })
	return err
}

func (s *Subscription) savePositions(ctx context.Context) error {
	var positions []store.Position
	var proofs []Proof // copies, so that a checkpoint cannot change positions
	s.mu.Lock()
	for _, l := range s.trackers {
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
			s.trackers[p.Partition()].keep(p, err == nil, time.Now())
		}
	}()
	_, err = guard.Call("checkpoints", func() (struct{}, error) {
		err := s.keepProofs(ctx, proofs)
		if err != nil {
			_, _ = err.Error(), errors.Is(err, ErrFenced) // these methods are user code: call them inside of the guard once, before other code calls them
		}
		return struct{}{}, err
	})
	return err
}

// keepProofs saves positions, with the ids of the events at them if the checkpoint is a
// [ProofKeeper].
func (s *Subscription) keepProofs(ctx context.Context, proofs []Proof) error {
	if k, ok := s.checkpoint.(ProofKeeper); ok {
		for i := range proofs {
			if p := &proofs[i]; p.Event.IsZero() && p.Position.Sequence() > 0 {
				if found, err := ProofAt(ctx, s.hub.log, p.Position); err == nil {
					*p = found
				} // else the position is saved without an event
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

// register sets checkpoints in the log if the checkpoints are not in the log.
func (s *Subscription) register(ctx context.Context) error {
	if k, ok := s.checkpoint.(*logCheckpoint); ok && sameLog(k.log, s.hub.log) {
		return nil // the positions are checkpoints of the log already
	}
	var at []store.Position
	for _, l := range s.trackers {
		at = append(at, l.saved)
	}
	hold, err := NewReaders(s.hub.log).Register(ctx, CheckpointPrefix+s.config.Name, checkpointInstance, at...)
	if errors.Is(err, errors.ErrUnsupported) {
		return nil // the log keeps no checkpoints, or is open for reading only
	}
	if err == nil {
		s.hold, s.held = hold, at
	}
	return err
}

// checkpointInstance is the id of the registered instance of a subscription whose
// checkpoints are not in the log. One id is enough: a name has one subscription at a
// time.
const checkpointInstance = "checkpoint"

// sameLog reports whether a and b are the same log.
func sameLog(a, b store.Log) bool {
	t := reflect.TypeOf(a)
	return t != nil && t == reflect.TypeOf(b) && t.Comparable() && a == b
}

// moveCheckpoints moves the checkpoints of a subscription whose checkpoints are not in the
// log to the saved positions. The goroutine that saves calls it.
func (s *Subscription) moveCheckpoints(ctx context.Context) error {
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
	for part, l := range s.trackers {
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

// registerAgain sets the checkpoints again after an operator has removed them, and gives
// the consumer a notice if events may have been deleted before they were read.
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
