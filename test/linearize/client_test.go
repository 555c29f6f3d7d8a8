package linearize_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/perdure/perdure"
	testv1 "github.com/perdure/perdure/internal/testproto/perdure/test/v1"
	"github.com/perdure/perdure/store"
)

// triesMax bounds the calls by which a client sends a command with a key.
const triesMax = 30

// A host gives clients an engine to call. It may be another one at each call.
type host interface {
	// ref returns the entity with a number on engine n modulo the number of engines. It
	// waits while that engine is being opened.
	ref(ctx context.Context, n, entity int) (perdure.Ref[*testv1.Account], error)
}

// A client calls one entity, one call after another.
type client struct {
	number  int // its own, unique among all clients of all entities
	entity  int
	random  *rand.Rand
	record  recorder
	host    host
	wanted  uint64 // version that it saw last
	numbers int64  // number of commands sent so far
	base    int64  // lower bound of its command numbers
}

// numbersMax bounds the commands that a client can send.
const numbersMax = 1 << 20

func newClient(number, entity int, seed uint64, record recorder, h host) *client {
	return &client{
		number: number, entity: entity, record: record, host: h,
		random: rand.New(rand.NewPCG(seed, uint64(number))), base: int64(number+1) * numbersMax,
	}
}

// call makes one call. For a command with a key it repeats the call until it has an answer,
// and sometimes once more.
func (c *client) call(ctx context.Context) {
	o := op{Client: c.number, Entity: c.entity}
	switch x := c.random.IntN(100); {
	case x < 45:
		o.What, o.Parts = whatDeposit, 1+c.random.IntN(3)
	case x < 65:
		o.What = whatWithdraw
	case x < 70:
		o.What = whatTouch
	case x < 88:
		o.What = whatQuery
	default:
		o.What = whatState
	}
	if !o.writes() {
		c.send(ctx, &o)
		return
	}
	c.numbers++
	o.Number = c.base + c.numbers
	switch x := c.random.IntN(100); {
	case x < 35:
		o.Key = fmt.Sprintf("k%d", o.Number)
	case x < 50:
		o.Conditional, o.IfVersion = true, c.wanted
	}
	for try := 1; ; try++ {
		again := o // a copy, because every call has a record of its own
		c.send(ctx, &again)
		answered := again.Ending == endDone || again.Ending == endRefused
		if o.Key == "" || try == triesMax || answered && c.random.IntN(4) > 0 || ctx.Err() != nil {
			return
		}
	}
}

// impatient bounds the deadline of a call whose client does not wait long.
const impatient = 2 * time.Millisecond

func (c *client) send(ctx context.Context, o *op) {
	ref, err := c.host.ref(ctx, c.random.IntN(1000), c.entity)
	if err != nil {
		return // there is no engine, so no call has begun
	}
	if c.random.IntN(12) == 0 {
		short, cancel := context.WithTimeout(ctx, time.Duration(c.random.Int64N(int64(impatient))))
		defer cancel()
		ctx = short
	}
	c.record.begin(o)
	var receipt perdure.Receipt
	options := []perdure.CallOption{perdure.WithReceipt(&receipt)}
	if o.Key != "" {
		options = append(options, perdure.WithIdempotencyKey(o.Key))
	}
	if o.Conditional {
		options = append(options, perdure.IfVersion(store.Version(o.IfVersion)))
	}
	c.finish(o, &receipt, c.ask(ctx, ref, o, options))
	c.record.end(o)
}

// ask makes the call and records the state in the answer.
func (c *client) ask(ctx context.Context, ref perdure.Ref[*testv1.Account], o *op, options []perdure.CallOption) error {
	show := func(digest int64) { o.Shows, o.Digest = true, digest }
	var command proto.Message
	switch o.What {
	case whatQuery:
		b, err := perdure.Query[*testv1.Balance](ctx, ref, &testv1.GetBalance{}, options...)
		if err == nil {
			show(b.GetAmount())
		}
		return err
	case whatState:
		s, err := ref.State(ctx, options...)
		if err == nil {
			show(s.GetBalance())
		}
		return err
	case whatDeposit:
		command = &testv1.Deposit{Amount: o.Number, Parts: uint32(o.Parts)}
	case whatWithdraw:
		command = &testv1.Withdraw{Amount: o.Number}
	case whatTouch:
		command = &testv1.Touch{}
	}
	if c.random.IntN(2) == 0 {
		_, err := ref.Do(ctx, command, options...)
		return err
	}
	s, err := ref.Ask(ctx, command, options...)
	if err == nil {
		show(s.GetBalance())
	}
	return err
}

// finish records what the client knows after the call.
func (c *client) finish(o *op, r *perdure.Receipt, err error) {
	o.Ending = endingOf(err)
	if err != nil {
		o.Error = err.Error()
	}
	if o.Ending == endNothing && !o.writes() {
		return
	}
	if o.Ending != endUnknown && o.Ending != endNothing {
		o.Version = uint64(r.Version)
		c.wanted = o.Version
	}
}

// endingOf returns the ending that an error stands for. Only ErrOutcomeUnknown leaves open
// whether the command is stored.
func endingOf(err error) ending {
	refusal, refused := errors.AsType[*perdure.Error](err)
	switch {
	case err == nil:
		return endDone
	case refused && refusal.Code == perdure.FailedPrecondition:
		return endRefused
	case errors.Is(err, perdure.ErrVersion):
		return endVersion
	case errors.Is(err, perdure.ErrOutcomeUnknown):
		return endUnknown
	case errors.Is(err, perdure.ErrKeyReused):
		return endConflict
	}
	return endNothing
}
