package entity_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/perdure/perdure"
	"github.com/perdure/perdure/internal/core/entity"
	testv1 "github.com/perdure/perdure/internal/testproto/perdure/test/v1"
	"github.com/perdure/perdure/store"
)

// keyed gives a call an idempotency key.
func keyed(name string) func(*entity.Call) {
	return func(c *entity.Call) {
		f, err := entity.Fingerprint(c.Message)
		if err != nil {
			panic(err)
		}
		c.Name, c.Fingerprint = name, f
	}
}

// receipts reads the receipts of the entity, as the shell of an engine does.
func (l *lab) receipts() (list []*store.Receipt, err error) {
	if l.blank != nil {
		return nil, l.blank
	}
	for r, err := range l.log.Receipts(l.Context(), l.key()) {
		if err != nil {
			return nil, err
		}
		list = append(list, r)
	}
	return list, nil
}

// names returns the keys of all receipts in the log.
func (l *lab) names() (names []string) {
	l.Helper()
	for r, err := range l.log.Receipts(l.Context(), l.key()) {
		if err != nil {
			l.Fatal(err)
		}
		names = append(names, r.Name)
	}
	return names
}

// answer reads the stored answer to a call, as the shell does.
func (l *lab) answer(c *entity.Call) (first store.ID, out entity.Outcome, err error) {
	if l.blank != nil {
		return first, out, l.blank
	}
	r, err := l.log.Receipt(l.Context(), l.key(), c.Name)
	if err != nil {
		return first, out, err
	}
	out = entity.Outcome{Version: r.Version, Position: r.Position}
	switch {
	case r.Refusal != nil:
		out.Status, out.Err = entity.StatusRefused, errors.New(r.Refusal.Message)
	case r.ReplyType != "":
		out.State = new(testv1.Account)
		err = proto.Unmarshal(r.Reply, out.State)
	default:
		fold := l.core.Until(r.Version)
		if err = l.load(fold); err == nil || errors.Is(err, entity.ErrPastEnd) {
			out.State, err = fold.State()
		}
	}
	return r.CommandID, out, err
}

// overwrite stores the batch in flight and another command's state after it. Only the receipt
// then proves that the batch was stored.
func (l *lab) overwrite() {
	l.Helper()
	stored := l.items[0].Batch
	l.commit(&stored)
	l.saved(7)
}

// restart replaces the core, as a passivation or a restart does.
func (l *lab) restart() {
	l.core = entity.Entity{}
	l.core.Init(&l.options, "ada", l)
}

func (l *lab) wantRepeated(what string, c *entity.Call, version store.Version, balance int64) {
	l.Helper()
	l.wantAnswer(what, c, entity.StatusDone, version)
	state, _ := c.Outcome.State.(*testv1.Account)
	if !c.Outcome.Repeated || state.GetBalance() != balance {
		l.Errorf("%s: got balance %d, repeated: %t; want the balance of then, %d, repeated",
			what, state.GetBalance(), c.Outcome.Repeated, balance)
	}
}

func TestReceiptAnswersARepeatedCommand(t *testing.T) {
	t.Parallel()
	for _, kind := range []*perdure.Kind[*testv1.Account]{account, shelf} {
		l := newLab(t, kind, nil)
		first := l.send(&testv1.Deposit{Amount: 2}, keyed("k"))
		again := l.send(&testv1.Deposit{Amount: 2}, keyed("k"))
		other := l.send(&testv1.Deposit{Amount: 3}, keyed("k"))
		l.deposit(5)
		l.wantSilence(kind.Name()+": before the first one is durable", first, again, other)
		l.store()
		l.wantAnswer(kind.Name()+": the first one", first, entity.StatusDone, 1)
		l.wantRepeated(kind.Name()+": the second one", again, 1, 2)
		l.wantAnswer(kind.Name()+": another command with the key", other, entity.StatusKeyReused, 0)
		l.wantRepeated(kind.Name()+": a later one", l.send(&testv1.Deposit{Amount: 2}, keyed("k")), 1, 2)
		l.restart()
		l.wantRepeated(kind.Name()+": one after a restart", l.send(&testv1.Deposit{Amount: 2}, keyed("k")), 1, 2)
		other = l.send(&testv1.Deposit{Amount: 3}, keyed("k"))
		l.wantAnswer(kind.Name()+": another command after a restart", other, entity.StatusKeyReused, 0)
		l.wantBalance(7)
	}
}

