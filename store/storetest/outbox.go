package storetest

import (
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/perdure/perdure/store"
)

// noon is the due time of the timers in the cases.
var noon = time.Date(2030, 5, 6, 12, 0, 0, 0, time.UTC)

var outboxCases = []testCase{
	{name: "an empty outbox has no messages", run: func(x *fixture) {
		x.wantMessages("pending", x.messages(store.MessageQuery{}))
		x.wantMessages("parked", x.messages(store.MessageQuery{Parked: true}))
	}},
	{name: "a message is read back as it was written", run: func(x *fixture) {
		m := fullMessage(x)
		r := x.commit(&store.Batch{Key: book("a"), Enqueue: []store.Message{m}})
		m.Sequence, m.Source, m.Time = r.Sequence, book("a"), r.Time.UTC()
		want(x, "messages", x.messages(store.MessageQuery{}), []*store.Message{&m})
	}},
	{name: "the messages of a batch have consecutive sequences", run: func(x *fixture) {
		first := x.commit(&store.Batch{Key: book("a"), Enqueue: []store.Message{x.message("1"), x.message("2"), x.message("3")}})
		second := x.commit(&store.Batch{Key: book("b"), Enqueue: []store.Message{x.message("4")}})
		messages := x.messages(store.MessageQuery{})
		x.wantMessages("pending", messages, "1", "2", "3", "4")
		for i, m := range messages[:3] {
			want(x, "sequence", m.Sequence, first.Sequence-2+uint64(i))
		}
		want(x, "sequence", messages[3].Sequence, second.Sequence)
		if second.Sequence <= first.Sequence {
			x.Errorf("sequence of a later batch: got %d after %d", second.Sequence, first.Sequence)
		}
	}},
	{name: "a message makes no version and takes no position", run: func(x *fixture) {
		r := x.commit(&store.Batch{Key: book("a"), Enqueue: []store.Message{x.message("1")}})
		want(x, "position", r.Position, 0)
		x.wantVersion(book("a"), 0)
		want(x, "heads", x.heads(), []store.Position{0})
	}},
	{name: "a batch without messages has no sequence in its result", run: func(x *fixture) {
		x.commit(&store.Batch{Key: book("a"), Enqueue: []store.Message{x.message("1")}})
		want(x, "sequence", x.append(book("b"), 0, "e").Sequence, 0)
	}},
	{name: "pending messages come in order of due time, then of sequence", run: func(x *fixture) {
		x.commit(&store.Batch{Key: book("a"), Enqueue: []store.Message{
			x.timer("t1", "at 2", noon.Add(2)), x.timer("t2", "at 1", noon.Add(1)), x.message("now"),
			x.timer("t3", "at 1 too", noon.Add(1)), x.timer("t4", "at 0", noon), x.message("now too"),
		}})
		x.wantMessages("pending", x.messages(store.MessageQuery{}), "now", "now too", "at 0", "at 1", "at 1 too", "at 2")
	}},
	{name: "a due time that a store keeps as none sorts as none", run: func(x *fixture) {
		first, epoch := time.Unix(0, math.MinInt64), time.Unix(0, 0)
		x.commit(&store.Batch{Key: book("a"), Enqueue: []store.Message{
			x.message("now"), x.timer("t1", "first", first), x.timer("t2", "second", first.Add(1)), x.message("now too"),
			x.timer("t3", "epoch", epoch), x.timer("t4", "after", epoch.Add(1)), x.message("now at last"),
		}})
		all := x.messages(store.MessageQuery{})
		x.wantMessages("pending", all, "now", "first", "now too", "epoch", "now at last", "second", "after")
		for i, m := range all {
			if got, wanted := m.Due.IsZero(), i < 5; got != wanted {
				x.Errorf("message %q: due at %v, want no due time: %t", m.Payload, m.Due, wanted)
			}
			rest := x.messages(store.MessageQuery{After: m.Sequence, AfterDue: m.Due})
			want(x, "number of messages after "+string(m.Payload), len(rest), len(all)-1-i)
		}
		x.commit(&store.Batch{Key: book("a"), Cancel: []string{"t1", "t2", "t3"}})
		x.wantMessages("not cancelled", x.messages(store.MessageQuery{}), "now", "now too", "now at last", "after")
	}},
	{name: "messages due by a time leave out later ones", run: func(x *fixture) {
		x.commit(&store.Batch{Key: book("a"), Enqueue: []store.Message{
			x.timer("t1", "at 2", noon.Add(2)), x.timer("t2", "at 1", noon.Add(1)), x.message("now"),
		}})
		x.wantMessages("by 0", x.messages(store.MessageQuery{DueBy: noon}), "now")
		x.wantMessages("by 1", x.messages(store.MessageQuery{DueBy: noon.Add(1)}), "now", "at 1")
		x.wantMessages("by 2", x.messages(store.MessageQuery{DueBy: noon.Add(2)}), "now", "at 1", "at 2")
	}},
	{name: "a time that nanoseconds cannot hold selects as the nearest that they can", run: func(x *fixture) {
		early := time.Date(1700, 1, 1, 0, 0, 0, 0, time.UTC)
		x.commit(&store.Batch{Key: book("a"), Enqueue: []store.Message{x.timer("t1", "late", noon), x.timer("t2", "early", early)}})
		for _, year := range []int{2400, 9999} {
			x.wantMessages(fmt.Sprint("by ", year), x.messages(store.MessageQuery{DueBy: time.Date(year, 1, 1, 0, 0, 0, 0, time.UTC)}), "early", "late")
		}
		x.wantMessages("by 1000", x.messages(store.MessageQuery{DueBy: time.Date(1000, 1, 1, 0, 0, 0, 0, time.UTC)}))
		x.wantMessages("by 1970", x.messages(store.MessageQuery{DueBy: time.Unix(0, 0)}), "early")
	}},
	{name: "the outbox can be paged through", run: func(x *fixture) {
		var wanted []string
		for i := range 300 {
			text := fmt.Sprint(i)
			x.commit(&store.Batch{Key: book("a"), Enqueue: []store.Message{x.timer(text, text, noon.Add(time.Duration(i/7)))}})
			wanted = append(wanted, text)
		}
		var got []string
		q := store.MessageQuery{DueBy: noon.Add(time.Hour)}
		for range 100 {
			page := 0
			for m, err := range x.log.Messages(x.ctx, q) {
				x.wantNoError("outbox", err)
				got = append(got, string(m.Payload))
				q.After, q.AfterDue = m.Sequence, m.Due
				if page++; page == 4 {
					break
				}
			}
		}
		want(x, "messages", got, wanted)
	}},
	{name: "paging begins above both due time and sequence", run: func(x *fixture) {
		x.commit(&store.Batch{Key: book("a"), Enqueue: []store.Message{
			x.timer("t1", "late", noon.Add(1)), x.timer("t2", "early", noon), x.message("now"),
		}})
		all := x.messages(store.MessageQuery{})
		x.wantMessages("pending", all, "now", "early", "late")
		for i, m := range all {
			rest := x.messages(store.MessageQuery{After: m.Sequence, AfterDue: m.Due})
			want(x, "number of messages after "+string(m.Payload), len(rest), 2-i)
		}
	}},
	{name: "reading the outbox can end early", run: func(x *fixture) {
		x.commit(&store.Batch{Key: book("a"), Enqueue: []store.Message{x.message("1"), x.message("2")}})
		for _, err := range x.log.Messages(x.ctx, store.MessageQuery{}) {
			x.wantNoError("outbox", err)
			break
		}
		x.commit(&store.Batch{Key: book("a"), Enqueue: []store.Message{x.message("3")}}) // an iteration that was broken off holds no lock
	}},
	{name: "many messages of many entities are kept and settled", run: func(x *fixture) {
		for i := range 10 {
			x.commit(&store.Batch{Key: book(fmt.Sprint(i)), Enqueue: numberedMessages(x, 100)})
		}
		messages := x.messages(store.MessageQuery{})
		want(x, "number of messages", len(messages), 1000)
		b := &store.Batch{}
		for i, m := range messages {
			if i%3 != 0 {
				b.Settle = append(b.Settle, store.Settlement{Sequence: m.Sequence, Required: true})
			}
		}
		x.commit(b)
		for i, m := range x.messages(store.MessageQuery{}) {
			want(x, "message", m, messages[3*i])
		}
	}},
	{name: "messages are the caller's to keep", run: func(x *fixture) {
		x.commit(&store.Batch{Key: book("a"), Enqueue: []store.Message{fullMessage(x), fullMessage(x)}})
		messages := x.messages(store.MessageQuery{})
		before := string(messages[1].Payload)
		clear(messages[0].Payload)
		clear(messages[0].Metadata.Values)
		want(x, "payload of the other message", string(messages[1].Payload), before)
		want(x, "payload read again", string(x.messages(store.MessageQuery{})[0].Payload), before)
	}},
	{name: "the log does not keep a message of the batch", run: func(x *fixture) {
		b := &store.Batch{Key: book("a"), Enqueue: []store.Message{x.message("1")}}
		x.commit(b)
		clear(b.Enqueue[0].Payload)
		x.wantMessages("pending", x.messages(store.MessageQuery{}), "1")
	}},
	{name: "messages of a refused batch are not stored", run: func(x *fixture) {
		x.try(&store.Batch{Key: book("a"), Expected: 1, Enqueue: []store.Message{x.message("no")}})
		x.wantMessages("pending", x.messages(store.MessageQuery{}))
	}},

	{name: "a timer replaces the timer of the same name", run: func(x *fixture) {
		old := x.commit(&store.Batch{Key: book("a"), Enqueue: []store.Message{x.timer("t", "old", noon), x.timer("u", "other", noon)}})
		fresh := x.commit(&store.Batch{Key: book("a"), Enqueue: []store.Message{x.timer("t", "new", noon.Add(1))}})
		x.wantMessages("pending", x.messages(store.MessageQuery{}), "other", "new")
		if fresh.Sequence <= old.Sequence {
			x.Errorf("sequence of the new timer: got %d, want more than %d", fresh.Sequence, old.Sequence)
		}
	}},
	{name: "of two timers of one name in a batch the later one stays", run: func(x *fixture) {
		x.commit(&store.Batch{Key: book("a"), Enqueue: []store.Message{x.timer("t", "old", noon), x.timer("t", "new", noon)}})
		x.wantMessages("pending", x.messages(store.MessageQuery{}), "new")
	}},
	{name: "timers of two entities may have the same name", run: func(x *fixture) {
		for _, key := range []store.Key{book("a"), book("aa"), {Kind: "shelf", ID: "a"}} {
			x.commit(&store.Batch{Key: key, Enqueue: []store.Message{x.timer("t", key.String(), noon)}})
		}
		x.commit(&store.Batch{Key: book("aa"), Cancel: []string{"t"}})
		x.wantMessages("pending", x.messages(store.MessageQuery{}), "book/a", "shelf/a")
	}},
	{name: "messages without a timer name do not replace each other", run: func(x *fixture) {
		x.commit(&store.Batch{Key: book("a"), Enqueue: []store.Message{x.message("1"), x.message("2")}})
		x.commit(&store.Batch{Key: book("a"), Enqueue: []store.Message{x.message("3")}})
		x.wantMessages("pending", x.messages(store.MessageQuery{}), "1", "2", "3")
	}},
	{name: "a cancelled timer is gone", run: func(x *fixture) {
		x.commit(&store.Batch{Key: book("a"), Enqueue: []store.Message{x.timer("t", "1", noon), x.timer("tt", "2", noon), x.message("3")}})
		x.commit(&store.Batch{Key: book("a"), Cancel: []string{"t"}})
		x.wantMessages("pending", x.messages(store.MessageQuery{}), "3", "2")
	}},
	{name: "cancelling a timer that is not set is ignored", run: func(x *fixture) {
		x.commit(&store.Batch{Key: book("a"), Enqueue: []store.Message{x.timer("t", "1", noon)}})
		x.commit(&store.Batch{Key: book("a"), Cancel: []string{"u", "u"}, Events: x.events("e")})
		x.commit(&store.Batch{Key: book("b"), Cancel: []string{"t"}})
		x.wantMessages("pending", x.messages(store.MessageQuery{}), "1")
	}},
	{name: "a timer can be cancelled and set again in one batch", run: func(x *fixture) {
		x.commit(&store.Batch{Key: book("a"), Enqueue: []store.Message{x.timer("t", "old", noon)}})
		x.commit(&store.Batch{Key: book("a"), Cancel: []string{"t"}, Enqueue: []store.Message{x.timer("t", "new", noon)}})
		x.wantMessages("pending", x.messages(store.MessageQuery{}), "new")
	}},
	{name: "a cancelled timer can be set again later", run: func(x *fixture) {
		x.commit(&store.Batch{Key: book("a"), Enqueue: []store.Message{x.timer("t", "old", noon)}})
		x.commit(&store.Batch{Key: book("a"), Cancel: []string{"t"}})
		x.commit(&store.Batch{Key: book("a"), Enqueue: []store.Message{x.timer("t", "new", noon)}})
		x.wantMessages("pending", x.messages(store.MessageQuery{}), "new")
	}},

	{name: "a settled message is gone", run: func(x *fixture) {
		r := x.commit(&store.Batch{Key: book("a"), Enqueue: []store.Message{x.message("1"), x.message("2")}})
		x.commit(&store.Batch{Settle: []store.Settlement{{Sequence: r.Sequence - 1, Required: true}}})
		x.wantMessages("pending", x.messages(store.MessageQuery{}), "2")
	}},
	{name: "any entity can settle a message", run: func(x *fixture) {
		r := x.commit(&store.Batch{Key: book("a"), Enqueue: []store.Message{x.message("1")}})
		x.commit(&store.Batch{Key: book("b"), Settle: []store.Settlement{{Sequence: r.Sequence}}, Events: x.events("done")})
		x.wantMessages("pending", x.messages(store.MessageQuery{}))
	}},
	{name: "settling a message that is gone does nothing", run: func(x *fixture) {
		r := x.commit(&store.Batch{Key: book("a"), Enqueue: []store.Message{x.message("1")}})
		settle := store.Settlement{Sequence: r.Sequence}
		x.commit(&store.Batch{Settle: []store.Settlement{settle}})
		m := x.message("again")
		settle.Message = &m
		x.commit(&store.Batch{Key: book("a"), Settle: []store.Settlement{settle, {Sequence: 999}}, Events: x.events("e")})
		x.wantMessages("pending", x.messages(store.MessageQuery{}))
		x.wantTexts("read", x.read(book("a"), 0), "e")
	}},
	{name: "a required settlement of a message that is gone refuses the whole batch", run: func(x *fixture) {
		r := x.commit(&store.Batch{Key: book("a"), Enqueue: []store.Message{x.message("1"), x.message("2")}})
		x.commit(&store.Batch{Settle: []store.Settlement{{Sequence: r.Sequence}}})
		refusal := x.try(&store.Batch{
			Key: book("b"), Events: x.events("no"), Enqueue: []store.Message{x.message("no")},
			Settle: []store.Settlement{{Sequence: r.Sequence - 1, Required: true}, {Sequence: r.Sequence, Required: true}},
		})
		x.wantGone(refusal.Err, r.Sequence)
		x.wantVersion(book("b"), 0)
		x.wantMessages("pending", x.messages(store.MessageQuery{}), "1")
	}},
	{name: "a conditional settlement leaves the message of another owner alone", run: func(x *fixture) {
		owned := func(text string) store.Message {
			m := x.message(text)
			m.Owner = 1
			return m
		}
		r := x.commit(&store.Batch{Key: book("a"), Enqueue: []store.Message{owned("1"), owned("2"), owned("3"), owned("4")}})
		for _, m := range x.messages(store.MessageQuery{})[:3] {
			m.Owner = 2 // owner 2 takes the message over
			x.commit(&store.Batch{Settle: []store.Settlement{{Sequence: m.Sequence, Message: m, Required: true, Conditional: true, IfOwner: 1}}})
		}
		var parked []store.Settlement
		for _, m := range x.messages(store.MessageQuery{}) {
			m.Owner, m.Parked = 1, true
			parked = append(parked, store.Settlement{Sequence: m.Sequence, Message: m, Conditional: true, IfOwner: 1})
		}
		x.commit(&store.Batch{Key: book("b"), Events: x.events("e"), Settle: parked})
		x.wantMessages("pending", x.messages(store.MessageQuery{}), "1", "2", "3")
		x.wantMessages("parked", x.messages(store.MessageQuery{Parked: true}), "4")
		remove := store.Settlement{Sequence: r.Sequence - 3, Conditional: true, IfOwner: 1}
		x.commit(&store.Batch{Settle: []store.Settlement{remove, {Sequence: r.Sequence - 2, Conditional: true, IfOwner: 2}}})
		x.wantMessages("pending after the removal", x.messages(store.MessageQuery{}), "1", "3")
		remove.Required = true
		x.wantGone(x.try(&store.Batch{Key: book("c"), Events: x.events("no"), Settle: []store.Settlement{remove}}).Err, remove.Sequence)
		x.wantVersion(book("c"), 0)
	}},
	{name: "of two conditional settlements of a group the first wins", run: func(x *fixture) {
		r := x.commit(&store.Batch{Key: book("a"), Enqueue: []store.Message{x.message("1")}})
		m := x.messages(store.MessageQuery{})[0]
		take := func(owner uint64) *store.Batch {
			taken := *m
			taken.Owner = owner
			return &store.Batch{Settle: []store.Settlement{{Sequence: m.Sequence, Message: &taken, Required: true, Conditional: true}}}
		}
		results := x.group(take(1), take(2))
		want(x, "error of the first", results[0].Err, nil)
		x.wantGone(results[1].Err, r.Sequence)
		want(x, "owner", x.messages(store.MessageQuery{})[0].Owner, 1)
	}},
	{name: "of two batches of a group that require one message the first wins", run: func(x *fixture) {
		r := x.commit(&store.Batch{Key: book("a"), Enqueue: []store.Message{x.message("1")}})
		settle := []store.Settlement{{Sequence: r.Sequence, Required: true}}
		results := x.group(
			&store.Batch{Key: book("b"), Events: x.events("b"), Settle: settle},
			&store.Batch{Key: book("c"), Events: x.events("c"), Settle: settle},
			&store.Batch{Key: book("c"), Expected: 1, Events: x.events("behind")},
		)
		want(x, "error of the first", results[0].Err, nil)
		x.wantGone(results[1].Err, r.Sequence)
		x.wantConflict("third", results[2].Err, store.ConflictError{Key: book("c"), Expected: 1, AfterRefused: true})
		x.wantTexts("scan", x.scan(store.Query{}), "b")
	}},
	{name: "a batch cannot require one message twice", run: func(x *fixture) {
		r := x.commit(&store.Batch{Key: book("a"), Enqueue: []store.Message{x.message("1")}})
		settle := store.Settlement{Sequence: r.Sequence, Required: true}
		x.wantGone(x.try(&store.Batch{Settle: []store.Settlement{settle, settle}}).Err, r.Sequence)
		x.wantMessages("pending", x.messages(store.MessageQuery{}), "1")
	}},
	{name: "a settlement takes effect before timers of the batch are set", run: func(x *fixture) {
		r := x.commit(&store.Batch{Key: book("a"), Enqueue: []store.Message{x.timer("t", "old", noon)}})
		x.commit(&store.Batch{
			Key: book("a"), Settle: []store.Settlement{{Sequence: r.Sequence, Required: true}},
			Enqueue: []store.Message{x.timer("t", "new", noon)},
		})
		x.wantMessages("pending", x.messages(store.MessageQuery{}), "new")
	}},
	{name: "a settlement can change a message for a later attempt", run: func(x *fixture) {
		x.commit(&store.Batch{Key: book("a"), Enqueue: []store.Message{fullMessage(x), x.message("2")}})
		m := *x.messages(store.MessageQuery{})[1]
		m.Attempts, m.LastError, m.Due = 7, "connection refused", noon.Add(time.Hour)
		m.Payload = []byte("edited")
		x.commit(&store.Batch{Settle: []store.Settlement{{Sequence: m.Sequence, Message: &m, Required: true}}})
		messages := x.messages(store.MessageQuery{})
		x.wantMessages("pending", messages, "2", "edited")
		want(x, "changed message", messages[1], &m)
		x.wantMessages("by noon", x.messages(store.MessageQuery{DueBy: noon}), "2")
	}},
	{name: "a changed timer is still found by its name", run: func(x *fixture) {
		x.commit(&store.Batch{Key: book("a"), Enqueue: []store.Message{x.timer("t", "1", noon), x.timer("u", "2", noon)}})
		for _, m := range x.messages(store.MessageQuery{}) {
			m.Attempts, m.Due = 1, noon.Add(time.Hour)
			x.commit(&store.Batch{Settle: []store.Settlement{{Sequence: m.Sequence, Message: m}}})
		}
		x.commit(&store.Batch{Key: book("a"), Cancel: []string{"t"}, Enqueue: []store.Message{x.timer("u", "new", noon)}})
		x.wantMessages("pending", x.messages(store.MessageQuery{}), "new")
	}},
	{name: "a settlement cannot give a message another identity", run: func(x *fixture) {
		x.commit(&store.Batch{Key: book("a"), Enqueue: []store.Message{x.timer("t", "1", noon)}})
		old := x.messages(store.MessageQuery{})[0]
		for what, change := range map[string]func(*store.Message){
			"id":     func(m *store.Message) { m.ID = x.id() },
			"source": func(m *store.Message) { m.Source = book("b") },
			"timer":  func(m *store.Message) { m.Timer = "u" },
			"time":   func(m *store.Message) { m.Time = m.Time.Add(1) },
		} {
			m := *old
			change(&m)
			r := x.try(&store.Batch{Settle: []store.Settlement{{Sequence: m.Sequence, Message: &m}}})
			x.wantError("another "+what, r.Err, store.ErrInvalid)
		}
		want(x, "messages", x.messages(store.MessageQuery{}), []*store.Message{old})
	}},
	{name: "a parked message leaves the pending ones", run: func(x *fixture) {
		park(x, "1", "2", "3")
		x.wantMessages("pending", x.messages(store.MessageQuery{}), "2")
		parked := x.messages(store.MessageQuery{Parked: true})
		x.wantMessages("parked", parked, "1", "3")
		want(x, "parked", parked[0].Parked, true)
	}},
	{name: "parked messages come in order of sequence whenever they are due", run: func(x *fixture) {
		x.commit(&store.Batch{Key: book("a"), Enqueue: []store.Message{
			x.timer("t", "1", noon.Add(3)), x.timer("u", "2", noon.Add(1)), x.message("3"),
		}})
		for _, m := range x.messages(store.MessageQuery{}) {
			m.Parked = true
			x.commit(&store.Batch{Settle: []store.Settlement{{Sequence: m.Sequence, Message: m}}})
		}
		parked := x.messages(store.MessageQuery{Parked: true, DueBy: noon})
		x.wantMessages("parked", parked, "1", "2", "3")
		rest := x.messages(store.MessageQuery{Parked: true, After: parked[0].Sequence, AfterDue: noon.Add(time.Hour)})
		x.wantMessages("parked after the first", rest, "2", "3")
	}},
	{name: "a parked message can be taken up again", run: func(x *fixture) {
		park(x, "1", "2", "3")
		m := x.messages(store.MessageQuery{Parked: true})[0]
		m.Parked = false
		x.commit(&store.Batch{Settle: []store.Settlement{{Sequence: m.Sequence, Message: m, Required: true}}})
		x.wantMessages("parked", x.messages(store.MessageQuery{Parked: true}), "3")
		x.wantMessages("pending", x.messages(store.MessageQuery{}), "1", "2")
	}},
	{name: "a parked message can be settled", run: func(x *fixture) {
		park(x, "1", "2", "3")
		m := x.messages(store.MessageQuery{Parked: true})[0]
		x.commit(&store.Batch{Settle: []store.Settlement{{Sequence: m.Sequence, Required: true}}})
		x.wantMessages("parked", x.messages(store.MessageQuery{Parked: true}), "3")
	}},
	{name: "a parked timer can be replaced and cancelled", run: func(x *fixture) {
		x.commit(&store.Batch{Key: book("a"), Enqueue: []store.Message{x.timer("t", "1", noon), x.timer("u", "2", noon)}})
		for _, m := range x.messages(store.MessageQuery{}) {
			m.Parked = true
			x.commit(&store.Batch{Settle: []store.Settlement{{Sequence: m.Sequence, Message: m}}})
		}
		x.commit(&store.Batch{Key: book("a"), Cancel: []string{"t"}, Enqueue: []store.Message{x.timer("u", "new", noon)}})
		x.wantMessages("parked", x.messages(store.MessageQuery{Parked: true}))
		x.wantMessages("pending", x.messages(store.MessageQuery{}), "new")
	}},
	{name: "a settled message can be required only once by racing batches", run: func(x *fixture) {
		r := x.commit(&store.Batch{Key: book("a"), Enqueue: []store.Message{x.message("1")}})
		winners := race(x, 16, func(i int) error {
			return x.tryFrom(&store.Batch{
				Key: book(fmt.Sprint("racer", i)), Events: x.events("won"),
				Settle: []store.Settlement{{Sequence: r.Sequence, Required: true}},
			})
		}, store.ErrMessageGone)
		want(x, "winners", winners, 1)
		x.wantTexts("scan", x.scan(store.Query{}), "won")
	}},
}

