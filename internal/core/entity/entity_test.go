package entity_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/perdure/perdure"
	"github.com/perdure/perdure/internal/core/commit"
	"github.com/perdure/perdure/internal/core/entity"
	"github.com/perdure/perdure/internal/kindrules"
	testv1 "github.com/perdure/perdure/internal/testproto/perdure/test/v1"
	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/memory"
)

var errIO = errors.New("input/output error")

var account = perdure.EventSourced("account",
	perdure.Decide(func(_ context.Context, _ *testv1.Account, c *testv1.Deposit) (*perdure.Decision, error) {
		events := make([]proto.Message, max(1, c.GetParts()))
		for i := range events {
			events[i] = &testv1.Deposited{Amount: c.GetAmount()}
		}
		return perdure.Persist(events...).Tag(c.GetTags()...), nil
	}),
	perdure.Decide(func(_ context.Context, a *testv1.Account, c *testv1.Withdraw) (*perdure.Decision, error) {
		if a.GetBalance() < c.GetAmount() {
			return nil, perdure.Reject(perdure.FailedPrecondition, "balance is %d", a.GetBalance())
		}
		return perdure.Persist(&testv1.Withdrawn{Amount: c.GetAmount()}), nil
	}),
	perdure.Decide(func(_ context.Context, _ *testv1.Account, c *testv1.Annotate) (*perdure.Decision, error) {
		return perdure.Persist(&testv1.Annotated{Note: c.GetNote()}), nil
	}),
	perdure.Decide(func(_ context.Context, _ *testv1.Account, c *testv1.Misbehave) (*perdure.Decision, error) {
		switch c.GetHow() {
		case testv1.Misbehave_HOW_PANIC:
			panic(errIO)
		case testv1.Misbehave_HOW_EXIT:
			runtime.Goexit()
		case testv1.Misbehave_HOW_UNKNOWN_EVENT:
			return perdure.Persist(&testv1.Deposited{Amount: 1}, &testv1.Note{}), nil
		case testv1.Misbehave_HOW_INVALID_TEXT:
			return perdure.Persist(&testv1.Opened{Owner: "\xff"}), nil
		}
		return perdure.Persist(&testv1.Deposited{Amount: 1}, &testv1.Misbehaved{How: c.GetHow()}), nil
	}),
	perdure.Decide(func(context.Context, *testv1.Account, *testv1.Touch) (*perdure.Decision, error) {
		return perdure.None(), nil
	}),
	perdure.Decide(func(_ context.Context, _ *testv1.Account, c *testv1.Open) (*perdure.Decision, error) {
		return leave(c.GetOwner())
	}),
	perdure.Evolve(func(a *testv1.Account, e *testv1.Opened) { a.Owner = e.GetOwner() }),
	perdure.Evolve(func(a *testv1.Account, e *testv1.Deposited) { a.Balance += e.GetAmount() }),
	perdure.Evolve(func(a *testv1.Account, e *testv1.Withdrawn) { a.Balance -= e.GetAmount() }),
	perdure.Evolve(func(a *testv1.Account, e *testv1.Annotated) { a.Notes = append(a.Notes, e.GetNote()) }),
	perdure.Evolve(func(a *testv1.Account, e *testv1.Misbehaved) {
		a.Balance = -1
		if e.GetHow() == testv1.Misbehave_HOW_EVOLVE_EXIT {
			runtime.Goexit()
		}
		panic("evolve")
	}),
	perdure.Answer(func(_ context.Context, a *testv1.Account, q *testv1.GetBalance) (*testv1.Balance, error) {
		if q.GetRefuse() {
			return nil, perdure.Reject(perdure.PermissionDenied, "no")
		}
		return &testv1.Balance{Amount: a.GetBalance()}, nil
	}),
	perdure.Answer(func(_ context.Context, a *testv1.Account, _ *testv1.GetNotes) (*testv1.Account, error) { return a, nil }),
)

var shelf = perdure.DurableState("shelf",
	perdure.Update(func(_ context.Context, a *testv1.Account, c *testv1.Deposit) (*perdure.Change, error) {
		a.Balance += c.GetAmount()
		return perdure.Save(), nil
	}),
	perdure.Update(func(_ context.Context, a *testv1.Account, c *testv1.Annotate) (*perdure.Change, error) {
		a.Notes = append(a.Notes, c.GetNote())
		return perdure.Save(), nil
	}),
)

