package perdure

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/perdure/perdure/internal/core/entity"
	"github.com/perdure/perdure/internal/guard"
	"github.com/perdure/perdure/internal/intercept"
	"github.com/perdure/perdure/store"
)

// An Interceptor is a set of functions around the work of an engine, see
// [Config.Interceptors]. Each function is around one type of work: it gets a description of
// the work, calls next to do it, and sees its result. It can therefore measure the work,
// log it, or record a span for it. A function may be nil.
//
//   - To refuse the work, a function returns an error and does not call next.
//   - To add values to the context of the work, for example of rules and handlers, it calls
//     next with another context.
//   - Next is called at most once, before the function returns and on its goroutine. It
//     returns the error of the work. If the work has run, this is its error, whatever the
//     function returns.
//
// The functions of all interceptors for one type of work form a chain. The first
// interceptor of the configuration is the outermost: it runs first, and returns last. Many
// goroutines call the functions at the same time. They must not call the engine for work
// of their own type, which would not end.
//
// The descriptions are valid, and what they refer to must not change, until the function
// returns. A function may change only the field Metadata, before it calls next.
type Interceptor struct {
	// Command is around a command of [Ref.Ask], [Ref.Do] and [Ref.Tell], on the goroutine of
	// the caller. It may change the metadata of the command. A refusal is the error of the
	// call: return [Reject] to give it a code. Commands that come from the outbox are
	// deliveries.
	Command func(ctx context.Context, c *CommandCall, next func(context.Context) error) error
	// Query is around [Query] and [Ref.State], on the goroutine of the caller.
	Query func(ctx context.Context, q *QueryCall, next func(context.Context) error) error
	// Delivery is around an attempt to deliver a message of the outbox: an effect to its
	// [Perform] handler, or a command, a reply or a timer to its entity. It may change the
	// metadata of a command to an entity. A refusal is a failed attempt, which is repeated
	// unless the error is from [Park]. The entity's refusal of a command is no error here,
	// because it ends the message.
	Delivery func(ctx context.Context, d *DeliveryCall, next func(context.Context) error) error
	// Load is around the reading of an entity from the store. A refusal is a failure of the
	// store for the calls that wait.
	Load func(ctx context.Context, l *LoadCall, next func(context.Context) error) error
	// Commit is around the commit of a group of batches. A refusal means that none of them
	// is stored. The next commit waits for this one.
	Commit func(ctx context.Context, c *CommitCall, next func(context.Context) error) error
	// Snapshot is around the making of a snapshot, which is then stored together with the
	// events of its command. A refusal means that there is no snapshot this time.
	Snapshot func(ctx context.Context, s *SnapshotCall, next func(context.Context) error) error
	// Projection is around each attempt to handle a batch of events in a service of package
	// projection, with its transaction. A refusal is a failure of the target: the attempt is
	// repeated after a pause.
	Projection func(ctx context.Context, p *ProjectionCall, next func(context.Context) error) error
}

// A CommandCall describes a command of a caller, for [Interceptor.Command].
type CommandCall struct {
	// Key is the key of the entity, and ID the id of the command.
	Key store.Key
	ID  store.ID
	// Message is the command, and IdempotencyKey that of [WithIdempotencyKey].
	Message        proto.Message
	IdempotencyKey string
	// Metadata is stored with the records of the command. An interceptor may change it before
	// it calls next, but for CausationID, which stays zero. It is nil after that.
	Metadata *store.Metadata
	// Tell is true for a command of [Ref.Tell]: its work ends when the entity has accepted it.
	Tell bool

	// Receipt is the receipt of the command after next has returned. Repeated is true if the
	// command was answered before, under its idempotency key.
	Receipt  Receipt
	Repeated bool
}

// A QueryCall describes a query, for [Interceptor.Query].
type QueryCall struct {
	// Key is the key of the entity.
	Key store.Key
	// Message is the query. It is nil for [Ref.State].
	Message proto.Message
	// Metadata is the metadata of the call. It is not stored. It is nil after
	// next was called.
	Metadata *store.Metadata

	// Receipt is the receipt of the call after next has returned.
	Receipt Receipt
}

