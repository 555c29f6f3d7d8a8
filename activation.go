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
	"github.com/perdure/perdure/internal/intercept"
	"github.com/perdure/perdure/store"
)

// An activation is one entity in memory: the shell that runs its protocol core on an actor,
// with the real clock and store. The actor's turns call all methods except ItemsDone, so one
// goroutine at a time uses the activation.
//
// An idle activation has no goroutine and no buffer. It consists of the core, the actor, an entry
// in the engine's map, and the state.
type activation struct {
	core      entity.Entity
	kind      *registry
	ref       actor.Ref[*entity.Call]
	used      atomic.Uint64 // time of the last turn, see residents
	weight    atomic.Int32  // memory of the entity, in steps of weightStep
	completed atomic.Int32  // completed items that the core has not processed yet
	due       atomic.Bool   // the pause before a retry is over
	armed     bool          // the pause is running
	deferred  bool          // the present work is left to a turn of a signal
	exited    bool          // a read has ended its goroutine, and the core knows
}

// Receive is a turn with a call.
func (a *activation) Receive(ctx *actor.Context[*entity.Call], ec *entity.Call) {
	a.begin()
	var own *call
	if ctx.Inline() {
		// While the call runs on the caller's goroutine, the caller can neither use nor leave
		// it.
		own = ec.Owner.(*call)
		own.inline = true
	}
	a.core.Deliver(ec)
	a.drive(ec)
	if own != nil {
		own.inline = false
	}
	if a.weigh() {
		a.kind.engine.makeRoom()
	}
}

// Signal is a turn without a call: items have an outcome, a pause is over, or a turn on another
// caller's goroutine has left work.
func (a *activation) Signal(*actor.Context[*entity.Call]) {
	a.begin()
	a.core.CommitsDone(int(a.completed.Swap(0)))
	if a.core.Task() != entity.TaskNone && a.deferTurn() {
		return // the committer must neither read from the store nor run rules
	}
	a.drive(nil)
	a.weigh() // no makeRoom here: this may be the committer's goroutine, which others wait for
}

// weigh records the memory of the entity. It reports whether entities may have to be passivated
// because the memory has grown. If little has changed, it costs a few additions.
func (a *activation) weigh() (full bool) {
	weight := int32(a.core.Bytes() / weightStep)
	more := weight - a.weight.Load()
	if more == 0 {
		return false
	}
	a.weight.Store(weight)
	return a.kind.engine.entities.weigh(int64(more)) && more > 0
}

// deferTurn leaves the present work to a turn with a goroutine of its own, unless this is such a
// turn.
func (a *activation) deferTurn() bool {
	if a.deferred {
		return false
	}
	a.deferred = true
	a.ref.Signal()
	return true
}

// begin begins every turn.
func (a *activation) begin() {
	a.used.Store(a.kind.engine.entities.now.Load())
	if a.core.Interrupted() {
		a.core.Exited()
	}
	if a.due.Swap(false) {
		a.armed = false
		a.core.Retry()
	}
}

// drive carries out the core's tasks until there are none. On a caller's goroutine it runs only
// that caller's rule and leaves the rules of other calls to another turn, because a rule may
// end its goroutine or block it permanently.
func (a *activation) drive(own *entity.Call) {
	a.deferred = false
	for {
		if a.completed.Load() > 0 {
			a.core.CommitsDone(int(a.completed.Swap(0)))
			continue
		}
		task := a.core.Task()
		if own != nil && task.Reads() && !a.kind.engine.instant && a.deferTurn() {
			return // the caller's deadline may end before the store answers
		}
		switch task {
		case entity.TaskLoad:
			a.load()
		case entity.TaskLoadReceipts:
			a.loadReceipts()
		case entity.TaskLoadReply:
			a.loadReply(a.core.Next())
		case entity.TaskResume:
			if own != nil && a.core.Next() != own && a.deferTurn() {
				return
			}
			a.core.Resume()
		default:
			if a.core.Unknown() {
				a.used.Store(neverUsed)
			}
			a.retryLater()
			return
		}
	}
}

func (a *activation) load() {
	e := a.kind.engine
	fold := a.core.Load()
	a.read(func() error {
		if err := a.loadState(fold); err != nil {
			return fmt.Errorf("load: %w", err)
		}
		return nil
	}, func(err error) {
		if err == nil {
			e.hub.AdvanceTo(fold.Position()) // the position may be of a commit with an unknown outcome
		}
		a.core.Loaded(fold, err)
		if v := fold.FallbackVersion(); v > 0 && err == nil {
			a.kind.took(a.core.Key(), v)
		}
	})
}