// A lab connects one entity to a store. A test triggers every step of it.
type lab struct {
	*testing.T
	core    entity.Entity
	options entity.Options
	log     *memory.Log
	items   []*commit.Item // submitted items without an outcome
	replies []*entity.Call
	calls   int
	sick    error // error of the next loads
	blank   error // error of the next reads of receipts
	clock   time.Time
}

func newLab(t *testing.T, kind *perdure.Kind[*testv1.Account], change func(*entity.Options)) *lab {
	t.Helper()
	rules, err := kindrules.Of(kind)
	if err != nil {
		t.Fatal(err)
	}
	l := &lab{T: t, clock: time.Unix(1, 0)}
	l.log = memory.New(memory.WithClock(l.Now))
	copied := *rules
	l.options = entity.Options{
		Rules: &copied, Limits: entity.Limits{Calls: 100, InFlight: 100, Conflicts: 2, LoadRetries: 2, Unknowns: 5},
		Refusal:   func(err error) *store.Refusal { return &store.Refusal{Code: 9, Message: err.Error()} },
		Performs:  func(m proto.Message) bool { _, ok := m.(*testv1.Note); return ok },
		StoreTime: l.Now,
	}
	if change != nil {
		change(&l.options)
	}
	l.core.Init(&l.options, "ada", l)
	return l
}

func (l *lab) Submit(i *commit.Item)        { l.items = append(l.items, i) }
func (l *lab) Reply(c *entity.Call)         { l.replies = append(l.replies, c) }
func (l *lab) Now() time.Time               { return l.clock }
func (l *lab) ItemsDone(items int)          { l.core.CommitsDone(items) }
func (l *lab) key() store.Key               { return l.core.Key() }
func (l *lab) answered(c *entity.Call) bool { return slices.Contains(l.replies, c) }

// send delivers a call and carries out the core's tasks.
func (l *lab) send(m proto.Message, change func(*entity.Call)) *entity.Call {
	l.Helper()
	l.calls++
	c := &entity.Call{Ctx: l.Context(), Message: m, ID: store.ID{6: 0x70, 8: 0x80, 15: byte(l.calls)}, WantState: true}
	switch m.(type) {
	case nil:
		c.Op = entity.OpState
	case *testv1.GetBalance, *testv1.GetNotes:
		c.Op = entity.OpQuery
	}
	if change != nil {
		change(c)
	}
	l.turn(func() { l.core.Deliver(c) })
	l.drive()
	return c
}

func (l *lab) deposit(amount int64) *entity.Call {
	l.Helper()
	return l.send(&testv1.Deposit{Amount: amount}, nil)
}

// turn runs f on a goroutine of its own, because a rule in it may end that goroutine.
func (l *lab) turn(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	<-done
	if l.core.Interrupted() {
		l.core.Exited()
	}
}

// drive carries out the loads and resumes that the core asks for.
func (l *lab) drive() {
	l.Helper()
	for {
		switch {
		case l.core.Task() == entity.TaskLoad:
			f := l.core.Load()
			l.core.Loaded(f, l.load(f))
		case l.core.Task() == entity.TaskLoadReceipts:
			l.core.ReceiptsLoaded(l.receipts())
		case l.core.Task() == entity.TaskLoadReply:
			l.core.ReplyLoaded(l.answer(l.core.Next()))
		case l.core.WantsResume():
			l.turn(l.core.Resume)
		default:
			return
		}
	}
}

func (l *lab) load(f *entity.Fold) error {
	if l.sick != nil {
		return l.sick
	}
	for e, err := range l.log.Load(l.Context(), l.key(), f.Accept) {
		if err != nil {
			return err
		}
		if err := f.Apply(e); err != nil {
			return err
		}
	}
	return nil
}

// store commits all items in flight and gives the core their results.
func (l *lab) store() {
	l.Helper()
	var batches []*store.Batch
	for _, i := range l.items {
		batches = append(batches, &i.Batch)
	}
	results, err := l.log.Commit(l.Context(), batches)
	if err != nil {
		l.Fatal(err)
	}
	l.settle(results, nil)
}