func TestReceiptOfAFailedCommandIsNotUsed(t *testing.T) {
	t.Parallel()
	l := newLab(t, account, nil)
	first := l.send(&testv1.Deposit{Amount: 2}, keyed("k"))
	again := l.send(&testv1.Deposit{Amount: 2}, keyed("k"))
	l.settle(nil, store.ErrNotStored)
	l.wantAnswer("the first one", first, entity.StatusFault, 0)
	l.wantSilence("the second one before it is durable", again)
	l.store()
	l.wantAnswer("the second one", again, entity.StatusDone, 1)
	if again.Outcome.Repeated {
		t.Error("the second one is told to be a repetition, and the first one was not stored")
	}
	l.wantBalance(2)
}

func TestReceiptOfARefusalAndOfNoChange(t *testing.T) {
	t.Parallel()
	l := newLab(t, account, nil)
	touched := l.send(&testv1.Touch{}, keyed("touch"))
	refused := l.send(&testv1.Withdraw{Amount: 9}, keyed("withdraw"))
	l.store()
	l.wantAnswer("a command that changes nothing", touched, entity.StatusDone, 0)
	l.wantAnswer("a command that is refused", refused, entity.StatusRefused, 0)
	l.deposit(50)
	l.store()
	for _, restarted := range []bool{false, true} {
		if restarted {
			l.restart()
		}
		l.wantRepeated("a command that changed nothing, again", l.send(&testv1.Touch{}, keyed("touch")), 0, 0)
		again := l.send(&testv1.Withdraw{Amount: 9}, keyed("withdraw"))
		l.wantAnswer("a command that was refused, again", again, entity.StatusRefused, 0)
		if got, want := fmt.Sprint(again.Outcome.Err), refused.Outcome.Err.Error(); got != want {
			t.Errorf("refusal again: got %q, want %q", got, want)
		}
	}
	l.wantBalance(50)
}

func TestReceiptResolvesAnUnknownOutcome(t *testing.T) {
	t.Parallel()
	for _, kind := range []*perdure.Kind[*testv1.Account]{account, shelf} {
		for _, stored := range []bool{true, false} {
			l := newLab(t, kind, nil)
			c := l.send(&testv1.Deposit{Amount: 2}, keyed("k"))
			l.lose(stored)
			l.store()
			l.wantAnswer(fmt.Sprintf("%s, stored %t", kind.Name(), stored), c, entity.StatusDone, 1)
			l.wantBalance(2)
		}
	}
}

func TestReceiptUnknownOutcomeLastsUntilItIsRead(t *testing.T) {
	t.Parallel()
	l := newLab(t, shelf, nil)
	c := l.send(&testv1.Deposit{Amount: 2}, keyed("k"))
	l.blank = errIO
	l.overwrite()
	l.lose(false)
	l.wantAnswer("a stored command whose receipt cannot be read", c, entity.StatusUnknown, 0)
	if !errors.Is(c.Outcome.Err, errIO) {
		t.Errorf("error of an unknown outcome: got %v, want it to match %v", c.Outcome.Err, errIO)
	}
	l.blank = nil
	l.wantRepeated("the command again", l.send(&testv1.Deposit{Amount: 2}, keyed("k")), 1, 2)
	l.wantBalance(7)
}

