package perdure

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/perdure/perdure/internal/entity"
	"github.com/perdure/perdure/store"
)

// Bounds of the receipts that are completed with one commit, and of the attempts,
// because each needs the entity at rest for the moment of the commit.
const (
	answersMax       = 64
	answersBytesMax  = 16 << 20
	answerRetriesMax = 16
)

// keepAnswers completes the receipts of an entity before events are deleted. A
// receipt that was stored when the kind kept all events has no reply: the state
// after the command is built from the events when the command is repeated. So the
// state is built now and stored with the receipt. Without an error, no answer
// depends on events.
func (p *pruner) keepAnswers(ctx context.Context, job *prune) error {
	receipts, ok := p.log.(store.Receipts)
	if _, known := p.answered[job.key]; !ok || known {
		return nil
	}
	expected := job.version
	for retries := 0; ; {
		open, err := openAnswers(ctx, receipts, job.key)
		if err == nil && len(open) > 0 {
			err = p.buildAnswers(ctx, job, open)
		}
		if err != nil {
			return err
		}
		b := &store.Batch{Key: job.key, Expected: expected}
		bytes := 0
		for _, r := range open {
			if r.ReplyType == "" { // too large, or gone before
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

// openAnswers returns the receipts whose answer is built from events.
func openAnswers(ctx context.Context, receipts store.Receipts, key store.Key) ([]*store.Receipt, error) {
	var list []*store.Receipt
	for r, err := range receipts.Receipts(ctx, key) {
		if err != nil {
			return nil, err
		}
		if r.Refusal == nil && r.ReplyType == "" {
			list = append(list, r)
		}
	}
	return list, nil
}

// buildAnswers adds the replies to as many receipts as one commit takes, where
// the events of their states are still there and the states are not too large.
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
			continue // deleted before there was a reply; later ones may still be there
		case err != nil && !errors.Is(err, entity.ErrEnough) && !errors.Is(err, errFull):
			return err
		}
		break
	}
	return ctx.Err()
}

// errFull ends a load when the replies of one commit have been built.
var errFull = errors.New("enough answers")

// answers are receipts by the version whose state they want as their reply.
type answers struct {
	rules  *entity.Rules
	wanted map[store.Version][]*store.Receipt
	bytes  int
}

// take adds the state that a fold is at to the receipts that want it.
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