// lose completes all items in flight with an error. If stored is true, the store has them all
// the same.
func (l *lab) lose(stored bool) {
	l.Helper()
	if stored {
		for _, i := range l.items {
			if r, err := l.log.Commit(l.Context(), i.Alone()); err != nil || r[0].Err != nil {
				l.Fatalf("commit: %v, %v", err, r)
			}
		}
	}
	l.settle(nil, errIO)
	if _, ok := l.core.WantsRetry(); ok && l.sick == nil {
		l.core.Retry()
		l.drive()
	}
}

func (l *lab) settle(results []store.Result, err error) {
	l.Helper()
	n := len(l.items)
	for i, item := range l.items {
		if item.Err = err; err == nil {
			item.Result = results[i]
		}
	}
	l.items = nil
	l.core.CommitsDone(n)
	l.drive()
}

// other appends events of another writer, which this entity does not know of.
func (l *lab) other(events ...proto.Message) {
	l.Helper()
	b := &store.Batch{Key: l.key(), Expected: l.stored()}
	for i, m := range events {
		payload, err := proto.Marshal(m)
		if err != nil {
			l.Fatal(err)
		}
		b.Events = append(b.Events, store.Event{
			ID: store.ID{0: 9, 6: 0x70, 14: byte(b.Expected), 15: byte(i)}, Type: string(m.ProtoReflect().Descriptor().FullName()), Payload: payload,
		})
	}
	l.commit(b)
}

func (l *lab) commit(b *store.Batch) {
	l.Helper()
	r, err := l.log.Commit(l.Context(), []*store.Batch{b})
	if err != nil || r[0].Err != nil {
		l.Fatalf("commit: %v, %v", err, r)
	}
}

// stored returns the entity's version in the log.
func (l *lab) stored() (v store.Version) {
	l.Helper()
	for e, err := range l.log.Load(l.Context(), l.key(), func(s *store.State) bool { v = s.Version; return true }) {
		if err != nil {
			l.Fatal(err)
		}
		v = e.Version
	}
	return v
}

func (l *lab) wantAnswer(what string, c *entity.Call, want entity.Status, version store.Version) {
	l.Helper()
	switch {
	case !l.answered(c):
		l.Errorf("%s: got no answer, want status %d", what, want)
	case c.Outcome.Status != want || c.Outcome.Version != version:
		l.Errorf("%s: got status %d at version %d with %v, want status %d at version %d",
			what, c.Outcome.Status, c.Outcome.Version, c.Outcome.Err, want, version)
	}
}

func (l *lab) wantSilence(what string, calls ...*entity.Call) {
	l.Helper()
	for i, c := range calls {
		if l.answered(c) {
			l.Errorf("%s: call %d was answered with status %d, want no answer yet", what, i, c.Outcome.Status)
		}
	}
}

func (l *lab) wantBalance(want int64) {
	l.Helper()
	c := l.send(nil, nil)
	l.store()
	if got, _ := c.Outcome.State.(*testv1.Account); !l.answered(c) || got.GetBalance() != want {
		l.Errorf("balance: got %v with status %d and %v, want %d", got, c.Outcome.Status, c.Outcome.Err, want)
	}
}

