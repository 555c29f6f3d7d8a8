package entity_test

import (
	"context"
	"fmt"
	"runtime"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/perdure/perdure"
	"github.com/perdure/perdure/internal/core/entity"
	testv1 "github.com/perdure/perdure/internal/testproto/perdure/test/v1"
	perdurev1 "github.com/perdure/perdure/proto/perdure/v1"
	"github.com/perdure/perdure/store"
)

// purse is a durable-state kind whose rules change the state even if they fail.
var purse = perdure.DurableState("purse",
	perdure.Update(func(ctx context.Context, a *testv1.Account, c *testv1.Deposit) (*perdure.Change, error) {
		a.Balance += c.GetAmount()
		a.Operations++
		version := perdure.Info(ctx).Version
		if uint64(version)+1 != a.GetOperations() {
			return nil, perdure.Reject(perdure.Internal, "operation %d sees version %d", a.GetOperations(), version)
		}
		change := perdure.Save()
		switch {
		case len(c.GetTags()) == 0:
		case c.GetTags()[0] == "claim":
			change.Claim(store.Claim{Space: "name", Value: c.GetTags()[1]})
		default:
			for _, tag := range c.GetTags() {
				change.EnqueueTo(bob, &testv1.Annotate{Note: &testv1.Note{Text: tag}})
			}
		}
		return change, nil
	}),
	perdure.Update(func(_ context.Context, a *testv1.Account, c *testv1.Annotate) (*perdure.Change, error) {
		a.Notes = append(a.Notes, c.GetNote())
		a.Operations++
		return perdure.Save(), nil
	}),
	perdure.Update(func(_ context.Context, a *testv1.Account, c *testv1.Withdraw) (*perdure.Change, error) {
		if a.Balance -= c.GetAmount(); a.GetBalance() < 0 {
			return nil, perdure.Reject(perdure.FailedPrecondition, "balance is too small")
		}
		a.Operations++
		return perdure.Save(), nil
	}),
	perdure.Update(func(_ context.Context, a *testv1.Account, _ *testv1.Touch) (*perdure.Change, error) {
		a.Balance = -1000 // a state that must never be visible
		return perdure.Unchanged(), nil
	}),
	perdure.Update(func(_ context.Context, a *testv1.Account, c *testv1.Misbehave) (*perdure.Change, error) {
		for _, n := range a.GetNotes() {
			n.Text += " spoilt"
		}
		switch c.GetHow() {
		case testv1.Misbehave_HOW_PANIC:
			panic("update")
		case testv1.Misbehave_HOW_EXIT:
			runtime.Goexit()
		case testv1.Misbehave_HOW_INVALID_TEXT:
			a.Owner = "\xff"
			return perdure.Save(), nil
		}
		return nil, perdure.Reject(perdure.Internal, "no")
	}),
)

// A source sends n commands, the i-th is m(i), and returns their calls.
type source func(l *lab, n int, m func(i int) proto.Message) []*entity.Call

// sources are the outbox, and callers, of which every third wants the state.
var sources = map[string]source{
	"messages": (*lab).mail,
	"commands of callers": func(l *lab, n int, m func(i int) proto.Message) (calls []*entity.Call) {
		l.Helper()
		for i := range n {
			calls = append(calls, l.send(m(i), func(c *entity.Call) {
				c.ID[0], c.ID[1], c.WantState = byte(i), byte(100+i/200), i%3 == 0
			}))
		}
		return calls
	},
}

// mail delivers n messages, the i-th is m(i), and returns their calls.
func (l *lab) mail(n int, m func(i int) proto.Message) (calls []*entity.Call) {
	l.Helper()
	for i := range n {
		row := l.incoming(byte(i + 1))
		row.ID[0] = byte(100 + i/200) // ids of more than one byte
		calls = append(calls, l.send(m(i), func(c *entity.Call) { from(row)(c); c.WantState = false }))
	}
	return calls
}

// storeAll commits items until none is in flight, and returns the number of batches.
func (l *lab) storeAll() (batches int) {
	l.Helper()
	for len(l.items) > 0 {
		batches += len(l.items)
		l.store()
	}
	return batches
}