// A DeliveryCall describes an attempt to deliver a message, for [Interceptor.Delivery].
type DeliveryCall struct {
	// ID is the id of the message, which is the same in every attempt. Attempt is the number
	// of the attempt, from 1.
	ID      store.ID
	Attempt int
	// Message is the message after its upcasts.
	Message proto.Message
	// Source is the entity that has sent the message. Target is the entity that gets it; it is
	// zero for an effect. Timer is the name of a timer, or empty.
	Source, Target store.Key
	Timer          string
	// Metadata is that of the message. Its CausationID is the id of the command that has sent
	// the message. An interceptor may change the other fields before it calls next, for a
	// message to an entity.
	Metadata *store.Metadata
	// Enqueued is the time when the message was stored, or zero for [Decision.AfterCommit].
	Enqueued time.Time
}

// A LoadCall describes the reading of an entity, for [Interceptor.Load].
type LoadCall struct {
	// Key is the key of the entity.
	Key store.Key

	// Version is the version of the entity, and Events the number of events that were read,
	// after next has returned.
	Version store.Version
	Events  int
}

// A CommitCall describes a commit, for [Interceptor.Commit].
type CommitCall struct {
	// Batches are the batches of the group. They must not be changed, or used after the
	// function has returned.
	Batches []*store.Batch

	// Results are the results of the batches, in their order, after next has returned nil.
	Results []store.Result
}

// A SnapshotCall describes a snapshot, for [Interceptor.Snapshot].
type SnapshotCall struct {
	// Key is the key of the entity, and Version the version of the snapshot.
	Key     store.Key
	Version store.Version

	// Bytes is the size of the encoded state, after next has returned nil.
	Bytes int
}

// A ProjectionCall describes an attempt to handle a batch of events, for
// [Interceptor.Projection].
type ProjectionCall struct {
	// Name and ModelVersion are the name and the version of the projection.
	Name         string
	ModelVersion int
	// Events are the events of the attempt, in order. They must not be changed, or used after
	// the function has returned. Events of parked entities are among them, though no rule
	// gets these.
	Events []store.Event
	// Replaying is true while the projection handles events that it has handled before, see
	// package projection.
	Replaying bool
}

// hooks are the functions of all interceptors, by type of work. Most are empty.
type hooks struct {
	command  []intercept.Func[CommandCall]
	query    []intercept.Func[QueryCall]
	delivery []intercept.Func[DeliveryCall]
	load     []intercept.Func[LoadCall]
	commit   []intercept.Func[CommitCall]
	snapshot []intercept.Func[SnapshotCall]
}

func newHooks(list []Interceptor) (h hooks, err error) {
	for n, i := range list {
		if i.isZero() {
			return h, fmt.Errorf("%w: Config.Interceptors[%d] has no function", store.ErrInvalid, n)
		}
		h.command = appendHook(h.command, i.Command)
		h.query = appendHook(h.query, i.Query)
		h.delivery = appendHook(h.delivery, i.Delivery)
		h.load = appendHook(h.load, i.Load)
		h.commit = appendHook(h.commit, i.Commit)
		h.snapshot = appendHook(h.snapshot, i.Snapshot)
	}
	return h, nil
}

func (i Interceptor) isZero() bool {
	return i.Command == nil && i.Query == nil && i.Delivery == nil && i.Load == nil && i.Commit == nil && i.Snapshot == nil && i.Projection == nil
}

func appendHook[C any](list []intercept.Func[C], fn intercept.Func[C]) []intercept.Func[C] {
	if fn == nil {
		return list
	}
	return append(list, fn)
}

// A commandRun is a command on its way through the interceptors. It is small, because each command
// makes one.
type commandRun struct {
	CommandCall

	chain intercept.Chain[CommandCall]
	kind  *registry
	call  *call // nil if it has run and failed
	verb  verb
	sent  bool // the command runs, or has run
}

// intercepted runs a command through the interceptors, like [Engine.run].
func (e *Engine) intercepted(ctx context.Context, k *registry, key store.Key, v verb, c *call) (*call, error) {
	c.key = key
	r := &commandRun{
		CommandCall: CommandCall{Key: key, ID: c.ID, Message: c.Message, IdempotencyKey: c.Name, Metadata: &c.Metadata, Tell: v == verbTell},
		kind:        k, call: c, verb: v,
	}
	err := r.chain.Run(ctx, e.hooks.command, &r.CommandCall, r)
	r.Metadata = nil // the call will be another one's
	if !r.sent {
		e.release(c)
		return nil, refusedBy(v, key, err)
	}
	return r.call, err
}