func TestAnswersWaitUntilAllTheySawIsDurable(t *testing.T) {
	t.Parallel()
	l := newLab(t, account, nil)
	calls := []*entity.Call{
		l.deposit(5),
		l.send(&testv1.Withdraw{Amount: 9}, nil), // refused, on a state that is not durable yet
		l.send(&testv1.GetBalance{}, nil),
		l.send(&testv1.GetBalance{Refuse: true}, nil),
		l.send(nil, nil),
		l.send(&testv1.Deposit{Amount: 1}, func(c *entity.Call) { c.Conditional, c.IfVersion = true, 7 }),
		l.send(&testv1.Misbehave{How: testv1.Misbehave_HOW_PANIC}, nil),
		l.send(&testv1.Misbehave{How: testv1.Misbehave_HOW_EXIT}, nil),
		l.send(&testv1.Misbehave{How: testv1.Misbehave_HOW_UNKNOWN_EVENT}, nil),
		l.send(&testv1.Misbehave{How: testv1.Misbehave_HOW_INVALID_TEXT}, nil),
		l.deposit(2),
	}
	l.wantSilence("before the commit", calls...)
	if got := len(l.items); got != 2 {
		t.Fatalf("items in flight: got %d, want one for each of two deposits", got)
	}
	l.store()
	if !slices.Equal(l.replies, calls) {
		t.Errorf("got %d replies, want those to %d calls in their order", len(l.replies), len(calls))
	}
	for i, want := range []entity.Status{
		entity.StatusDone, entity.StatusRefused, entity.StatusDone, entity.StatusRefused, entity.StatusDone, entity.StatusWrongVersion,
		entity.StatusPanicked, entity.StatusPanicked, entity.StatusInvalid, entity.StatusInvalid,
	} {
		l.wantAnswer(fmt.Sprint("call ", i), calls[i], want, 1)
	}
	l.wantAnswer("the last", calls[10], entity.StatusDone, 2)
	if got := calls[2].Outcome.Answer.(*testv1.Balance).GetAmount(); got != 5 {
		t.Errorf("balance between the deposits: got %d, want 5", got)
	}
	if got := calls[10].Outcome.Position; got != 2 {
		t.Errorf("position of the last: got %v, want 2", got)
	}
	var p *entity.Panic
	if !errors.As(calls[6].Outcome.Err, &p) || !errors.Is(p, errIO) || len(p.Stack) == 0 {
		t.Errorf("panic of a rule: got %v, want its value and stack", calls[6].Outcome.Err)
	}
	if !errors.As(calls[7].Outcome.Err, &p) || !p.Goexit {
		t.Errorf("Goexit of a rule: got %v, want to be told of it", calls[7].Outcome.Err)
	}
	if !l.core.Idle() || l.core.Pending() != 0 {
		t.Errorf("at the end: got idle %t with %d pending, want nothing left", l.core.Idle(), l.core.Pending())
	}
}

func TestCallWithoutARuleIsAnsweredAtOnce(t *testing.T) {
	t.Parallel()
	l := newLab(t, account, nil)
	l.deposit(1)
	command, query := l.send(&testv1.Note{}, nil), l.send(&testv1.GetNotes{}, func(c *entity.Call) { c.Message = &testv1.Note{} })
	l.wantAnswer("a command", command, entity.StatusUnhandled, 0)
	l.wantAnswer("a query", query, entity.StatusUnhandled, 0)
}

func TestEvolveFailureLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	for _, how := range []testv1.Misbehave_How{testv1.Misbehave_HOW_EVOLVE_PANIC, testv1.Misbehave_HOW_EVOLVE_EXIT} {
		t.Run(how.String(), func(t *testing.T) {
			t.Parallel()
			for _, stored := range []bool{true, false} {
				l := newLab(t, account, nil)
				first := l.deposit(5)
				bad := l.send(&testv1.Misbehave{How: how}, nil)
				behind := l.deposit(7)
				l.wantSilence("while another is in flight", first, bad, behind)
				if got := len(l.items); got != 1 {
					t.Fatalf("items in flight: got %d, want 1", got)
				}
				if stored {
					l.store()
				} else {
					l.settle([]store.Result{{Err: store.ErrTooLarge}}, nil)
					l.wantAnswer("the refused one before it", first, entity.StatusInvalid, first.Outcome.Version)
				}
				l.wantAnswer("the one that fails", bad, entity.StatusPanicked, bad.Outcome.Version)
				l.store()
				if stored {
					l.wantAnswer("the one before it", first, entity.StatusDone, 1)
					l.wantAnswer("the one behind it", behind, entity.StatusDone, 2)
					l.wantBalance(12)
				} else {
					l.wantAnswer("the one behind it", behind, entity.StatusDone, 1)
					l.wantBalance(7)
				}
			}
		})
	}
}

func TestConflictRunsTheCommandAgain(t *testing.T) {
	t.Parallel()
	l := newLab(t, account, nil)
	l.deposit(1)
	l.store()
	l.other(&testv1.Deposited{Amount: 10})
	first, read, second := l.deposit(2), l.send(nil, nil), l.deposit(3)
	ids := []store.ID{l.items[0].Batch.Events[0].ID, l.items[1].Batch.Events[0].ID}
	l.store() // the first conflicts, the second stands behind it
	l.wantSilence("after a conflict", first, read, second)
	if got := []store.ID{l.items[0].Batch.Events[0].ID, l.items[1].Batch.Events[0].ID}; !slices.Equal(got, ids) {
		t.Errorf("ids of the events that are decided again: got %v, want the same as before, %v", got, ids)
	}
	l.store()
	l.wantAnswer("the first", first, entity.StatusDone, 3)
	l.wantAnswer("a read between them", read, entity.StatusDone, 3)
	l.wantAnswer("the second", second, entity.StatusDone, 4)
	if got := read.Outcome.State.(*testv1.Account).GetBalance(); got != 13 {
		t.Errorf("balance read between them: got %d, want 13", got)
	}
	l.wantBalance(16)
}

