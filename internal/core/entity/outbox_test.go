package entity_test

import (
	"fmt"
	"math"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/perdure/perdure"
	"github.com/perdure/perdure/internal/core/entity"
	testv1 "github.com/perdure/perdure/internal/testproto/perdure/test/v1"
	perdurev1 "github.com/perdure/perdure/proto/perdure/v1"
	"github.com/perdure/perdure/store"
)

// bob is the entity that messages go to.
var bob = store.Key{Kind: "account", ID: "bob"}

// leave returns a decision with the named side effect.
func leave(what string) (*perdure.Decision, error) {
	switch what {
	case "all":
		return perdure.Persist(&testv1.Opened{Owner: "ada"}).Enqueue(&testv1.Note{Text: "mail"}).
			EnqueueTo(bob, &testv1.Deposit{Amount: 1}, perdure.ReplyTo("pay")).
			Schedule("soon", time.Unix(9, 0), &testv1.Touch{}).Cancel("late").
			Claim(store.Claim{Space: "name", Value: "ada"}).Release(store.Claim{Space: "name", Value: "eda"}).AfterCommit(&testv1.Note{Text: "now"}), nil
	case "message":
		return perdure.None().EnqueueTo(bob, &testv1.Deposit{Amount: 1}), nil
	case "claim":
		return perdure.Persist(&testv1.Opened{Owner: "ada"}).Claim(store.Claim{Space: "name", Value: "ada"}), nil
	case "unknown effect":
		return perdure.None().AfterCommit(&testv1.Touch{}), nil
	case "unknown message":
		return perdure.Persist(&testv1.Opened{}).Enqueue(&testv1.Touch{}), nil
	case "nil message":
		return perdure.None().EnqueueTo(bob, nil), nil
	}
	panic("no such decision: " + what)
}

// messages returns the messages in the outbox.
func (l *lab) messages() (list []*store.Message) {
	l.Helper()
	for m, err := range l.log.Messages(l.Context(), store.MessageQuery{}) {
		if err != nil {
			l.Fatal(err)
		}
		list = append(list, m)
	}
	return list
}

// from turns a call into the delivery of an outbox message.
func from(m *store.Message) func(*entity.Call) {
	return func(c *entity.Call) {
		c.ID, c.Metadata = m.ID, m.Metadata
		c.OutboxSequence, c.ReplyTo, c.ReplyName = m.Sequence, m.ReplyTo, m.ReplyName
	}
}

// incoming stores a message from another entity to this one.
func (l *lab) incoming(id byte) *store.Message {
	l.Helper()
	m := store.Message{
		ID: store.ID{0: 8, 6: 0x70, 8: 0x80, 15: id}, Target: l.key(), Type: "perdure.test.v1.Deposit",
		ReplyTo: bob, ReplyName: "pay", Metadata: store.Metadata{CorrelationID: "talk"},
	}
	b := &store.Batch{Key: bob, Enqueue: []store.Message{m}}
	l.commit(b)
	m.Sequence = b.Enqueue[0].Sequence
	return &m
}

// saved stores another state of a durable-state entity, as another command would.
func (l *lab) saved(balance int64) {
	l.Helper()
	payload, err := proto.Marshal(&testv1.Account{Balance: balance})
	if err != nil {
		l.Fatal(err)
	}
	l.commit(&store.Batch{Key: l.key(), Expected: l.stored(), Save: &store.State{
		ID: store.ID{9}, Type: l.options.Rules.StateType, Fingerprint: l.options.Rules.Fingerprint, Payload: payload,
	}})
}