func TestReceiptReadFailureRunsNoCommand(t *testing.T) {
	t.Parallel()
	l := newLab(t, account, nil)
	l.blank = errIO
	l.wantAnswer("a new key", l.send(&testv1.Deposit{Amount: 2}, keyed("k")), entity.StatusFault, 0)
	l.blank = nil
	l.send(&testv1.Deposit{Amount: 2}, keyed("k"))
	l.store()
	l.blank = errIO
	l.wantAnswer("a known key", l.send(&testv1.Deposit{Amount: 2}, keyed("k")), entity.StatusUnknown, 0)
	l.wantBalance(2)
}

func TestReceiptOfAnotherEngineIsUsed(t *testing.T) {
	t.Parallel()
	l := newLab(t, account, func(o *entity.Options) { o.Shared = true })
	l.send(&testv1.Touch{}, keyed("other")) // so that the entity knows its receipts
	l.store()
	c := l.send(&testv1.Deposit{Amount: 2}, keyed("k"))
	f, err := entity.Fingerprint(c.Message)
	if err != nil {
		t.Fatal(err)
	}
	l.commit(&store.Batch{Key: l.key(), Receipts: []store.Receipt{{Name: "k", CommandID: store.ID{1}, Fingerprint: f[:]}}})
	l.store()
	l.wantRepeated("a command that was answered elsewhere", c, 0, 0)
	l.wantBalance(0)
}

func TestReceiptDeletedByAnotherEngine(t *testing.T) {
	t.Parallel()
	l := newLab(t, account, func(o *entity.Options) { o.Shared = true })
	l.send(&testv1.Deposit{Amount: 2}, keyed("k"))
	l.store()
	l.commit(&store.Batch{Key: l.key(), Expected: 1, Forget: []string{"k"}})
	c := l.send(&testv1.Deposit{Amount: 2}, keyed("k"))
	l.store()
	l.wantAnswer("a command whose receipt is gone", c, entity.StatusDone, 2)
	l.wantBalance(4)
}

func TestReceiptsOldestAreDeleted(t *testing.T) {
	t.Parallel()
	byCount := func(o *entity.Options) { o.Rules.ReceiptsMax = 2 }
	for _, restarted := range []bool{false, true} {
		l := newLab(t, account, byCount)
		for _, name := range []string{"c", "b", "a"} { // one commit, therefore one time
			l.send(&testv1.Deposit{Amount: 1}, keyed(name))
		}
		l.store()
		if restarted {
			l.restart()
		}
		l.send(&testv1.Deposit{Amount: 1}, keyed("d"))
		l.store()
		if got, want := l.names(), []string{"a", "d"}; !slices.Equal(got, want) {
			t.Errorf("receipts after c, b, a and d, restarted %t, two are kept: got %q, want %q", restarted, got, want)
		}
	}
	l := newLab(t, account, func(o *entity.Options) { o.Rules.ReceiptsFor = time.Minute })
	for _, name := range []string{"a", "b", "c"} {
		l.send(&testv1.Deposit{Amount: 1}, keyed(name))
		l.store()
		l.clock = l.clock.Add(40 * time.Second)
	}
	if got, want := l.names(), []string{"b", "c"}; !slices.Equal(got, want) {
		t.Errorf("receipts that are kept for a minute, 40 s apart: got %q, want %q", got, want)
	}
	l.send(&testv1.Deposit{Amount: 1}, keyed("a"))
	l.store()
	l.wantBalance(4)
}

func TestReceiptsAreDeletedInGroups(t *testing.T) {
	t.Parallel()
	const keep, more = 320, 100
	l := newLab(t, account, func(o *entity.Options) { o.Rules.ReceiptsMax = keep })
	forgetting := 0
	for n := range keep + more {
		l.clock = l.clock.Add(time.Second)
		l.send(&testv1.Deposit{Amount: 1}, keyed(fmt.Sprintf("%06d", n)))
		if len(l.items[0].Batch.Forget) > 0 {
			forgetting++
		}
		l.store()
		names := l.names()
		if want := min(n+1, keep); len(names) < want || len(names) > keep+keep/16 || names[0] > fmt.Sprintf("%06d", max(0, n+1-keep)) {
			t.Fatalf("after %d commands, %d are kept: got %d receipts from %s on", n+1, keep, len(names), names[0])
		}
	}
	if most := more / (keep / 16); forgetting < 1 || forgetting > most {
		t.Errorf("commands that forget receipts: got %d, want 1 to %d", forgetting, most)
	}
}