func TestConflictsAreBounded(t *testing.T) {
	t.Parallel()
	l := newLab(t, account, nil)
	c := l.deposit(1)
	for n := range l.options.Limits.Conflicts + 1 {
		l.wantSilence(fmt.Sprint("after conflicts: ", n), c)
		l.other(&testv1.Deposited{Amount: 10})
		l.store()
	}
	l.wantAnswer("one more", c, entity.StatusConflict, 0)
	l.wantBalance(30)
}

func TestUnknownOutcomeIsFoundByALoad(t *testing.T) {
	t.Parallel()
	for _, kind := range []*perdure.Kind[*testv1.Account]{account, shelf} {
		for _, stored := range []bool{true, false} {
			l := newLab(t, kind, nil)
			l.deposit(1)
			l.store()
			calls := []*entity.Call{l.deposit(2), l.deposit(3), l.deposit(4)}
			lost := len(l.items)
			l.lose(stored)
			if stored && lost < len(calls) {
				l.store() // of a durable state, the third had not been decided yet
			}
			if stored {
				if len(l.items) > 0 {
					t.Errorf("%s: %d batches that are stored are submitted again", kind.Name(), len(l.items))
				}
			} else {
				l.wantSilence(kind.Name()+": before they have run again", calls...)
				l.store()
			}
			for i, c := range calls {
				l.wantAnswer(fmt.Sprintf("%s, stored %t, call %d", kind.Name(), stored, i), c, entity.StatusDone, store.Version(i)+2)
			}
			l.wantBalance(10)
		}
	}
}

func TestFaultThatStoresNothingIsReported(t *testing.T) {
	t.Parallel()
	l := newLab(t, account, nil)
	first, read := l.deposit(1), l.send(nil, nil)
	l.settle(nil, fmt.Errorf("disk is full: %w", store.ErrNotStored))
	l.wantAnswer("a command", first, entity.StatusFault, 0)
	l.wantAnswer("a read behind it", read, entity.StatusDone, 0)
	if got := read.Outcome.State.(*testv1.Account).GetBalance(); got != 0 {
		t.Errorf("balance read behind it: got %d, want 0", got)
	}
}

func TestLoadIsRepeatedForAnUnknownOutcome(t *testing.T) {
	t.Parallel()
	for _, heals := range []bool{true, false} {
		l := newLab(t, account, nil)
		doubted := l.deposit(1)
		l.sick = errors.New("no connection")
		l.lose(true)
		waiting := l.deposit(2)
		var pauses []time.Duration
		for range l.options.Limits.LoadRetries {
			l.wantSilence("while the store is away", doubted, waiting)
			pause, ok := l.core.WantsRetry()
			if !ok {
				t.Fatal("the core does not want to load again")
			}
			pauses = append(pauses, pause)
			if len(pauses) == l.options.Limits.LoadRetries && heals {
				l.sick = nil
			}
			l.core.Retry()
			l.drive()
		}
		if want := []time.Duration{10 * time.Millisecond, 20 * time.Millisecond}; !slices.Equal(pauses, want) {
			t.Errorf("pauses: got %v, want %v", pauses, want)
		}
		if heals {
			l.wantAnswer("the one in doubt", doubted, entity.StatusDone, 1)
			l.store()
			l.wantAnswer("the one behind it", waiting, entity.StatusDone, 2)
			continue
		}
		l.wantAnswer("the one in doubt", doubted, entity.StatusUnknown, 0)
		if err := doubted.Outcome.Err; !errors.Is(err, errIO) || !errors.Is(err, l.sick) {
			t.Errorf("cause: got %v, want both what the commit and what the load said", err)
		}
		l.wantAnswer("the one behind it", waiting, entity.StatusFault, 0)
		l.sick = nil
		l.wantBalance(1)
	}
}

func TestLoadFailureAnswersAllWaitingCalls(t *testing.T) {
	t.Parallel()
	l := newLab(t, account, nil)
	l.sick = errIO
	c := l.deposit(1)
	l.wantAnswer("a command", c, entity.StatusFault, 0)
	if !errors.Is(c.Outcome.Err, errIO) {
		t.Errorf("cause: got %v, want %v", c.Outcome.Err, errIO)
	}
	l.sick = nil
	l.wantBalance(0)
}

