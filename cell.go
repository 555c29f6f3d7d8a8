package perdure

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/perdure/perdure/actor"
	"github.com/perdure/perdure/internal/core/commit"
	"github.com/perdure/perdure/internal/core/entity"
	"github.com/perdure/perdure/store"
)

// A cell is the activation of one entity: the shell that runs its protocol core on an actor,
// with the real clock and store. The actor's turns call all methods except Settled, so one
// goroutine at a time uses the cell.
//
// An idle cell has no goroutine and no buffer. It consists of the core, the actor, an entry in
// the engine's map, and the state.
type cell struct {
	core    entity.Entity
	kind    *kindRuntime
	ref     actor.Ref[*entity.Call]
	used    atomic.Uint64 // time of the last turn, see residents
	weight  atomic.Int32  // memory of the entity, in steps of weightStep
	settled atomic.Int32  // completed items that the core has not processed yet
	due     atomic.Bool   // the pause before a retry is over
	armed   bool          // the pause is running
	handed  bool          // the present work is left to a turn of a signal
	exited  bool          // a read has ended its goroutine, and the core knows
}

// Receive is a turn with a call.
func (c *cell) Receive(ctx *actor.Context[*entity.Call], ec *entity.Call) {
	c.begin()
	var own *call
	if ctx.Inline() {
		// While the call runs on the caller's goroutine, the caller can neither use nor leave
		// it.
		own = ec.Owner.(*call)
		own.inline = true
	}
	c.core.Deliver(ec)
	c.drive(ec)
	if own != nil {
		own.inline = false
	}
	if c.weigh() {
		c.kind.engine.makeRoom()
	}
}

// Signal is a turn without a call: items have an outcome, a pause is over, or a turn on another
// caller's goroutine has left work.
func (c *cell) Signal(*actor.Context[*entity.Call]) {
	c.begin()
	c.core.Settled(int(c.settled.Swap(0)))
	if c.core.Task() != entity.TaskNone && c.handOver() {
		return // the committer must neither read from the store nor run rules
	}
	c.drive(nil)
	c.weigh() // no makeRoom here: this may be the committer's goroutine, which others wait for
}

// weigh records the memory of the entity. It reports whether entities may have to be passivated
// because the memory has grown. If little has changed, it costs a few additions.
func (c *cell) weigh() (full bool) {
	weight := int32(c.core.Bytes() / weightStep)
	more := weight - c.weight.Load()
	if more == 0 {
		return false
	}
	c.weight.Store(weight)
	return c.kind.engine.entities.weigh(int64(more)) && more > 0
}

// handOver leaves the present work to a turn with a goroutine of its own, unless this is such a
// turn.
func (c *cell) handOver() bool {
	if c.handed {
		return false
	}
	c.handed = true
	c.ref.Signal()
	return true
}

// begin begins every turn.
func (c *cell) begin() {
	c.used.Store(c.kind.engine.entities.now.Load())
	if c.core.Interrupted() {
		c.core.Exited()
	}
	if c.due.Swap(false) {
		c.armed = false
		c.core.Retry()
	}
}

// drive carries out the core's tasks until there are none. On a caller's goroutine it runs only
// that caller's rule and leaves the rules of other calls to another turn, because a rule may
// end its goroutine or block it permanently.
func (c *cell) drive(own *entity.Call) {
	c.handed = false
	for {
		if c.settled.Load() > 0 {
			c.core.Settled(int(c.settled.Swap(0)))
			continue
		}
		task := c.core.Task()
		if own != nil && task.Reads() && !c.kind.engine.instant && c.handOver() {
			return // the caller's deadline may end before the store answers
		}
		switch task {
		case entity.TaskLoad:
			c.load()
		case entity.TaskRecall:
			c.recall()
		case entity.TaskRepeat:
			c.repeat(c.core.Next())
		case entity.TaskResume:
			if own != nil && c.core.Next() != own && c.handOver() {
				return
			}
			c.core.Resume()
		default:
			if c.core.Unknown() {
				c.used.Store(neverUsed)
			}
			c.retryLater()
			return
		}
	}
}

func (c *cell) load() {
	e := c.kind.engine
	fold := c.core.Load()
	c.read(func() error {
		if err := loadInto(e.log, c.core.Key(), fold, nil); err != nil {
			return fmt.Errorf("load: %w", err)
		}
		return nil
	}, func(err error) {
		if err == nil {
			e.hub.AdvanceTo(fold.Position()) // the position may be of a commit with an unknown outcome
		}
		c.core.Loaded(fold, err)
		if v := fold.Taken(); v > 0 && err == nil {
			c.kind.took(c.core.Key(), v)
		}
	})
}

// read reads from the store and passes the result to the core. The store and the Evolve rules
// may panic or end the goroutine; that becomes the error of the read.
func (c *cell) read(from func() error, tell func(error)) {
	returned := false
	defer func() {
		if returned {
			return
		}
		if v := recover(); v != nil {
			tell(fmt.Errorf("load: panic: %v\n%s", v, debug.Stack()))
			return
		}
		c.exited = true
		tell(errors.New("load: a rule or the store has called runtime.Goexit"))
	}()
	err := from()
	returned = true
	tell(err)
}

