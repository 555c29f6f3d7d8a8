package perdure

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/perdure/perdure/internal/guard"
	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/stream"
)

// pruneQueueMax bounds the entities that wait to be pruned. Above it an entity
// is passed over; its next snapshot brings it back.
const pruneQueueMax = 1024

// A pruner deletes events that snapshots cover, on a goroutine of its own,
// behind everything that still reads them.
type pruner struct {
	log    store.Log
	seal   *seal
	hub    *stream.Hub
	logger *slog.Logger
	alone  bool // nobody else writes to the log
	// answered are entities whose receipts all have their replies, on a log to
	// which nobody else writes. It has at most pruneQueueMax of them.
	answered map[store.Key]struct{}

	queue  chan prune
	cancel context.CancelFunc
	ended  chan struct{}
}

// A prune asks to delete the events of an entity below a version.
type prune struct {
	kind     *kindRuntime
	key      store.Key
	version  store.Version // of the snapshot
	below    store.Version
	position store.Position // of the entity's last event: it tells the partition
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

// offer hands over an entity whose snapshot of a version is durable. It does not wait.
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
			if err := p.guarded(ctx, job); err != nil && ctx.Err() == nil {
				p.logger.Warn("events could not be deleted", "entity", job.key.String(), "error", err)
			}
		}
	}
}

// guarded prunes on a goroutine of its own, because a rule that builds an answer, or
// the store, may end the one that it runs on; and other entities are pruned after it.
func (p *pruner) guarded(ctx context.Context, job prune) error {
	_, err := guard.Apart(context.Background(), "a rule or the store", func() (struct{}, error) {
		return struct{}{}, p.prune(ctx, job)
	})
	return err
}

// prune deletes strictly below what is to be kept: the event at a bookmark stays,
// because its id proves to the reader that the log is the one it has read.
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
	_, err = p.log.(store.Pruner).DeleteEvents(ctx, job.key, job.below, keep-1)
	return err
}

// prunes reports whether a kind of the engine deletes events and the store can.
func (e *Engine) prunes() bool {
	if _, ok := e.log.(store.Pruner); !ok {
		return false
	}
	for _, k := range e.kinds {
		if k.prune {
			return true
		}
	}
	return false
}