// TestUnknownOutcomeThatCannotBeResolved deletes the events in which the core would find an
// uncertain command.
func TestUnknownOutcomeThatCannotBeResolved(t *testing.T) {
	t.Parallel()
	l := newLab(t, account.With(perdure.SnapshotEvery(2)), nil)
	l.deposit(1)
	l.store()
	doubted := l.deposit(2) // makes version 2, with a snapshot
	l.sick = errIO          // loads fail until the events are deleted
	l.lose(true)
	l.other(&testv1.Deposited{Amount: 3}, &testv1.Deposited{Amount: 4})
	payload, err := proto.Marshal(&testv1.Account{Balance: 10})
	if err != nil {
		t.Fatal(err)
	}
	l.commit(&store.Batch{Key: l.key(), Expected: 4, Snapshot: &store.State{
		ID: store.ID{6: 0x70, 15: 99}, Type: l.options.Rules.StateType, Fingerprint: l.options.Rules.Fingerprint, Payload: payload,
	}})
	if n, err := l.log.DeleteEvents(t.Context(), l.key(), 4, store.LastPosition(0)); err != nil || n != 3 {
		t.Fatalf("delete events: got %d and %v, want 3 deleted", n, err)
	}
	l.sick = nil
	l.core.Retry()
	l.drive()
	l.wantAnswer("a command whose event is deleted", doubted, entity.StatusUnknown, doubted.Outcome.Version)
	l.wantBalance(10)
	if got := l.stored(); got != 4 {
		t.Errorf("version in the log: got %d, want 4: the command must not be run again", got)
	}
}

func TestUnknownOutcomeOfASavedState(t *testing.T) {
	t.Parallel()
	l := newLab(t, shelf, nil)
	doubted := l.deposit(1)
	l.sick = errIO
	l.lose(true)
	payload, err := proto.Marshal(&testv1.Account{Balance: 10})
	if err != nil {
		t.Fatal(err)
	}
	l.commit(&store.Batch{Key: l.key(), Expected: 1, Save: &store.State{
		ID: store.ID{6: 0x70, 15: 99}, Type: l.options.Rules.StateType, Fingerprint: l.options.Rules.Fingerprint, Payload: payload,
	}})
	l.sick = nil
	l.core.Retry()
	l.drive()
	l.wantAnswer("a command whose state somebody has replaced", doubted, entity.StatusUnknown, doubted.Outcome.Version)
	l.wantBalance(10)
}

func TestAbortAnswersEveryCall(t *testing.T) {
	t.Parallel()
	for _, shared := range []bool{false, true} {
		l := newLab(t, account, func(o *entity.Options) { o.Shared, o.Limits.InFlight = shared, 2 })
		command, read, waiting := l.deposit(1), l.send(nil, nil), l.deposit(2)
		behind := l.deposit(3)
		l.core.Abort()
		l.wantAnswer("a command in flight", command, entity.StatusUnknown, 0)
		l.wantAnswer("a read behind it", read, entity.StatusClosed, 0)
		if shared {
			l.wantAnswer("a command that waits", waiting, entity.StatusClosed, 0)
		} else {
			l.wantAnswer("a second command in flight", waiting, entity.StatusUnknown, 0)
		}
		l.wantAnswer("the last", behind, entity.StatusClosed, 0)
		if !l.core.Idle() {
			t.Error("after Abort: got a busy entity, want an idle one")
		}
	}
	l := newLab(t, account, nil)
	doubted := l.deposit(1)
	l.sick = errIO
	l.lose(false)
	l.core.Abort()
	l.wantAnswer("a command in doubt", doubted, entity.StatusUnknown, 0)
}

func TestCallsAreBounded(t *testing.T) {
	t.Parallel()
	l := newLab(t, account, func(o *entity.Options) { o.Limits.Calls, o.Limits.InFlight = 3, 2 })
	first, second, waits := l.deposit(1), l.deposit(2), l.deposit(3)
	over := l.deposit(4)
	l.wantAnswer("one call too many", over, entity.StatusOverloaded, 0)
	if got := len(l.items); got != 2 {
		t.Errorf("items in flight: got %d, want 2", got)
	}
	l.store()
	l.wantAnswer("the first", first, entity.StatusDone, 1)
	l.wantAnswer("the second", second, entity.StatusDone, 2)
	l.wantSilence("the one that had to wait", waits)
	l.store()
	l.wantAnswer("the one that had to wait", waits, entity.StatusDone, 3)
	l.wantBalance(6)
}