// loadState reads the entity into a fold, through the interceptors.
func (a *activation) loadState(fold *entity.Fold) error {
	e := a.kind.engine
	if len(e.hooks.load) == 0 {
		return loadInto(e.log, a.core.Key(), fold, nil)
	}
	ctx := context.Background()
	if ec := a.core.Next(); ec != nil {
		ctx = context.WithoutCancel(ec.Ctx) // the load serves other calls too
	}
	call := &LoadCall{Key: a.core.Key()}
	return intercept.Around(ctx, e.hooks.load, call, func(context.Context) error {
		states := 0
		err := loadInto(e.log, a.core.Key(), fold, func() error {
			states++
			return nil
		})
		call.Events = max(states-1, 0)
		call.Version, _ = fold.At()
		return err
	})
}

// read reads from the store and passes the result to the core. The store and the Evolve rules
// may panic or end the goroutine; that becomes the error of the read.
func (a *activation) read(from func() error, tell func(error)) {
	returned := false
	defer func() {
		if returned {
			return
		}
		if v := recover(); v != nil {
			tell(fmt.Errorf("load: panic: %v\n%s", v, debug.Stack()))
			return
		}
		a.exited = true
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

// loadReceipts reads the receipts of the entity.
func (a *activation) loadReceipts() {
	var list []*store.Receipt
	a.read(func() (err error) {
		list, err = receiptHeads(context.Background(), a.kind.engine.log, a.core.Key())
		return err
	}, func(err error) { a.core.ReceiptsLoaded(list, err) })
}

// receiptHeads reads the receipts of an entity without their answers.
func receiptHeads(ctx context.Context, log store.Log, key store.Key) (list []*store.Receipt, err error) {
	if list, err = entity.Heads(log.ReceiptHeads(ctx, key)); err != nil {
		return nil, fmt.Errorf("read receipts: %w", err)
	}
	return list, nil
}

// loadReply reads the earlier answer to a repeated command.
func (a *activation) loadReply(ec *entity.Call) {
	var first store.ID
	var out entity.Outcome
	a.read(func() (err error) {
		first, out, err = a.answer(ec)
		return err
	}, func(err error) { a.core.ReplyLoaded(first, out, err) })
}

// answer reads the earlier answer to a command with the key of the call, and the id of that
// command.
func (a *activation) answer(ec *entity.Call) (first store.ID, out entity.Outcome, err error) {
	e := a.kind.engine
	r, err := e.log.Receipt(context.Background(), a.core.Key(), ec.Name)
	if err == nil {
		out, err = a.core.Answer(ec, r, func(r *store.Refusal) error { return decodeRefusal(r) }, func(fold *entity.Fold) error {
			return loadInto(e.log, a.core.Key(), fold, nil)
		})
	}
	if err != nil {
		return first, out, fmt.Errorf("read receipt: %w", err)
	}
	return r.CommandID, out, nil
}

// retryLater sets a timer if a load has failed and is to be repeated.
func (a *activation) retryLater() {
	after, wanted := a.core.WantsRetry()
	if !wanted || a.armed {
		return
	}
	a.armed = true
	a.kind.engine.config.Clock.AfterFunc(after, func() {
		a.due.Store(true)
		a.ref.Signal()
	})
}

// Submit is part of [entity.Shell].
func (a *activation) Submit(i *commit.Item) {
	e := a.kind.engine
	if len(i.Batch.Enqueue) > 0 {
		e.dispatcher.queue.Claim(i.Batch.Enqueue)
	}
	if !e.instant {
		e.committer.submit(i)
		return
	}
	returned := false
	defer func() {
		a.completed.Add(1)
		a.exited = a.exited || !returned // the store has ended the goroutine
	}()
	e.commitAlone(i)
	returned = true
}

// Reply is part of [entity.Shell].
func (a *activation) Reply(ec *entity.Call) { ec.Owner.(*call).reply(&a.core) }

// Now is part of [entity.Shell].
func (a *activation) Now() time.Time { return a.kind.engine.config.Clock.Now() }

// ItemsDone is part of [commit.Owner]. Any goroutine may call it.
func (a *activation) ItemsDone(items int) {
	a.completed.Add(int32(items))
	a.ref.RunSignal()
}

// Idle lets the actor stop only while the entity has no call and no item in flight.
func (a *activation) Idle() bool { return a.core.Idle() }

// Failed is called after a panic that did not come from a rule, or after a rule
// has ended its goroutine.
func (a *activation) Failed(f *actor.Failure) actor.Directive {
	if exited := a.exited; f.Goexit && (exited || a.core.Interrupted()) {
		a.exited = false
		a.ref.Signal()
		return actor.Resume
	}
	a.kind.engine.config.Logger.Error("entity has failed", "entity", a.core.Key().String(), "error", f.Error(), "stack", string(f.Stack))
	return actor.Stop
}

// Closed answers the calls that will not run, and makes room for another activation.
func (a *activation) Closed(reason error, undelivered []*entity.Call) {
	out := entity.Outcome{Status: entity.StatusClosed}
	if reason == nil {
		a.core.Abort()
	} else {
		out = entity.Outcome{Status: entity.StatusFailed, Err: reason}
		a.core.Fail(reason)
	}
	for _, ec := range undelivered {
		ec.Outcome = out
		a.Reply(ec)
	}
	a.kind.forget(a)
}
