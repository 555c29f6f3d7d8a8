package perdure

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/perdure/perdure/internal/core/entity"
	"github.com/perdure/perdure/store"
)

// Bounds of the receipts that one commit completes, and of the attempts. The receipts are
// bounded because a commit succeeds only if the entity does not change during it.
const (
	answersMax       = 64
	answersBytesMax  = 16 << 20
	answerRetriesMax = 16
)

// keepAnswers completes the receipts of an entity before its events are deleted. A receipt from
// a time when the kind kept all events has no reply: a repeated command builds the state from
// the events. keepAnswers builds that state now and stores it with the receipt. If it returns
// nil, no answer depends on events.
func (p *pruner) keepAnswers(ctx context.Context, job *prune) error {
	if _, known := p.answered[job.key]; known {
		return nil
	}
	expected := job.version
	for retries := 0; ; {
		open, err := openAnswers(ctx, p.log, job.key)
		if errors.Is(err, errors.ErrUnsupported) {
			return nil // the store keeps no receipts
		}
		if err == nil && len(open) > 0 {
			err = p.buildAnswers(ctx, job, open)
		}
		if err != nil {
			return err
		}
		b := &store.Batch{Key: job.key, Expected: expected}
		bytes := 0
		for _, r := range open {
			if r.ReplyType == "" { // the state is too large, or its events are already deleted
				continue
			}
			if bytes += len(r.Reply); len(b.Receipts) == answersMax || len(b.Receipts) > 0 && bytes > answersBytesMax {
				break
			}
			b.Forget, b.Receipts = append(b.Forget, r.Name), append(b.Receipts, *r)
		}
		if len(b.Receipts) == 0 {
			break
		}
		results, err := commitGroup(p.log, []*store.Batch{b})
		if err == nil {
			err = results[0].Err
		}
		var conflict *store.ConflictError
		switch {
		case errors.As(err, &conflict) && retries < answerRetriesMax:
			expected = conflict.Actual
			retries++
		case err != nil:
			return err
		}
	}
	if p.alone {
		if len(p.answered) >= pruneQueueMax {
			clear(p.answered)
		}
		p.answered[job.key] = struct{}{}
	}
	return nil
}

// openAnswers returns the receipts whose answers are built from events.
func openAnswers(ctx context.Context, log store.Log, key store.Key) ([]*store.Receipt, error) {
	var list []*store.Receipt
	for r, err := range log.Receipts(ctx, key) {
		if err != nil {
			return nil, err
		}
		if r.Refusal == nil && r.ReplyType == "" {
			list = append(list, r)
		}
	}
	return list, nil
}

// buildAnswers adds replies to as many receipts as one commit may hold. It skips states whose
// events are already deleted, and states that are too large.
func (p *pruner) buildAnswers(ctx context.Context, job *prune, open []*store.Receipt) error {
	a := &answers{rules: job.kind.options.Rules, wanted: make(map[store.Version][]*store.Receipt)}
	for _, r := range open {
		a.wanted[r.Version] = append(a.wanted[r.Version], r)
	}
	var core entity.Entity
	core.Init(&job.kind.options, job.key.ID, nil)
	for versions := slices.Sorted(maps.Keys(a.wanted)); len(versions) > 0; versions = versions[1:] {
		fold := core.Between(versions[0], versions[len(versions)-1])
		err := loadInto(p.log, job.key, fold, func() error { return a.take(fold) })
		switch {
		case errors.Is(err, entity.ErrGone):
			continue // the events were deleted earlier; later states may still be available
		case err != nil && !errors.Is(err, entity.ErrPastEnd) && !errors.Is(err, errFull):
			return err
		}
		break
	}
	return ctx.Err()
}

// errFull ends a load when the replies of one commit have been built.
var errFull = errors.New("enough answers")

// answers are receipts by the version of the state that they need as a reply.
type answers struct {
	rules  *entity.Rules
	wanted map[store.Version][]*store.Receipt
	bytes  int
}

// take adds the fold's state to the receipts that need it.
func (a *answers) take(fold *entity.Fold) error {
	version, state := fold.At()
	for _, r := range a.wanted[version] {
		reply, err := proto.Marshal(state)
		if err != nil {
			return fmt.Errorf("version %d: %w", version, err)
		}
		if len(reply) <= store.PayloadBytesMax {
			r.ReplyType, r.Reply = a.rules.StateType, reply
			a.bytes += len(reply)
		}
	}
	delete(a.wanted, version)
	if a.bytes > answersBytesMax {
		return errFull
	}
	return nil
}