func TestReceiptUnknownOutcomeBehindTheWindow(t *testing.T) {
	t.Parallel()
	l := newLab(t, shelf, func(o *entity.Options) { o.Shared, o.Rules.ReceiptsMax = true, 1 })
	c := l.send(&testv1.Deposit{Amount: 2}, keyed("k"))
	l.overwrite()
	l.clock = l.clock.Add(time.Second)
	l.commit(&store.Batch{
		Key: l.key(), Expected: 2, Forget: []string{"k"},
		Receipts: []store.Receipt{{Name: "of another engine", CommandID: store.ID{1}, Version: 2}},
	})
	l.lose(false)
	l.wantAnswer("a command whose receipt may be gone", c, entity.StatusUnknown, 0)
	l.wantBalance(7)
}

func TestReceiptOfAReusedKeyProvesNothing(t *testing.T) {
	t.Parallel()
	for _, message := range []proto.Message{&testv1.Deposit{Amount: 2}, &testv1.Withdraw{Amount: 9}} { // the same command and another one
		f, err := entity.Fingerprint(message)
		if err != nil {
			t.Fatal(err)
		}
		for _, refusal := range []*store.Refusal{nil, {Message: "no"}} {
			l := newLab(t, shelf, func(o *entity.Options) { o.Shared, o.Rules.ReceiptsMax = true, 1 })
			l.clock = l.clock.Add(time.Hour) // this engine's clock is ahead
			c := l.send(&testv1.Deposit{Amount: 2}, keyed("k"))
			l.clock = l.clock.Add(-time.Hour)
			l.overwrite()
			l.clock = l.clock.Add(time.Second)
			l.commit(&store.Batch{
				Key: l.key(), Expected: 2, Forget: []string{"k"},
				Receipts: []store.Receipt{{Name: "k", CommandID: store.ID{1}, Fingerprint: f[:], Version: 2, Refusal: refusal}},
			})
			l.lose(false)
			l.wantAnswer("a command whose key was used anew by "+fmt.Sprint(message), c, entity.StatusUnknown, 0)
			l.wantBalance(7)
		}
	}
}

func TestReceiptUnknownOutcomeWithinTheWindow(t *testing.T) {
	t.Parallel()
	deposit := &testv1.Deposit{Amount: 2}
	// The receipt is the command's own, although the window is full with it.
	l := newLab(t, shelf, func(o *entity.Options) { o.Shared, o.Rules.ReceiptsMax = true, 1 })
	c := l.send(deposit, keyed("k"))
	l.overwrite()
	l.lose(false)
	l.wantRepeated("a command whose receipt is there", c, 1, 2)
	// The receipt is an older one of another command.
	for _, message := range []proto.Message{deposit, &testv1.Withdraw{Amount: 9}} {
		f, err := entity.Fingerprint(message)
		if err != nil {
			t.Fatal(err)
		}
		l := newLab(t, shelf, func(o *entity.Options) { o.Shared = true })
		l.send(&testv1.Touch{}, keyed("other")) // so that the entity knows its receipts
		l.store()
		c := l.send(deposit, keyed("k"))
		l.commit(&store.Batch{Key: l.key(), Receipts: []store.Receipt{{Name: "k", CommandID: store.ID{1}, Fingerprint: f[:]}}})
		l.lose(false)
		if message == proto.Message(deposit) {
			l.wantRepeated("a command that was answered elsewhere", c, 0, 0)
		} else {
			l.wantAnswer("a command whose key is another one's", c, entity.StatusKeyReused, 0)
		}
		l.wantBalance(0)
	}
}

