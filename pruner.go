package perdure

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/perdure/perdure/internal/guard"
	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/stream"
)

// pruneQueueMax bounds the entities that wait to be pruned. When it is reached, a further
// entity is skipped until its next snapshot.
const pruneQueueMax = 1024

// A pruner deletes events that snapshots cover and that no reader needs any more. It has a
// goroutine of its own.
type pruner struct {
	log    store.Log
	seal   *seal
	hub    *stream.Hub
	logger *slog.Logger
	alone  bool // no other engine writes to the log
	// answered are entities whose receipts all have their replies, on a log that only this
	// engine writes. It holds at most pruneQueueMax of them.
	answered map[store.Key]struct{}

	queue  chan prune
	cancel context.CancelFunc
	ended  chan struct{}
}

// A prune asks to delete the events of an entity below a version.
type prune struct {
	kind     *registry
	key      store.Key
	version  store.Version // version of the snapshot
	below    store.Version
	position store.Position // position of the entity's last event; it contains the partition
}

func newPruner(log store.Log, seal *seal, hub *stream.Hub, logger *slog.Logger, alone bool) *pruner {
	ctx, cancel := context.WithCancel(context.Background())
	p := &pruner{
		log: log, seal: seal, hub: hub, logger: logger, alone: alone, answered: make(map[store.Key]struct{}),
		queue: make(chan prune, pruneQueueMax), cancel: cancel, ended: make(chan struct{}),
	}
	go p.run(ctx)
	return p
}

// offer adds an entity with a durable snapshot to the queue. It does not wait.
func (p *pruner) offer(job prune) {
	select {
	case p.queue <- job:
	default:
	}
}

// close stops the pruner, and waits for that as long as ctx allows.
func (p *pruner) close(ctx context.Context) error {
	p.cancel()
	return waitFor(ctx, p.ended)
}

func (p *pruner) run(ctx context.Context) {
	defer close(p.ended)
	for {
		select {
		case <-ctx.Done():
			return
		case job := <-p.queue:
			err := p.guarded(ctx, job)
			if err != nil && ctx.Err() == nil {
				p.logger.Warn("events could not be deleted", "entity", job.key.String(), "error", err)
			}
			if errors.Is(err, errors.ErrUnsupported) {
				return // the store cannot delete events
			}
		}
	}
}

// guarded runs prune on a separate goroutine: the store, or a rule that builds an answer, may
// end its goroutine, and the pruner must continue with other entities.
func (p *pruner) guarded(ctx context.Context, job prune) error {
	_, err := guard.Apart(context.Background(), "a rule or the store", func() (struct{}, error) {
		return struct{}{}, p.prune(ctx, job)
	})
	return err
}

// prune deletes events strictly below the events to keep. It also keeps the event at a checkpoint
// (the stored position of a reader): its id proves to the reader that the log is the one it has
// read.
func (p *pruner) prune(ctx context.Context, job prune) error {
	if !p.seal.enter() {
		return nil
	}
	defer p.seal.leave()
	keep, err := p.hub.Keep(ctx, job.position.Partition())
	if err != nil || keep.Sequence() == 0 {
		return err
	}
	if err := p.keepAnswers(ctx, &job); err != nil {
		return fmt.Errorf("keep the answers that need them: %w", err)
	}
	_, err = p.log.DeleteEvents(ctx, job.key, job.below, keep-1)
	return err
}

// prunes reports whether a kind of the engine deletes events.
func (e *Engine) prunes() bool {
	for _, k := range e.kinds {
		if k.prune {
			return true
		}
	}
	return false
}