func TestBatchHoldsTheMessagesOfItsCommand(t *testing.T) {
	t.Parallel()
	l := newLab(t, account, nil)
	c := l.send(&testv1.Open{Owner: "all"}, func(c *entity.Call) { c.Metadata.CorrelationID = "talk" })
	if len(l.items) != 1 {
		t.Fatalf("got %d batches, want 1", len(l.items))
	}
	b := &l.items[0].Batch
	if got := fmt.Sprint(b.Cancel, b.Claim, b.Release); got != "[late] [{name ada}] [{name eda}]" {
		t.Errorf("timers that are cancelled, claims and releases: got %s", got)
	}
	l.wantSilence("before the commit", c)
	l.store()
	l.wantAnswer("after the commit", c, entity.StatusDone, 1)
	if len(c.Outcome.Effects) != 1 {
		t.Errorf("got %d effects, want 1", len(c.Outcome.Effects))
	}
	ids := map[store.ID]bool{c.ID: true}
	want := []string{
		"Note to / timer  due false reply ",
		"Deposit to account/bob timer  due false reply pay of account/ada",
		"Touch to account/ada timer soon due true reply ",
	}
	for i, m := range l.messages() {
		got := fmt.Sprintf("%s to %v timer %s due %t reply %s", m.Type[len("perdure.test.v1."):], m.Target, m.Timer, m.Due.Equal(time.Unix(9, 0)), m.ReplyName)
		if m.ReplyName != "" {
			got += " of " + m.ReplyTo.String()
		}
		if got != want[i] {
			t.Errorf("message %d: got %q, want %q", i, got, want[i])
		}
		if ids[m.ID] || m.Metadata.CausationID != c.ID || m.Metadata.CorrelationID != "talk" {
			t.Errorf("message %d: got id %v, causation %v, correlation %q; want an id of its own, %v, %q",
				i, m.ID, m.Metadata.CausationID, m.Metadata.CorrelationID, c.ID, "talk")
		}
		ids[m.ID] = true
	}
	if got, want := len(ids)-1, len(want); got != want {
		t.Errorf("got %d messages, want %d", got, want)
	}
}

func TestDueTimeIsOneThatAStoreKeeps(t *testing.T) {
	t.Parallel()
	for _, at := range []time.Time{
		{}, time.Unix(0, math.MinInt64), time.Unix(0, math.MinInt64+1), time.Unix(0, -1), time.Unix(0, 0), time.Unix(0, 1), time.Unix(0, math.MaxInt64),
	} {
		due := entity.DueTime(at)
		kept, err := store.DecodeMessage(store.AppendMessage(nil, &store.Message{Due: due}))
		if err != nil || !kept.Due.Equal(due) || !at.IsZero() && due.Sub(at) > 1 {
			t.Errorf("a message for %v is due at %v, and the store keeps %+v, %v", at, due, kept, err)
		}
	}
}

func TestMessagesOfARepeatedDecisionAreTheSame(t *testing.T) {
	t.Parallel()
	l := newLab(t, account, nil)
	l.deposit(1)
	l.store()
	c := l.send(&testv1.Open{Owner: "all"}, nil)
	first := l.items[0].Batch.Enqueue
	l.other(&testv1.Deposited{Amount: 1})
	l.store() // the call meets a conflict and runs again
	l.store()
	l.wantAnswer("after the conflict", c, entity.StatusDone, 3)
	for i, m := range l.messages() {
		if m.ID != first[i].ID {
			t.Errorf("message %d: got id %v, want the one of the first attempt, %v", i, m.ID, first[i].ID)
		}
	}
}

func TestMessagesThatCannotBeStoredAreRefused(t *testing.T) {
	t.Parallel()
	for _, what := range []string{"unknown effect", "unknown message", "nil message"} {
		l := newLab(t, account, nil)
		c := l.send(&testv1.Open{Owner: what}, nil)
		l.wantAnswer(what, c, entity.StatusInvalid, 0)
		if len(l.items) > 0 {
			t.Errorf("%s: got %d batches, want none", what, len(l.items))
		}
	}
}