// Run is part of [intercept.Work].
func (r *commandRun) Run(ctx context.Context) (err error) {
	c, e := r.call, r.kind.engine
	r.call, r.sent = nil, true
	m := c.Metadata
	if r.Metadata != nil && r.Metadata != &c.Metadata {
		m = *r.Metadata
	}
	m.Values = maps.Clone(m.Values) // the interceptor may keep its own
	r.Metadata = nil                // the call will be another one's
	withMetadata(c, m)
	if r.verb == verbTell {
		c.Ctx = context.WithoutCancel(ctx)
		return e.tell(r.kind, c.key, c)
	}
	own := c.receipt
	c.Ctx, c.receipt = ctx, &r.Receipt
	r.call, err = e.run(ctx, r.kind, c.key, r.verb, c)
	if own != nil {
		*own = r.Receipt
	}
	if err == nil {
		r.Repeated = r.call.Outcome.Repeated
	}
	return err
}

// refusedBy returns the error of a call that an interceptor has refused. It keeps a refusal of
// its own as it is.
func refusedBy(v verb, key store.Key, err error) error {
	return fmt.Errorf("%s: %w", v.of(key), err)
}

// interceptedQuery runs a query through the interceptors, like [Engine.run].
func (e *Engine) interceptedQuery(ctx context.Context, k *registry, key store.Key, v verb, c *call) (*call, error) {
	q := &QueryCall{Key: key, Message: c.Message, Metadata: &c.Metadata}
	own, waiting := c.receipt, c
	var done *call
	var x intercept.Chain[QueryCall]
	err := x.Run(ctx, e.hooks.query, q, intercept.WorkFunc(func(ctx context.Context) (err error) {
		waiting, q.Metadata = nil, nil // the call will be another one's
		c.Ctx, c.receipt = ctx, &q.Receipt
		done, err = e.run(ctx, k, key, v, c)
		if own != nil {
			*own = q.Receipt
		}
		return err
	}))
	if q.Metadata = nil; waiting != nil {
		e.release(waiting)
	}
	if ran, _ := x.Ran(); !ran {
		return nil, refusedBy(v, key, err)
	}
	return done, err
}

// deliveryCall describes the delivery of a message.
func deliveryCall(m *store.Message, message proto.Message) *DeliveryCall {
	metadata := m.Metadata
	metadata.Values = maps.Clone(metadata.Values)
	return &DeliveryCall{
		ID: m.ID, Attempt: int(m.Attempts) + 1, Message: message, Source: m.Source, Target: m.Target, Timer: m.Timer,
		Metadata: &metadata, Enqueued: m.Time,
	}
}

// snapshotHook returns the function that runs interceptors around the making of a snapshot, or nil.
// The functions run on a goroutine of their own: they may panic or end it, and the entity must go
// on.
func (e *Engine) snapshotHook() func(c *entity.Call, key store.Key, version store.Version, make func() *store.State) *store.State {
	if len(e.hooks.snapshot) == 0 {
		return nil
	}
	return func(c *entity.Call, key store.Key, version store.Version, take func() *store.State) *store.State {
		var s *store.State
		call := &SnapshotCall{Key: key, Version: version}
		ctx := context.WithoutCancel(c.Ctx)
		_, err := guard.Apart(context.Background(), "interceptor", func() (struct{}, error) {
			return struct{}{}, intercept.Around(ctx, e.hooks.snapshot, call, func(context.Context) error {
				if s = take(); s == nil {
					return errNoSnapshot
				}
				call.Bytes = len(s.Payload)
				return nil
			})
		})
		if err != nil && s == nil && !errors.Is(err, errNoSnapshot) {
			e.config.Logger.Warn("snapshot was refused by an interceptor", "entity", key.String(), "version", uint64(version), "error", err)
		}
		return s
	}
}

// errNoSnapshot is what interceptors see if the state cannot become a snapshot; the log has the
// reason.
var errNoSnapshot = errors.New("state cannot be stored as a snapshot")