func TestCallOfACanceledCallerIsNotRun(t *testing.T) {
	t.Parallel()
	l := newLab(t, account, nil)
	asked := 0
	gone := l.send(&testv1.Deposit{Amount: 1}, func(c *entity.Call) { c.Begin = func(*entity.Call) bool { asked++; return false } })
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	expired := l.send(&testv1.Deposit{Amount: 1}, func(c *entity.Call) { c.Ctx = ctx })
	l.wantSilence("a call that was left", gone)
	l.wantAnswer("a call whose context has ended", expired, entity.StatusExpired, 0)
	if len(l.items) > 0 || !l.core.Idle() {
		t.Errorf("got %d items in flight and idle %t, want nothing", len(l.items), l.core.Idle())
	}
	stays := l.send(&testv1.Deposit{Amount: 1}, func(c *entity.Call) { c.Begin = func(*entity.Call) bool { asked++; return true } })
	l.lose(false) // it runs again
	l.store()
	l.wantAnswer("a call that is waited for", stays, entity.StatusDone, 1)
	if asked != 3 {
		t.Errorf("callers asked: got %d times, want once for each of three runs", asked)
	}
	l.send(&testv1.Deposit{Amount: 1}, func(c *entity.Call) { c.Begin = func(*entity.Call) bool { asked++; return asked == 4 } })
	l.lose(false) // it would run again, but its caller has left by now
	if asked != 5 || len(l.items) > 0 || !l.core.Idle() {
		t.Errorf("a caller that has left after its call was begun: asked %d times, %d items in flight and idle %t, want 5, 0 and true",
			asked, len(l.items), l.core.Idle())
	}
}

func TestSharedLogReadsAreChecked(t *testing.T) {
	t.Parallel()
	l := newLab(t, account, func(o *entity.Options) { o.Shared = true })
	l.deposit(1)
	l.store()
	read := l.send(&testv1.GetBalance{}, nil)
	if len(l.items) != 1 || !l.items[0].Batch.IsCheck() || l.items[0].Batch.Expected != 1 {
		t.Fatalf("a read: got %d items in flight, want one check of version 1", len(l.items))
	}
	l.other(&testv1.Deposited{Amount: 10})
	l.store()
	l.wantSilence("a read that is not true any more", read)
	l.store()
	l.wantAnswer("a read", read, entity.StatusDone, 2)
	if got := read.Outcome.Answer.(*testv1.Balance).GetAmount(); got != 11 {
		t.Errorf("balance: got %d, want 11", got)
	}
	unknown := l.send(nil, nil)
	l.lose(false)
	l.store()
	l.wantAnswer("a read whose check had an unknown outcome", unknown, entity.StatusDone, 2)
}

func TestStateSharesNoMemory(t *testing.T) {
	t.Parallel()
	for _, kind := range []*perdure.Kind[*testv1.Account]{account, shelf} {
		l := newLab(t, kind, nil)
		note := &testv1.Note{Text: "a"}
		c := l.send(&testv1.Annotate{Note: note}, nil)
		note.Text = "changed while it is in flight"
		l.store()
		note.Text = "changed after the reply"
		c.Outcome.State.(*testv1.Account).Notes[0].Text = "changed in the reply"
		state := l.send(nil, nil)
		got := state.Outcome.State.(*testv1.Account)
		if len(got.GetNotes()) != 1 || got.GetNotes()[0].GetText() != "a" {
			t.Errorf("%s: got %v, want the note as it was sent", kind.Name(), got)
		}
		got.Notes[0].Text = "changed in a state"
		if kind == account {
			answer := l.send(&testv1.GetNotes{}, nil).Outcome.Answer.(*testv1.Account)
			if answer.GetNotes()[0].GetText() != "a" {
				t.Errorf("%s: got the answer %v, want the note as it was sent", kind.Name(), answer)
			}
			answer.Notes[0].Text = "changed in an answer"
		}
		l.core.Abort() // forget the memory
		again := l.send(nil, nil)
		if got := again.Outcome.State.(*testv1.Account).GetNotes()[0].GetText(); got != "a" {
			t.Errorf("%s: got %q in the log, want the note as it was sent", kind.Name(), got)
		}
	}
}