// wantGone fails unless err says that the message is settled.
func (x *fixture) wantGone(err error, sequence uint64) {
	x.Helper()
	x.wantError("result", err, store.ErrMessageGone)
	if s, ok := errors.AsType[*store.MessageGoneError](err); ok {
		want(x, "sequence of the error", s.Sequence, sequence)
	} else {
		x.Errorf("result: got a %T, want a *store.SettledError", err)
	}
}

// park enqueues one message for each text and parks every other one.
func park(x *fixture, texts ...string) {
	x.Helper()
	b := &store.Batch{Key: book("a")}
	for _, text := range texts {
		b.Enqueue = append(b.Enqueue, x.message(text))
	}
	x.commit(b)
	for i, m := range x.messages(store.MessageQuery{}) {
		if i%2 == 0 {
			m.Parked = true
			x.commit(&store.Batch{Settle: []store.Settlement{{Sequence: m.Sequence, Message: m}}})
		}
	}
}

func numberedMessages(x *fixture, n int) []store.Message {
	messages := make([]store.Message, n)
	for i := range messages {
		messages[i] = x.message(fmt.Sprint(i))
	}
	return messages
}

// fullMessage returns a message that has all of its fields.
func fullMessage(x *fixture) store.Message {
	return store.Message{
		ID: x.id(), Target: store.Key{Kind: "member", ID: "ada"}, Due: noon.Add(42),
		Type: "test.v1.Remind", Payload: []byte{1, 0, 0xff},
		Metadata: store.Metadata{
			CausationID: x.id(), CorrelationID: "c", TraceParent: "p", TraceState: "s",
			Values: map[string]string{"user": "ada"},
		},
		ReplyTo: book("reply"), ReplyName: "name", Unordered: true, Attempts: 3, LastError: "last", Owner: 1<<63 + 5, Open: true, Every: "1h0m0s",
	}
}