// repliesByID returns the replies in the outbox by the id of the message that each answers.
func (l *lab) repliesByID() map[store.ID]*perdurev1.Reply {
	l.Helper()
	replies := make(map[store.ID]*perdurev1.Reply)
	for _, m := range l.messages() {
		if m.Type != "perdure.v1.Reply" {
			continue
		}
		var r perdurev1.Reply
		if err := proto.Unmarshal(m.Payload, &r); err != nil {
			l.Fatal(err)
		}
		replies[store.ID(r.GetMessageId())] = &r
	}
	return replies
}

func newPurse(t *testing.T) *lab {
	return newLab(t, purse, func(o *entity.Options) { o.Limits.Calls = 1000 })
}

func one(int) proto.Message { return &testv1.Deposit{Amount: 1} }

func TestGroup(t *testing.T) {
	t.Parallel()
	for name, send := range sources {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			testGroup(t, send)
		})
	}
	t.Run("loses none of the messages behind one that was settled elsewhere", func(t *testing.T) {
		t.Parallel()
		l := newPurse(t)
		calls := l.mail(20, one)
		l.store()
		for _, i := range []int{9, 12} { // message of a group that is in flight, or of none yet
			l.commit(&store.Batch{Settle: []store.Settlement{{Sequence: calls[i].OutboxSequence, Required: true}}})
		}
		l.storeAll()
		for i, c := range calls {
			want := entity.StatusDone
			if i == 9 || i == 12 {
				want = entity.StatusMessageGone
			}
			if !l.answered(c) || c.Outcome.Status != want {
				t.Errorf("message %d: got status %d and %v, want %d", i, c.Outcome.Status, c.Outcome.Err, want)
			}
		}
		l.wantBalance(18)
	})
	t.Run("makes no other command wait", func(t *testing.T) {
		t.Parallel()
		l := newPurse(t)
		mail := l.mail(20, one)
		before := len(l.items)
		direct := l.deposit(5)
		if got := len(l.items) - before; got != 1 {
			t.Errorf("a command behind messages that wait: got %d batches, want it submitted at once", got)
		}
		l.store()
		l.wantAnswer("the command", direct, entity.StatusDone, 3)
		l.wantSilence("messages behind it", mail[2:]...)
	})
	t.Run("is seen by the calls behind it", func(t *testing.T) {
		t.Parallel()
		l := newPurse(t)
		sources["commands of callers"](l, 20, one)
		read := l.send(nil, nil)
		keyed := l.send(one(0), func(c *entity.Call) { c.ID[0], c.Name = 200, "key" })
		conditional := l.send(one(0), func(c *entity.Call) { c.ID[0], c.Conditional, c.IfVersion = 201, true, 21 })
		l.wantSilence("before the commits", read, keyed, conditional)
		l.storeAll()
		l.wantAnswer("a read", read, entity.StatusDone, 20)
		if got := read.Outcome.State.(*testv1.Account).GetBalance(); got != 20 {
			t.Errorf("balance that was read behind 20 commands: got %d, want 20", got)
		}
		l.wantAnswer("a command with a key", keyed, entity.StatusDone, 21)
		l.wantAnswer("a command at a version", conditional, entity.StatusDone, 22)
	})
}