func TestMessageEndsWithTheDecisionOfItsTarget(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name    string
		command proto.Message
		status  entity.Status
		version store.Version
		refused bool
	}{
		{"decided", &testv1.Deposit{Amount: 5}, entity.StatusDone, 1, false},
		{"nothing to do", &testv1.Touch{}, entity.StatusDone, 0, false},
		{"refused", &testv1.Withdraw{Amount: 5}, entity.StatusRefused, 0, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t, account, nil)
			m := l.incoming(1)
			c := l.send(test.command, from(m))
			l.wantSilence("before the commit", c)
			l.store()
			l.wantAnswer("after the commit", c, test.status, test.version)
			left := l.messages()
			if len(left) != 1 || left[0].Target != bob || left[0].Type != "perdure.v1.Reply" {
				t.Fatalf("outbox: got %v, want the reply alone", left)
			}
			var reply perdurev1.Reply
			if err := proto.Unmarshal(left[0].Payload, &reply); err != nil {
				t.Fatal(err)
			}
			if reply.GetName() != "pay" || store.ID(reply.GetMessageId()) != m.ID || reply.GetEntityId() != "ada" ||
				store.Version(reply.GetVersion()) != test.version || (reply.GetRefusal() != nil) != test.refused {
				t.Errorf("reply to %v: got %v, want version %d, refused: %t", m.ID, &reply, test.version, test.refused)
			}
			again := l.send(test.command, from(m))
			l.store()
			l.wantAnswer("the second delivery", again, entity.StatusMessageGone, 0)
			if got := l.stored(); got != test.version {
				t.Errorf("version after the second delivery: got %d, want %d", got, test.version)
			}
		})
	}
}

func TestClaimOfATakenValue(t *testing.T) {
	t.Parallel()
	l := newLab(t, account, nil)
	l.commit(&store.Batch{Key: bob, Claim: []store.Claim{{Space: "name", Value: "ada"}}})
	claimed, behind := l.send(&testv1.Open{Owner: "claim"}, nil), l.deposit(5)
	l.store()
	l.wantAnswer("the command that claims", claimed, entity.StatusClaimed, 0)
	l.wantSilence("the command behind it", behind)
	l.store()
	l.wantAnswer("the command behind it", behind, entity.StatusDone, 1)
	l.wantBalance(5)
}

func TestMessagesWithoutAnEventAreStoredOnce(t *testing.T) {
	t.Parallel()
	for _, stored := range []bool{true, false} {
		l := newLab(t, account, nil)
		c := l.send(&testv1.Open{Owner: "message"}, nil)
		l.lose(stored)
		l.wantAnswer("a command of which nothing tells", c, entity.StatusUnknown, 0)
		l.store()
		want := 0
		if stored {
			want = 1
		}
		if got := l.messages(); len(got) != want {
			t.Errorf("stored %t: got %d messages, want %d", stored, len(got), want)
		}
	}
}

func TestMessagesOfAKeyedCommandAreStoredOnce(t *testing.T) {
	t.Parallel()
	for _, stored := range []bool{true, false} {
		l := newLab(t, account, nil)
		c := l.send(&testv1.Open{Owner: "message"}, keyed("k"))
		l.lose(stored)
		l.store()
		l.wantAnswer(fmt.Sprintf("stored %t", stored), c, entity.StatusDone, 0)
		if got := l.messages(); len(got) != 1 {
			t.Errorf("stored %t: got %d messages, want 1", stored, len(got))
		}
	}
}

func TestMessageDecisionProvesNothingElse(t *testing.T) {
	t.Parallel()
	for _, shared := range []bool{true, false} {
		l := newLab(t, account, func(o *entity.Options) { o.Shared = shared })
		m := l.incoming(1)
		before := l.deposit(100)
		ours := l.send(&testv1.Deposit{Amount: 2}, from(m))
		l.commit(&store.Batch{ // the store has another attempt at the message, and not ours
			Key: l.key(), Settle: []store.Settlement{{Sequence: m.Sequence, Required: true}},
			Events: []store.Event{{
				ID: store.ID{7}, Type: "perdure.test.v1.Deposited", Metadata: store.Metadata{CausationID: m.ID},
				Payload: []byte{8, 2}, // amount 2
			}},
		})
		l.lose(false)
		l.wantSilence("the command before it, which is not stored", before)
		l.store()
		l.wantAnswer("the command before it", before, entity.StatusDone, 2)
		l.wantAnswer("the message", ours, entity.StatusMessageGone, 0)
		l.wantBalance(102)
	}
}

func TestMessageUnknownOutcomeSurvivesASecondAttempt(t *testing.T) {
	t.Parallel()
	l := newLab(t, shelf, nil)
	m := l.incoming(1)
	c := l.send(&testv1.Deposit{Amount: 2}, from(m))
	l.overwrite()
	l.lose(false) // no record proves the first attempt,
	l.lose(false) // nor the second one
	l.settle(nil, store.ErrNotStored)
	l.wantAnswer("a message that is decided", c, entity.StatusUnknown, 0)
}
