package stream

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/perdure/perdure/store"
)

// feed reads the commits of a partition into its ackTracker. If the log ends the goroutine,
// another one goes on from the same position after a pause, as after a panic. The
// parameter exits is the number of goroutines in a row that the log has ended.
func (s *Subscription) feed(ctx context.Context, part, exits int) {
	l := s.trackers[part]
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

// errExited says that the log or the checkpoints have ended the goroutine on which they
// ran.
var errExited = errors.New("the log or the checkpoints have called runtime.Goexit")

// read reads a partition until an error ends the reader, or the context ends. The
// parameter failing says that the last attempt has failed.
func (s *Subscription) read(ctx context.Context, part int, failing bool) (err error) {
	defer contain(&err)
	l := s.trackers[part]
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

// query returns the query for the selected events of a partition.
func (s *Subscription) query(part int) Query {
	c := &s.config
	return Query{Query: store.Query{After: store.NewPosition(part, 0), Kinds: c.Kinds, Types: c.Types, Tags: c.Tags}, Keys: c.Keys}
}

// put adds a commit to an ackTracker when there is room for it.
func (s *Subscription) put(ctx context.Context, l *ackTracker, c *Commit) error {
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

// notices are the notices that Next must return for a partition, at most one of each
// kind: a later deletion is merged into the waiting notice, a later lag replaces it.
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

// notify adds a notice, which Next returns.
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
