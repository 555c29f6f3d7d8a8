package stream

import (
	"context"
	"errors"
	"fmt"

	"github.com/perdure/perdure/internal/damage"
	"github.com/perdure/perdure/store"
)

// passDamage continues a scan that has found a damaged event. It reads the next events
// one by one, yields those that the query selects, and passes over the damaged ones
// that the reader may pass over. It returns an error that names the first damaged event
// that the reader may not pass over.
func (r *reader) passDamage(ctx context.Context, through store.Position, cause error, yield step) (again bool, err error) {
	p, ok := damage.First(r.at, through, cause)
	if !ok {
		return false, cause
	}
	passed := false
	for ; p <= through; p++ {
		again, err := r.yieldAt(ctx, p, yield)
		switch {
		case err == nil && !again:
			return false, nil
		case err == nil && passed:
			return r.tell(yield), nil
		case err == nil:
			continue
		case !errors.Is(err, store.ErrCorrupt):
			return false, err
		case r.pass == nil || !r.pass(p, err):
			return false, damage.At(p, err, "")
		}
		r.at, passed = p, true
	}
	if !passed {
		return false, cause // no single event shows the damage
	}
	return r.tell(yield), nil
}

// yieldAt reads the event at a position and yields it if the query selects it.
func (r *reader) yieldAt(ctx context.Context, p store.Position, yield step) (again bool, err error) {
	q := r.q.Query
	q.After, q.Through = p-1, p
	for e, err := range r.hub.log.Scan(ctx, q) {
		if err != nil {
			return false, err
		}
		if !r.scanned(e, yield) {
			return false, nil
		}
	}
	if err := ctx.Err(); err != nil {
		return false, err
	}
	r.at = max(r.at, p)
	return true, nil
}

// checkSkips returns an error matching [store.ErrInvalid] if one of the events that are
// to be passed over is not damaged.
func (s *Subscription) checkSkips(ctx context.Context) error {
	if len(s.config.SkipDamaged) == 0 {
		return nil
	}
	heads, err := s.hub.log.Heads(ctx)
	if err != nil {
		return fmt.Errorf("read heads: %w", err)
	}
	for _, p := range s.config.SkipDamaged {
		if _, err := Damaged(ctx, s.hub.log, heads, p); err != nil {
			return fmt.Errorf("SubscriptionConfig.SkipDamaged of %q: %w", s.config.Name, err)
		}
	}
	return nil
}

// passes reports whether the subscription passes over a damaged event. If it does, it
// logs that and adds the position to the statistics.
func (s *Subscription) passes(p store.Position, why error) bool {
	for _, skip := range s.config.SkipDamaged {
		if skip != p {
			continue
		}
		s.mu.Lock()
		s.damaged = append(s.damaged, p)
		s.mu.Unlock()
		s.hub.logger.Warn("subscription passes over a damaged event", "subscription", s.config.Name, "position", p.String(), "error", why)
		return true
	}
	return false
}