func testGroup(t *testing.T, send source) {
	t.Run("gives each message a version and stores one state", func(t *testing.T) {
		t.Parallel()
		const n = 700
		l := newPurse(t)
		calls := send(l, n, func(i int) proto.Message { return &testv1.Deposit{Amount: 1, Tags: []string{fmt.Sprint(i)}} })
		l.wantSilence("before the commit", calls...)
		if batches := l.storeAll(); batches > 2+2*10 {
			t.Errorf("%d messages were stored by %d batches", n, batches)
		}
		replies := l.repliesByID()
		for i, c := range calls {
			l.wantAnswer(fmt.Sprint("command ", i), c, entity.StatusDone, store.Version(i+1))
			if state, ok := c.Outcome.State.(*testv1.Account); ok != c.WantState || ok && state.GetBalance() != int64(i+1) {
				t.Errorf("state after command %d: got %v, want it to be told: %t", i, state, c.WantState)
			}
			if r := replies[c.ID]; c.OutboxSequence != 0 && (r.GetVersion() != uint64(i+1) || r.GetRefusal() != nil) {
				t.Errorf("reply to message %d: got %v, want version %d", i, r, i+1)
			}
		}
		if got := l.messages(); len(got) != n+len(replies) { // one message of each rule, and one reply to each message
			t.Errorf("got %d messages in the outbox, want %d", len(got), n+len(replies))
		}
		if got := l.stored(); got != n {
			t.Errorf("stored version: got %d, want %d", got, n)
		}
		l.wantBalance(n)
	})
	for _, bad := range []struct {
		name    string
		message proto.Message
		status  entity.Status
	}{
		{"is refused", &testv1.Withdraw{Amount: 1000}, entity.StatusRefused},
		{"changes nothing", &testv1.Touch{}, entity.StatusDone},
		{"panics", &testv1.Misbehave{How: testv1.Misbehave_HOW_PANIC}, entity.StatusPanicked},
		{"ends its goroutine", &testv1.Misbehave{How: testv1.Misbehave_HOW_EXIT}, entity.StatusPanicked},
		{"cannot be stored", &testv1.Misbehave{How: testv1.Misbehave_HOW_INVALID_TEXT}, entity.StatusInvalid},
		{"has no rule", &testv1.Open{}, entity.StatusUnhandled},
		{"claims the value of another", &testv1.Deposit{Amount: 500, Tags: []string{"claim", "taken"}}, entity.StatusClaimed},
	} {
		t.Run("leaves out what a message has done that "+bad.name, func(t *testing.T) {
			t.Parallel()
			l := newPurse(t)
			l.commit(&store.Batch{Key: bob, Claim: []store.Claim{{Space: "name", Value: "taken"}}})
			const n = 40
			isBad := func(i int) bool { return i == 9 || i == 10 || i == 25 }
			calls := send(l, n, func(i int) proto.Message {
				switch {
				case isBad(i):
					return bad.message
				case i%2 == 0:
					return &testv1.Annotate{Note: &testv1.Note{Text: fmt.Sprint(i)}}
				}
				return one(i)
			})
			l.storeAll()
			version := store.Version(0)
			for i, c := range calls {
				switch {
				case !isBad(i):
					version++
					l.wantAnswer(fmt.Sprint("message ", i), c, entity.StatusDone, version)
				case !l.answered(c) || c.Outcome.Status != bad.status:
					t.Errorf("message %d: got status %d and %v, want %d", i, c.Outcome.Status, c.Outcome.Err, bad.status)
				}
			}
			state := l.send(nil, nil).Outcome.State.(*testv1.Account)
			var want testv1.Account
			for i := range n {
				switch {
				case isBad(i):
				case i%2 == 0:
					want.Notes = append(want.Notes, &testv1.Note{Text: fmt.Sprint(i)})
					want.Operations++
				default:
					want.Balance++
					want.Operations++
				}
			}
			if !proto.Equal(state, &want) {
				t.Errorf("state: got %v, want %v", state, &want)
			}
		})
	}
	for _, stored := range []bool{true, false} {
		t.Run(fmt.Sprintf("is decided once if its commit is in doubt, stored %t", stored), func(t *testing.T) {
			t.Parallel()
			l := newPurse(t)
			calls := send(l, 20, one)
			l.store()
			l.store()
			l.lose(stored)
			l.storeAll()
			for i, c := range calls {
				if !l.answered(c) || c.Outcome.Status != entity.StatusDone && (!stored || c.Outcome.Status != entity.StatusMessageGone) {
					t.Errorf("message %d: got status %d and %v", i, c.Outcome.Status, c.Outcome.Err)
				}
			}
			l.wantBalance(20)
		})
	}
	t.Run("runs again behind the state of another engine", func(t *testing.T) {
		t.Parallel()
		l := newLab(t, shelf, nil)
		calls := send(l, 20, one)
		l.store()
		l.saved(1000)
		l.storeAll()
		for i, c := range calls {
			if !l.answered(c) || c.Outcome.Status != entity.StatusDone {
				t.Errorf("message %d: got status %d and %v", i, c.Outcome.Status, c.Outcome.Err)
			}
		}
		l.wantBalance(1000 + 20 - 2) // the other writer's state does not include the messages stored before it
	})
	t.Run("is answered when the entity is given up", func(t *testing.T) {
		t.Parallel()
		l := newPurse(t)
		calls := send(l, 20, one)
		l.store()
		l.core.Abort()
		for i, c := range calls {
			if !l.answered(c) {
				t.Errorf("message %d is not answered", i)
			}
		}
		if n := l.core.Pending(); n != 0 {
			t.Errorf("%d calls are pending, want none", n)
		}
	})
}