// loadInto reads an entity into a fold. If each is not nil, loadInto calls it with every state
// of the fold.
func loadInto(log store.Log, key store.Key, fold *entity.Fold, each func() error) error {
	for event, err := range log.Load(context.Background(), key, fold.Accept) {
		if err == nil && each != nil {
			err = each()
		}
		if err != nil {
			return err
		}
		if err := fold.Apply(event); err != nil {
			return err
		}
	}
	if each != nil {
		return each()
	}
	return nil
}

// recall reads the receipts of the entity.
func (c *cell) recall() {
	var list []*store.Receipt
	c.read(func() (err error) {
		list, err = receiptHeads(context.Background(), c.kind.engine.log, c.core.Key())
		return err
	}, func(err error) { c.core.Recalled(list, err) })
}

// receiptHeads reads the receipts of an entity without their answers.
func receiptHeads(ctx context.Context, log store.Log, key store.Key) (list []*store.Receipt, err error) {
	if h, ok := log.(store.ReceiptHeads); ok {
		list, err = entity.Heads(h.ReceiptHeads(ctx, key))
	} else if r, ok := log.(store.Receipts); ok {
		list, err = entity.Heads(r.Receipts(ctx, key))
	} else {
		err = errors.ErrUnsupported
	}
	if err != nil {
		return nil, fmt.Errorf("read receipts: %w", err)
	}
	return list, nil
}

// repeat reads the earlier answer to a repeated command.
func (c *cell) repeat(ec *entity.Call) {
	var first store.ID
	var out entity.Outcome
	c.read(func() (err error) {
		first, out, err = c.answer(ec)
		return err
	}, func(err error) { c.core.Repeated(first, out, err) })
}

// answer reads the earlier answer to a command with the key of the call, and the id of that
// command.
func (c *cell) answer(ec *entity.Call) (first store.ID, out entity.Outcome, err error) {
	e := c.kind.engine
	r, err := e.log.(store.Receipts).Receipt(context.Background(), c.core.Key(), ec.Name)
	if err == nil {
		out, err = c.core.Answer(ec, r, func(r *store.Refusal) error { return decodeRefusal(r) }, func(fold *entity.Fold) error {
			return loadInto(e.log, c.core.Key(), fold, nil)
		})
	}
	if err != nil {
		return first, out, fmt.Errorf("read receipt: %w", err)
	}
	return r.CommandID, out, nil
}

// retryLater sets a timer if a load has failed and is to be repeated.
func (c *cell) retryLater() {
	after, wanted := c.core.WantsRetry()
	if !wanted || c.armed {
		return
	}
	c.armed = true
	c.kind.engine.config.Clock.AfterFunc(after, func() {
		c.due.Store(true)
		c.ref.Signal()
	})
}

// Submit is part of [entity.Shell].
func (c *cell) Submit(i *commit.Item) {
	e := c.kind.engine
	if len(i.Batch.Enqueue) > 0 && e.dispatcher != nil {
		e.dispatcher.queue.Claim(i.Batch.Enqueue)
	}
	if !e.instant {
		e.committer.submit(i)
		return
	}
	returned := false
	defer func() {
		c.settled.Add(1)
		c.exited = c.exited || !returned // the store has ended the goroutine
	}()
	e.commitAlone(i)
	returned = true
}

// Reply is part of [entity.Shell].
func (c *cell) Reply(ec *entity.Call) { ec.Owner.(*call).reply(&c.core) }

// Now is part of [entity.Shell].
func (c *cell) Now() time.Time { return c.kind.engine.config.Clock.Now() }

// Settled is part of [commit.Owner]. Any goroutine may call it.
func (c *cell) Settled(items int) {
	c.settled.Add(int32(items))
	c.ref.RunSignal()
}

// Idle lets the actor stop only while the entity has no call and no item in flight.
func (c *cell) Idle() bool { return c.core.Idle() }

// Failed is called after a panic that did not come from a rule, or after a rule
// has ended its goroutine.
func (c *cell) Failed(f *actor.Failure) actor.Directive {
	if exited := c.exited; f.Goexit && (exited || c.core.Interrupted()) {
		c.exited = false
		c.ref.Signal()
		return actor.Resume
	}
	c.kind.engine.config.Logger.Error("entity has failed", "entity", c.core.Key().String(), "error", f.Error(), "stack", string(f.Stack))
	return actor.Stop
}

// Closed answers the calls that will not run, and makes room for another activation.
func (c *cell) Closed(reason error, undelivered []*entity.Call) {
	out := entity.Outcome{Status: entity.StatusClosed}
	if reason == nil {
		c.core.Abort()
	} else {
		out = entity.Outcome{Status: entity.StatusFailed, Err: reason}
		c.core.Fail(reason)
	}
	for _, ec := range undelivered {
		ec.Outcome = out
		c.Reply(ec)
	}
	c.kind.forget(c)
}
