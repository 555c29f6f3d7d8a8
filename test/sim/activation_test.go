package sim_test

import (
	"fmt"
	"slices"
	"time"

	"github.com/perdure/perdure/internal/core/commit"
	"github.com/perdure/perdure/internal/core/entity"
	"github.com/perdure/perdure/store"
)

// An activation is one entity in memory: the shell around its core.
type activation struct {
	node      *node
	key       store.Key
	core      entity.Entity
	pipeline  *commit.Pipeline // the core's pipeline, as its items show it
	completed int              // completed items that the core has not processed yet
	loading   bool
	waits     bool                // the entity waits before it loads again
	reading   int                 // number of the present read of receipts; 0 if there is none
	reads     int                 // number of reads of receipts so far
	early     map[string]store.ID // submitted commands by key, for a mutant
}

func (c *activation) forgotten() bool { return c.node.gone || c.node.activations[c.key] != c }

// deliver receives a call.
func (c *activation) deliver(call *entity.Call) {
	w := c.node.w
	w.early = nil
	o, _ := call.Owner.(*op)
	if first := w.ops[c.early[call.Name]]; w.mutant.repeatsEarly && first != nil && first.call.Fingerprint == call.Fingerprint {
		out := first.call.Outcome
		out.Repeated = true
		o.early = true
		o.reply(out)
	}
	c.turn(func() { c.core.Deliver(call) })
	if w.mutant.answersPastGate && w.early != nil && o != nil && o.replies == 0 {
		o.early = true
		o.reply(*w.early)
	}
	c.drive()
}

// turn runs f on a goroutine of its own and waits for it, because a rule in f may end the
// goroutine.
func (c *activation) turn(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	<-done
	if c.core.Interrupted() {
		c.core.Exited()
	}
}

// drive carries out the core's tasks until there are none.
func (c *activation) drive() {
	for {
		task := c.core.Task()
		if task != entity.TaskLoadReceipts && task != entity.TaskLoadReply {
			c.reading = 0 // the read was for memory that has been dropped
		}
		switch {
		case c.completed > 0:
			n := c.completed
			c.completed = 0
			c.core.CommitsDone(n)
		case task == entity.TaskLoad && !c.loading:
			c.load()
		case task == entity.TaskLoadReceipts && c.reading == 0:
			c.recall()
		case task == entity.TaskLoadReply && c.reading == 0:
			c.repeat(c.core.Next())
		case task == entity.TaskResume:
			c.turn(c.core.Resume)
		default:
			if _, ok := c.core.WantsRetry(); ok && !c.waits {
				c.waits = true
				c.node.w.later(c.retry, "node %d: %v is to be loaded again", c.node.name, c.key)
			}
			return
		}
	}
}

func (c *activation) retry() {
	c.waits = false
	if !c.forgotten() {
		c.core.Retry()
		c.drive()
	}
}

// load reads the entity, at once or later.
func (c *activation) load() {
	w := c.node.w
	fold := c.core.Load()
	if w.ill.freezes(c.key) {
		c.loading = true
		w.ill.hung = append(w.ill.hung, func() { c.loaded(fold, c.read(fold)) })
		return
	}
	if w.chance(0.5) {
		c.core.Loaded(fold, c.read(fold))
		return
	}
	c.loading = true
	w.later(func() {
		err := c.read(fold)
		w.later(func() {
			c.loaded(fold, err)
		}, "node %d: %v is loaded: %v", c.node.name, c.key, err)
	}, "node %d: %v is read", c.node.name, c.key)
}

// loaded ends a load that took time.
func (c *activation) loaded(fold *entity.Fold, err error) {
	c.loading = false
	if err != nil {
		c.node.failed()
	}
	if !c.forgotten() {
		c.core.Loaded(fold, err)
		c.drive()
	}
}

func (c *activation) read(fold *entity.Fold) error {
	w := c.node.w
	if w.sick() || w.ill.deadens(c.key) {
		c.node.failed()
		return errIO
	}
	limit := len(w.disk.books[c.key].entries)
	if w.mutant.readsOldData && w.chance(0.3) {
		limit--
	}
	defer func() {
		c.node.hub.AdvanceTo(fold.Position())
		c.node.reach(fold.Position())
	}()
	for e, err := range w.disk.log.Load(background, c.key, fold.Accept) {
		if err != nil {
			return err
		}
		if int(e.Version) > limit {
			return nil
		}
		if err := fold.Apply(e); err != nil {
			return err
		}
	}
	return nil
}