func TestRecordsNameTheirCause(t *testing.T) {
	t.Parallel()
	l := newLab(t, account.With(perdure.SnapshotEvery(2)), nil)
	c := l.send(&testv1.Deposit{Amount: 1, Parts: 2, Tags: []string{"t"}}, func(c *entity.Call) {
		c.Metadata = store.Metadata{CorrelationID: "x", Values: map[string]string{"k": "v"}}
	})
	b := &l.items[0].Batch
	seen := map[store.ID]bool{c.ID: true}
	for i := range b.Events {
		e := &b.Events[i]
		if e.Metadata.CausationID != c.ID || e.Metadata.CorrelationID != "x" || e.Metadata.Values["k"] != "v" || !slices.Equal(e.Tags, []string{"t"}) {
			t.Errorf("event %d: got metadata %+v and tags %q, want the command's", i, e.Metadata, e.Tags)
		}
		if seen[e.ID] {
			t.Errorf("event %d: got the id %v for the second time", i, e.ID)
		}
		seen[e.ID] = true
	}
	s := b.Snapshot
	if s == nil {
		t.Fatal("no snapshot with the second event, want one")
	}
	if s.Metadata.CausationID != c.ID || seen[s.ID] || s.Fingerprint != l.options.Rules.Fingerprint {
		t.Errorf("snapshot: got %+v, want it to come from the command", s)
	}
	l.store()
	l.core.Abort()
	l.wantBalance(2)
}

func TestLoadRefusesDamagedRecords(t *testing.T) {
	t.Parallel()
	deposited, err := proto.Marshal(&testv1.Deposited{Amount: 1})
	if err != nil {
		t.Fatal(err)
	}
	misbehaved, err := proto.Marshal(&testv1.Misbehaved{How: testv1.Misbehave_HOW_EVOLVE_PANIC})
	if err != nil {
		t.Fatal(err)
	}
	var p *entity.Panic
	for _, c := range []struct {
		name  string
		event store.Event
		want  func(error) bool
	}{
		{
			"a gap",
			store.Event{Version: 2, Type: "perdure.test.v1.Deposited", Payload: deposited},
			func(err error) bool { return errors.Is(err, store.ErrCorrupt) },
		},
		{"an unknown type", store.Event{Version: 1, Type: "x.Y"}, func(err error) bool { return err != nil }},
		{
			"bytes that are no message",
			store.Event{Version: 1, Type: "perdure.test.v1.Deposited", Payload: []byte{0xff}},
			func(err error) bool { return err != nil },
		},
		{
			"an event on which the rule panics",
			store.Event{Version: 1, Type: "perdure.test.v1.Misbehaved", Payload: misbehaved},
			func(err error) bool { return errors.As(err, &p) },
		},
	} {
		l := newLab(t, account, nil)
		if err := l.core.Load().Apply(&c.event); !c.want(err) {
			t.Errorf("%s: got %v, want the load to fail for it", c.name, err)
		}
	}
}

func TestLoadSkipsAnUnusableSnapshot(t *testing.T) {
	t.Parallel()
	l := newLab(t, account, nil)
	good := store.State{Type: l.options.Rules.StateType, Version: 3, Fingerprint: l.options.Rules.Fingerprint}
	for name, change := range map[string]func(*store.State){
		"another fold":   func(s *store.State) { s.Fingerprint++ },
		"another type":   func(s *store.State) { s.Type = "x.Y" },
		"broken payload": func(s *store.State) { s.Payload = []byte{0xff} },
	} {
		s := good
		change(&s)
		if l.core.Load().Accept(&s) {
			t.Errorf("a snapshot with %s: got it accepted", name)
		}
	}
	if !l.core.Load().Accept(&good) {
		t.Error("a good snapshot: got it passed over")
	}
	durable := newLab(t, shelf, nil)
	f := durable.core.Load()
	if f.Accept(&store.State{Type: "x.Y", Version: 1}) {
		t.Error("a saved state of another type: got it accepted")
	}
	c := &entity.Call{Ctx: t.Context(), Op: entity.OpState}
	durable.core.Deliver(c)
	durable.core.Loaded(f, nil)
	durable.wantAnswer("a call to an entity whose saved state cannot be read", c, entity.StatusFault, 0)
}
