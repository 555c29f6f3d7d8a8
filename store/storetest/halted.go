package storetest

import (
	"fmt"
	"iter"
	"slices"
	"time"

	"github.com/perdure/perdure/store"
)

var haltedCases = []testCase{
	{name: "a halted message is a parked one that keeps its place among the undelivered", run: func(x *fixture) {
		x.commit(&store.Batch{Key: book("a"), Enqueue: []store.Message{
			x.timer("t", "later", noon.Add(time.Hour)), x.timer("u", "noon", noon), x.message("1"), x.message("2"), x.message("3"),
		}})
		m := x.halt("2")
		x.wantMessages("pending", x.messages(store.MessageQuery{}), "1", "3", "noon", "later")
		parked := x.messages(store.MessageQuery{Parked: true})
		want(x, "parked", parked, []*store.Message{m})
		want(x, "halted", parked[0].Halted, true)
		x.wantMessages("undelivered", x.undelivered(store.MessageQuery{}), "1", "2", "3", "noon", "later")
		x.wantMessages("undelivered by noon", x.undelivered(store.MessageQuery{DueBy: noon}), "1", "2", "3", "noon")
		x.wantMessages("undelivered from it on", x.undelivered(store.MessageQuery{After: m.Sequence - 1}), "2", "3", "noon", "later")
		x.wantMessages("undelivered above it", x.undelivered(store.MessageQuery{After: m.Sequence}), "3", "noon", "later")
		x.wantMessages("undelivered timers", x.undelivered(store.MessageQuery{AfterDue: noon}), "noon", "later")
		want(x, "halted among the undelivered", x.undelivered(store.MessageQuery{})[1], m)
		x.wantNoFaults(x.log)
	}},
	{name: "a halted message that is taken up again is where it was", run: func(x *fixture) {
		x.commit(&store.Batch{Key: book("a"), Enqueue: []store.Message{x.message("1"), x.message("2"), x.message("3")}})
		m := x.halt("1")
		m.Parked, m.Halted = false, false
		x.commit(&store.Batch{Settle: []store.Settlement{{Sequence: m.Sequence, Message: m, Required: true, Conditional: true, IfParked: true}}})
		x.wantMessages("parked", x.messages(store.MessageQuery{Parked: true}))
		x.wantMessages("pending", x.messages(store.MessageQuery{}), "1", "2", "3")
		x.wantMessages("undelivered", x.undelivered(store.MessageQuery{}), "1", "2", "3")
		x.wantNoFaults(x.log)
	}},
	{name: "a halted message that is removed is gone", run: func(x *fixture) {
		x.commit(&store.Batch{Key: book("a"), Enqueue: []store.Message{x.message("1"), x.message("2"), x.message("3")}})
		m := x.halt("2")
		x.commit(&store.Batch{Settle: []store.Settlement{{Sequence: m.Sequence, Required: true, Conditional: true, IfParked: true}}})
		x.wantMessages("parked", x.messages(store.MessageQuery{Parked: true}))
		x.wantMessages("undelivered", x.undelivered(store.MessageQuery{}), "1", "3")
		x.wantNoFaults(x.log)
	}},
	{name: "a halted message that is parked only has left the undelivered", run: func(x *fixture) {
		x.commit(&store.Batch{Key: book("a"), Enqueue: []store.Message{x.message("1"), x.message("2")}})
		m := x.halt("1")
		m.Halted = false
		x.commit(&store.Batch{Settle: []store.Settlement{{Sequence: m.Sequence, Message: m}}})
		x.wantMessages("parked", x.messages(store.MessageQuery{Parked: true}), "1")
		x.wantMessages("undelivered", x.undelivered(store.MessageQuery{}), "2")
	}},
	{name: "halted messages are in order over many pages", run: func(x *fixture) {
		const n = 700
		x.commit(&store.Batch{Key: book("a"), Enqueue: numberedMessages(x, n)})
		var settle []store.Settlement
		var all, halted []string
		for i, m := range x.messages(store.MessageQuery{}) {
			all = append(all, fmt.Sprint(i))
			if i%3 == 0 || i > n/2 && i < n/2+200 {
				m.Parked, m.Halted = true, true
				halted = append(halted, fmt.Sprint(i))
				settle = append(settle, store.Settlement{Sequence: m.Sequence, Message: m})
			}
		}
		x.commit(&store.Batch{Settle: settle})
		x.wantMessages("undelivered", x.undelivered(store.MessageQuery{}), all...)
		x.wantMessages("parked", x.messages(store.MessageQuery{Parked: true}), halted...)
		want(x, "pending", len(x.messages(store.MessageQuery{})), n-len(halted))
	}},
	{name: "only a parked message that has a lane can be halted", run: func(x *fixture) {
		x.commit(&store.Batch{Key: book("a"), Enqueue: []store.Message{x.message("1"), x.timer("t", "timer", noon)}})
		messages := x.messages(store.MessageQuery{})
		for what, change := range map[string]func(m *store.Message){
			"not parked": func(m *store.Message) { m.Parked = false },
			"unordered":  func(m *store.Message) { m.Unordered = true },
			"due later":  func(m *store.Message) { m.Due = noon },
		} {
			m := *messages[0]
			m.Parked, m.Halted = true, true
			change(&m)
			x.wantError(what, x.try(&store.Batch{Settle: []store.Settlement{{Sequence: m.Sequence, Message: &m}}}).Err, store.ErrInvalid)
		}
		timer := *messages[1]
		timer.Parked, timer.Halted = true, true
		x.wantError("a timer", x.try(&store.Batch{Settle: []store.Settlement{{Sequence: timer.Sequence, Message: &timer}}}).Err, store.ErrInvalid)
		fresh := x.message("new")
		fresh.Parked, fresh.Halted = true, true
		x.wantError("a new one", x.try(&store.Batch{Key: book("b"), Enqueue: []store.Message{fresh}}).Err, store.ErrInvalid)
		want(x, "messages", x.undelivered(store.MessageQuery{}), messages)
	}},
	{name: "halted messages outlive the log that has halted them", needs: []need{durable}, run: func(x *fixture) {
		x.commit(&store.Batch{Key: book("a"), Enqueue: []store.Message{x.message("1"), x.message("2")}})
		m := x.halt("1")
		x.reopen()
		x.wantMessages("undelivered", x.undelivered(store.MessageQuery{}), "1", "2")
		want(x, "parked", x.messages(store.MessageQuery{Parked: true}), []*store.Message{m})
	}},
	{name: "a copy has halted messages as they were", run: func(x *fixture) {
		x.commit(&store.Batch{Key: book("a"), Enqueue: []store.Message{x.message("1"), x.message("2"), x.message("3")}})
		x.halt("2")
		y := x.copy()
		want(x, "undelivered", y.undelivered(store.MessageQuery{}), x.undelivered(store.MessageQuery{}))
		want(x, "parked", y.messages(store.MessageQuery{Parked: true}), x.messages(store.MessageQuery{Parked: true}))
		x.wantNoFaults(y.log)
	}},
	{name: "a damaged halted message is told in its place", needs: []need{damage}, run: func(x *fixture) {
		x.commit(&store.Batch{Key: book("a"), Enqueue: []store.Message{x.message("1"), x.message("2"), x.message("3")}})
		x.damage(x.halt("2"), flips[0].flip)
		var got []string
		for m, err := range x.log.Undelivered(x.ctx, store.MessageQuery{}) {
			if err != nil {
				x.wantError("the damaged one", err, store.ErrCorrupt)
				got = append(got, "damaged")
				continue
			}
			got = append(got, string(m.Payload))
		}
		if w := []string{"1", "damaged", "3"}; !slices.Equal(got, w) {
			x.Errorf("undelivered: got %q, want %q", got, w)
		}
	}},
	{name: "a conditional settlement leaves a message alone that is parked or no longer", run: func(x *fixture) {
		park(x, "1", "2", "3")
		parked, pending := x.messages(store.MessageQuery{Parked: true}), x.messages(store.MessageQuery{})[0]
		remove := func(m *store.Message, ifParked bool) store.Settlement {
			return store.Settlement{Sequence: m.Sequence, Required: true, Conditional: true, IfParked: ifParked}
		}
		x.wantGone(x.try(&store.Batch{Settle: []store.Settlement{remove(pending, true)}}).Err, pending.Sequence)
		x.wantGone(x.try(&store.Batch{Settle: []store.Settlement{remove(parked[0], false)}}).Err, parked[0].Sequence)
		x.commit(&store.Batch{Settle: []store.Settlement{remove(parked[0], true), remove(pending, false)}})
		x.wantMessages("pending", x.messages(store.MessageQuery{}))
		x.wantMessages("parked", x.messages(store.MessageQuery{Parked: true}), "3")
	}},
	{name: "of two operators who unpark and drop a message one succeeds", run: func(x *fixture) {
		park(x, "1", "2", "3")
		m := x.messages(store.MessageQuery{Parked: true})[0]
		up := *m
		up.Parked = false
		unpark := &store.Batch{Settle: []store.Settlement{{Sequence: m.Sequence, Message: &up, Required: true, Conditional: true, IfParked: true}}}
		drop := &store.Batch{Settle: []store.Settlement{{Sequence: m.Sequence, Required: true, Conditional: true, IfParked: true}}}
		results := x.group(unpark, drop)
		want(x, "error of the first", results[0].Err, nil)
		x.wantGone(results[1].Err, m.Sequence)
		x.wantMessages("pending", x.messages(store.MessageQuery{}), "1", "2")
		winners := race(x, 8, func(int) error {
			s := store.Settlement{Sequence: m.Sequence + 2, Required: true, Conditional: true, IfParked: true}
			return x.tryFrom(&store.Batch{Settle: []store.Settlement{s}})
		}, store.ErrMessageGone)
		want(x, "winners", winners, 1)
	}},
}

// undelivered returns what [store.Outbox.Undelivered] yields.
func (x *fixture) undelivered(q store.MessageQuery) []*store.Message {
	x.Helper()
	return x.all(fmt.Sprintf("undelivered %+v", q), x.log.Undelivered(x.ctx, q))
}

// all returns the messages of an iteration.
func (x *fixture) all(what string, seq iter.Seq2[*store.Message, error]) []*store.Message {
	x.Helper()
	var messages []*store.Message
	for m, err := range seq {
		if err != nil {
			x.Fatalf("%s: %v", what, err)
		}
		messages = append(messages, m)
	}
	return messages
}

// halt halts the pending message with a text, and returns it as it is then.
func (x *fixture) halt(text string) *store.Message {
	x.Helper()
	for _, m := range x.messages(store.MessageQuery{}) {
		if string(m.Payload) != text {
			continue
		}
		m.Parked, m.Halted, m.Attempts, m.LastError = true, true, 3, "connection refused"
		x.commit(&store.Batch{Settle: []store.Settlement{{Sequence: m.Sequence, Message: m, Required: true, Conditional: true}}})
		return m
	}
	x.Fatalf("no message %q is pending", text)
	return nil
}
