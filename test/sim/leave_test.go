package sim_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/perdure/perdure"
	"github.com/perdure/perdure/internal/core/entity"
	testv1 "github.com/perdure/perdure/internal/testproto/perdure/test/v1"
	"github.com/perdure/perdure/store"
)

// A leaver is a decision of an event-sourced or a durable-state kind.
type leaver[D any] interface { //nolint:interfacebloat // what a Decision and a Change have in common
	AfterCommit(...proto.Message) D
	Enqueue(...proto.Message) D
	EnqueueTo(store.Key, proto.Message, ...perdure.MessageOption) D
	Schedule(string, time.Time, proto.Message) D
	ScheduleTo(store.Key, string, time.Time, proto.Message, ...perdure.MessageOption) D
	Cancel(...string) D
	Claim(...store.Claim) D
	Release(...store.Claim) D
}

// space is the space of the values that entities claim.
const space = "values"

// leave adds the side effects of its command to a decision. A Deposit lists them in its tags,
// one line each:
//
//	send                            an effect, tried once
//	enqueue                         an effect by way of the outbox
//	to KIND ID COMMAND [REPLY]      a message to an entity
//	astray KIND ID COMMAND          the same, which others may overtake
//	timer NAME MILLISECONDS         a timer that deposits
//	alarm NAME MILLISECONDS KIND ID a timer that deposits elsewhere
//	cancel NAME                     the end of a timer
//	claim VALUE, release VALUE      a value that is unique
func leave[D leaver[D]](ctx context.Context, d D, tags []string) D {
	version := perdure.Info(ctx).Version
	id := perdure.Info(ctx).CommandID
	for i, tag := range tags {
		w := append(strings.Fields(tag), "", "", "", "", "")
		switch w[0] {
		case "send":
			d = d.AfterCommit(wrapperspb.String(fmt.Sprintf("%v %d %d", id, version, i)))
		case "enqueue":
			d = d.Enqueue(&testv1.Note{Text: fmt.Sprintf("%v %d", id, i)})
		case "to":
			var options []perdure.MessageOption
			if w[4] != "" {
				options = append(options, perdure.ReplyTo(w[4]))
			}
			d = d.EnqueueTo(store.Key{Kind: w[1], ID: w[2]}, command(w[3], w[1], w[2]), options...)
		case "astray":
			d = d.EnqueueTo(store.Key{Kind: w[1], ID: w[2]}, command(w[3], w[1], w[2]), perdure.Unordered())
		case "timer":
			d = d.Schedule(w[1], due(ctx, w[2]), command("deposit", "", ""))
		case "alarm":
			d = d.ScheduleTo(store.Key{Kind: w[3], ID: w[4]}, w[1], due(ctx, w[2]), command("deposit", "", ""))
		case "cancel":
			d = d.Cancel(w[1])
		case "claim":
			d = d.Claim(store.Claim{Space: space, Value: w[1]})
		case "release":
			d = d.Release(store.Claim{Space: space, Value: w[1]})
		default:
			panic("a tag that says nothing: " + tag)
		}
	}
	return d
}

// leaves counts the outbox rows that a command adds, and returns the values that it claims. The
// lines take effect in order, so a timer that a later line cancels is not counted.
func leaves(m proto.Message) (rows int, claims []string) {
	c, ok := m.(*testv1.Deposit)
	if !ok {
		return 0, nil
	}
	timers := map[string]int{}
	for _, tag := range c.GetTags() {
		verb, rest, _ := strings.Cut(tag, " ")
		name, _, _ := strings.Cut(rest, " ")
		switch verb {
		case "enqueue", "to", "astray":
			rows++
		case "timer", "alarm":
			rows++
			timers[name]++
		case "cancel":
			rows -= timers[name]
			timers[name] = 0
		case "claim":
			claims = append(claims, rest)
		case "release":
			claims = slices.DeleteFunc(claims, func(c string) bool { return c == rest })
		}
	}
	return rows, claims
}

func due(ctx context.Context, milliseconds string) time.Time {
	n, err := strconv.Atoi(milliseconds)
	if err != nil {
		panic(err)
	}
	return perdure.Now(ctx).Add(time.Duration(n) * time.Millisecond)
}

// command returns one of the commands that entities send each other. The parameters kind and id
// name the receiver.
func command(name, kind, id string) proto.Message {
	switch name {
	case "deposit":
		return &testv1.Deposit{Amount: 2, Parts: 1}
	case "withdraw":
		return &testv1.Withdraw{Amount: 6}
	case "touch":
		return &testv1.Touch{}
	case "relay":
		return &testv1.Deposit{Amount: 1, Parts: 1, Tags: []string{"send", "enqueue", "cancel x"}}
	case "whisper":
		return &testv1.Deposit{Tags: []string{fmt.Sprintf("to %s %s deposit", kind, id)}}
	}
	panic("no such command: " + name)
}

// pickOf chooses one of several values at random.
func pickOf[T any](r *rand.Rand, values ...T) T { return values[r.IntN(len(values))] }

// tags chooses the side effects of a Deposit at random.
func (c *client) tags() []string {
	r := c.w.random
	key := c.w.keys[r.IntN(len(c.w.keys))]
	pick := func(words ...string) string { return words[r.IntN(len(words))] }
	var tags []string
	for range 1 + r.IntN(3) {
		timer := pick("x", "y")
		switch x := r.IntN(20); {
		case x < 3:
			tags = append(tags, "send")
		case x < 7:
			tags = append(tags, "enqueue")
			if c.w.order() { // more effects in one flow
				tags = append(tags, slices.Repeat([]string{"enqueue"}, r.IntN(4))...)
			}
		case x < 11:
			tags = append(tags, fmt.Sprintf("to %s %s %s %s", key.Kind, key.ID,
				pick("deposit", "withdraw", "touch", "relay", "whisper"), pick("", "", "pay")))
		case x < 12 || x < 15 && !c.w.timers:
			for range pickOf(r, 1, 1, 2, 9) { // messages that are decided together
				tags = append(tags, fmt.Sprintf("astray %s %s %s", key.Kind, key.ID, pick("deposit", "deposit", "deposit", "relay", "withdraw")))
			}
		case x < 14:
			tags = append(tags, fmt.Sprintf("timer %s %d", timer, r.IntN(150)))
		case x < 15:
			tags = append(tags, fmt.Sprintf("alarm %s %d %s %s", timer, r.IntN(150), key.Kind, key.ID))
		case x < 17:
			tags = append(tags, "cancel "+timer)
		case x < 19:
			tags = append(tags, "claim "+pick("red", "blue"))
		default:
			tags = append(tags, "release "+pick("red", "blue"))
		}
	}
	return tags
}

// refusal returns the form in which a receipt stores the error of a rule.
func refusal(err error) *store.Refusal {
	e, ok := errors.AsType[*perdure.Error](err)
	if !ok {
		panic(err)
	}
	return &store.Refusal{Code: uint32(e.Code), Message: e.Message}
}

// refused returns the error of a stored refusal.
func refused(r *store.Refusal) error {
	return &perdure.Error{Code: perdure.Code(r.Code), Message: r.Message}
}

// newMessage returns the decoded command of a message.
func newMessage(rules map[string]*entity.Rules, m *store.Message) proto.Message {
	message := rules[m.Target.Kind].NewCommand(m.Type)
	decode(m.Payload, message)
	return message
}