// recall reads the receipts of the entity.
func (c *activation) recall() {
	w := c.node.w
	c.fetch(func() func() {
		var list []*store.Receipt
		if w.sick() {
			return func() {
				c.node.failed()
				c.core.ReceiptsLoaded(nil, errIO)
			}
		}
		for r, err := range w.disk.log.Receipts(background, c.key) {
			if err != nil {
				panic(err)
			}
			list = append(list, r)
		}
		if w.mutant.forgetsKeys {
			list = nil
		}
		return func() { c.core.ReceiptsLoaded(list, nil) }
	}, "the receipts")
}

// repeat reads the earlier answer to a repeated command.
func (c *activation) repeat(call *entity.Call) {
	c.fetch(func() func() {
		first, out, err := c.answer(call)
		return func() { c.core.ReplyLoaded(first, out, err) }
	}, fmt.Sprintf("the receipt %q", call.Name))
}

func (c *activation) answer(call *entity.Call) (first store.ID, out entity.Outcome, err error) {
	w := c.node.w
	if w.sick() {
		c.node.failed()
		return first, out, errIO
	}
	r, err := w.disk.log.Receipt(background, c.key, call.Name)
	if err != nil {
		return first, out, err
	}
	out, err = c.core.Answer(call, r, refused, c.read)
	return r.CommandID, out, err
}

// fetch reads from the store and passes on the result, at once or later.
func (c *activation) fetch(read func() (tell func()), what string) {
	w := c.node.w
	if w.chance(0.5) {
		read()()
		return
	}
	c.reads++
	c.reading = c.reads
	mine := c.reading
	w.later(func() {
		tell := read()
		w.later(func() {
			if c.forgotten() || c.reading != mine {
				return
			}
			c.reading = 0
			tell()
			c.drive()
		}, "node %d: %v has %s", c.node.name, c.key, what)
	}, "node %d: %v reads %s", c.node.name, c.key, what)
}

// Submit is part of [entity.Shell].
func (c *activation) Submit(i *commit.Item) {
	n := c.node
	c.pipeline = i.Pipeline
	n.w.noteGroup(&i.Batch)
	for r := range i.Batch.Receipts {
		c.early[i.Batch.Receipts[r].Name] = i.Batch.Receipts[r].CommandID
	}
	if o := n.w.ops[n.w.disk.cause(&i.Batch)]; n.w.mutant.sendsEarly && o != nil {
		n.dispatcher.send(c.key, o.call)
	}
	n.dispatcher.queue.Claim(i.Batch.Enqueue)
	if n.w.instant {
		n.commitAlone(i)
		c.completed++
		return
	}
	if n.w.mutant.settlesEarly {
		copied := &commit.Item{Batch: i.Batch, Pipeline: &commit.Pipeline{Owner: nobody{}}}
		copied.Batch.Events = slices.Clone(i.Batch.Events)
		n.queue.Add(copied)
		c.completed++
	} else {
		n.queue.Add(i)
	}
	n.wake()
}

// An owner that ignores the outcomes of its items.
type nobody struct{}

func (nobody) ItemsDone(int) {}

// ItemsDone is part of [commit.Owner].
func (c *activation) ItemsDone(items int) {
	w := c.node.w
	if w.mutant.forgivesPipelines {
		c.pipeline.Reset()
	}
	c.completed += items
	w.later(func() {
		if !c.forgotten() {
			c.drive()
		}
	}, "node %d: %v learns the outcome of %d batches", c.node.name, c.key, items)
}

// Reply is part of [entity.Shell].
func (c *activation) Reply(call *entity.Call) {
	if len(call.Outcome.Effects) > 0 && !c.node.w.mutant.sendsEarly {
		c.node.dispatcher.send(c.key, call)
	}
	switch o := call.Owner.(type) {
	case *delivery:
		o.reply(call.Outcome)
	case *op:
		if o.early {
			o.early = false // the mutant has answered it
			return
		}
		o.reply(call.Outcome)
	}
}

// Now is part of [entity.Shell].
func (c *activation) Now() time.Time { return c.node.wall() }