func TestReceiptInFlightProvesNothing(t *testing.T) {
	t.Parallel()
	l := newLab(t, account, func(o *entity.Options) { o.Shared = true })
	l.send(&testv1.Misbehave{How: testv1.Misbehave_HOW_PANIC}, keyed("k"))
	first := l.items
	l.items = nil
	deposited := l.send(&testv1.Deposit{Amount: 2}, keyed("k"))
	second := l.items
	l.items = first
	l.store() // the caller gets the panic
	other := l.send(&testv1.Withdraw{Amount: 1}, keyed("k"))
	l.wantSilence("before the key is durable", deposited, other)
	l.items = second
	l.settle(nil, store.ErrNotStored)
	l.wantAnswer("the command that was not stored", deposited, entity.StatusFault, 0)
	l.store()
	l.wantAnswer("the command that came after it", other, entity.StatusRefused, 0)
}

func TestAbortOfAKeyedCommand(t *testing.T) {
	t.Parallel()
	l := newLab(t, shelf, nil)
	c := l.send(&testv1.Deposit{Amount: 2}, keyed("k"))
	l.overwrite()
	l.items[0].Err = errIO
	l.core.CommitsDone(1)
	f := l.core.Load()
	l.core.Loaded(f, l.load(f))
	l.core.Resume()
	if l.core.Task() != entity.TaskLoadReceipts {
		t.Error("a command in doubt does not want the receipts")
	}
	l.core.Abort()
	l.wantAnswer("the command in doubt", c, entity.StatusUnknown, 0)
}

func TestReceiptUnknownOutcomeOlderThanTheRetention(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ day, steady time.Duration }{
		"by_both_clocks":                          {time.Minute, time.Minute},
		"though_the_time_of_day_was_set_back":     {-time.Hour, time.Minute},
		"though_the_steady_clock_has_stood_still": {time.Minute, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var steady time.Duration
			l := newLab(t, shelf, func(o *entity.Options) {
				o.Rules.ReceiptsFor = time.Minute
				o.Elapsed = func() time.Duration { return steady }
			})
			command := l.send(&testv1.Deposit{Amount: 2}, keyed("k"))
			l.overwrite()
			l.clock = l.clock.Add(c.day)
			steady += c.steady
			l.commit(&store.Batch{Key: l.key(), Expected: 2, Forget: []string{"k"}}) // as the engine does for an entity at rest
			l.lose(false)
			l.wantAnswer("a command in doubt for a minute, without a receipt", command, entity.StatusUnknown, 0)
			l.wantBalance(7)
		})
	}
}

func TestExpired(t *testing.T) {
	t.Parallel()
	begin := time.Unix(1000, 0)
	receipt := func(name string, version store.Version, order uint64, after time.Duration) *store.Receipt {
		return &store.Receipt{Name: name, Version: version, Order: order, Time: begin.Add(after)}
	}
	list := []*store.Receipt{
		receipt("d", 3, 4, 8*time.Minute),
		receipt("a", 1, 1, 0),
		receipt("c", 2, 3, time.Minute), // the store's clock was set back before it
		receipt("b", 2, 2, 2*time.Minute),
	}
	for _, c := range []struct {
		after time.Duration
		want  []string
	}{
		{9*time.Minute - 1, nil},
		{9 * time.Minute, []string{"a"}},
		{10 * time.Minute, []string{"a"}}, // c is as young as b, behind which it is
		{11 * time.Minute, []string{"a", "b", "c"}},
		{17 * time.Minute, []string{"a", "b", "c", "d"}},
	} {
		got := entity.Expired(slices.Clone(list), false, begin.Add(c.after), 8*time.Minute)
		if !slices.Equal(got, c.want) {
			t.Errorf("receipts that are kept for 8 minutes, and a minute longer, after %v: got %q, want %q", c.after, got, c.want)
		}
	}
}
