package storecore

import (
	"fmt"
	"slices"

	"github.com/perdure/perdure/store"
)

// A View is the log as a running transaction sees it: the stored records together with the
// changes of the batches that were applied before.
//
// An error means that a record could not be read, for example because it is damaged. It
// refuses the batch that needs the record, and no other one.
type View interface {
	// Head returns the version of an entity. The version of an entity without events and
	// without a saved state is zero.
	Head(key store.Key) (Head, error)
	// Readable reads the records that Apply will read for the batch and that no other method
	// of the view reads: older snapshots and the receipts to forget. Decide calls it only for
	// batches with a snapshot or with receipts to forget.
	Readable(b *store.Batch) error
	// Message returns a message of the outbox, or nil if it does not exist.
	Message(sequence uint64) (*store.Message, error)
	// Timer returns the message of a timer, or nil if the timer is not set.
	Timer(key store.Key, name string) (*store.Message, error)
	// HasReceipt reports whether an entity has a receipt with this name.
	HasReceipt(key store.Key, name string) (bool, error)
	// ClaimOwner returns the owner of a value, or nil if the value is free.
	ClaimOwner(c store.Claim) (*store.Claimed, error)
}

// A Transaction is a view that accepted batches are written to.
type Transaction interface {
	View
	// Apply writes a batch that the rules accept, and sets its result. Later calls of the
	// view see its changes. The argument h is the head of the batch's entity before the batch,
	// or zero if the batch has no key. Decide calls Apply directly after it has checked the
	// batch. After an error the transaction must not be committed.
	Apply(b *store.Batch, h Head, r *store.Result) error
}

// Decide applies the rules of [store.Log.Commit] to the batches of one group, in their order.
// It hands each accepted batch to Apply, so the next batch sees its changes. It checks a batch
// completely first, so a refused batch changes nothing; its result has the reason. Decide
// leaves batches alone whose result has an error already.
//
// It reports whether it has refused a batch. An error is one of Apply.
//
// The durable stores share Decide. Package memory has an implementation of its own, which the
// suite of package storetest compares with the others.
func Decide(t Transaction, group []*store.Batch, results []store.Result) (refused bool, err error) {
	var behind map[store.Key]bool // entities with a batch that is not stored
	for i, b := range group {
		r := &results[i]
		if r.Err == nil {
			var h Head
			if behind[b.Key] {
				r.Err = &store.ConflictError{Key: b.Key, Expected: b.Expected, AfterRefused: true}
			} else {
				h, r.Err = check(t, b)
			}
			if r.Err == nil {
				if err := t.Apply(b, h, r); err != nil {
					return refused, fmt.Errorf("append %v: %w", b.Key, err)
				}
				continue
			}
			refused = true
		}
		if b != nil && !b.Key.IsZero() {
			if behind == nil {
				behind = make(map[store.Key]bool)
			}
			behind[b.Key] = true
		}
	}
	return refused, nil
}

// check returns the reason why the batch cannot be stored, or nil, and the head of its entity.
// It reads everything that Apply will read, so damage is found before any part of the batch is
// written.
func check(v View, b *store.Batch) (h Head, err error) {
	if !b.Key.IsZero() {
		if h, err = checkEntity(v, b); err != nil {
			return h, err
		}
	}
	if len(b.Settle) > 0 {
		if err := checkSettle(v, b.Settle); err != nil {
			return h, err
		}
	}
	if err := checkTimers(v, b); err != nil {
		return h, err
	}
	for i := range b.Receipts {
		name := b.Receipts[i].Name
		if slices.Contains(b.Forget, name) {
			continue // the batch replaces its own receipt
		}
		exists, err := v.HasReceipt(b.Key, name)
		if err != nil {
			return h, err
		}
		if exists {
			return h, &store.AnsweredError{Key: b.Key, Name: name}
		}
	}
	return h, checkClaims(v, b)
}

// checkEntity compares the batch with the version of its entity, and with the form in which
// the entity is stored.
func checkEntity(v View, b *store.Batch) (Head, error) {
	h, err := v.Head(b.Key)
	if err == nil {
		switch {
		case h.Version != b.Expected:
			return h, &store.ConflictError{Key: b.Key, Expected: b.Expected, Actual: h.Version}
		case b.Save != nil && h.Version > 0 && !h.Saved:
			err = fmt.Errorf("%w: a state to save for an entity with events", store.ErrInvalid)
		case h.Saved && (len(b.Events) > 0 || b.Snapshot != nil):
			err = fmt.Errorf("%w: events or a snapshot for an entity with a saved state", store.ErrInvalid)
		case b.Snapshot != nil || len(b.Forget) > 0:
			err = v.Readable(b)
		}
	}
	if err != nil {
		return h, fmt.Errorf("append %v: %w", b.Key, err)
	}
	return h, nil
}

// checkSettle returns an error if the settlements are not possible. They take effect one after
// the other, so a message that one removes does not exist for the next.
func checkSettle(v View, settle []store.Settlement) error {
	var gone map[uint64]bool
	for i := range settle {
		s := &settle[i]
		old, err := v.Message(s.Sequence)
		if err != nil {
			return fmt.Errorf("settle outbox message %d: %w", s.Sequence, err)
		}
		if old == nil || gone[s.Sequence] || s.Misses(old) {
			if s.Required {
				return &store.MessageGoneError{Sequence: s.Sequence}
			}
			continue
		}
		if s.Message == nil {
			if gone == nil {
				gone = make(map[uint64]bool)
			}
			gone[s.Sequence] = true
			continue
		}
		if m := s.Message; m.ID != old.ID || m.Source != old.Source || m.Timer != old.Timer || !m.Time.Equal(old.Time) {
			return fmt.Errorf("settle outbox message %d: %w: the new message has another id, source, timer or time",
				s.Sequence, store.ErrInvalid)
		}
	}
	return nil
}

// checkTimers reads the timers that the batch will replace or cancel.
func checkTimers(v View, b *store.Batch) error {
	for _, name := range b.Cancel {
		if _, err := v.Timer(b.Key, name); err != nil {
			return err
		}
	}
	for i := range b.Enqueue {
		if name := b.Enqueue[i].Timer; name != "" {
			if _, err := v.Timer(b.Key, name); err != nil {
				return err
			}
		}
	}
	return nil
}

// checkClaims returns an error if another entity holds a value that the batch claims.
func checkClaims(v View, b *store.Batch) error {
	for _, c := range b.Release {
		if _, err := v.ClaimOwner(c); err != nil {
			return err
		}
	}
	for _, c := range b.Claim {
		owned, err := v.ClaimOwner(c)
		if err != nil {
			return err
		}
		if owned != nil && owned.Owner != b.Key {
			return &store.ClaimedError{Claim: c, Owner: owned.Owner}
		}
	}
	return nil
}
