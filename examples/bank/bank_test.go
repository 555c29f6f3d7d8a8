package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/perdure/perdure"
	bankv1 "github.com/perdure/perdure/examples/bank/proto/bank/v1"
	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/memory"
)

// A need is a command that a test executes in spite of crashes.
type need struct {
	account, transfer string // the entity that it is for: one of the two
	message           proto.Message
}

func (n *need) do(ctx context.Context, engine *perdure.Engine) error {
	key := perdure.WithIdempotencyKey(string(proto.MessageName(n.message)))
	var err error
	if n.account != "" {
		_, err = Accounts.Ref(engine, n.account).Do(ctx, n.message, key)
	} else {
		_, err = Transfers.Ref(engine, n.transfer).Do(ctx, n.message, key)
	}
	return err
}

// The transfers of the tests: one of each sort, some of them at the same time.
const opened = 100_00

var needs = []need{
	{account: "ada", message: &bankv1.OpenAccount{Owner: "ada", Balance: opened}},
	{account: "bob", message: &bankv1.OpenAccount{Owner: "bob"}},
	{account: "eve", message: &bankv1.OpenAccount{Owner: "eve"}},
	{account: "eve", message: &bankv1.CloseAccount{}},
	{transfer: "fine", message: &bankv1.StartTransfer{From: "ada", To: "bob", Amount: 30_00}},
	{transfer: "refused", message: &bankv1.StartTransfer{From: "ada", To: "eve", Amount: 20_00, Patience: durationpb.New(time.Hour)}},
	{transfer: "nobody", message: &bankv1.StartTransfer{From: "ada", To: "nobody", Amount: 10_00}},
	{transfer: "too much", message: &bankv1.StartTransfer{From: "bob", To: "ada", Amount: 500_00}},
	{transfer: "back", message: &bankv1.StartTransfer{From: "bob", To: "ada", Amount: 0o_01, Patience: durationpb.New(time.Nanosecond)}},
}

// audit reads the whole log and returns the money in all accounts and the money in
// transfer. It returns an error if a transfer has taken, given or returned money that it
// was not allowed to.
func audit(ctx context.Context, log store.Log) (balance, moving int64, err error) {
	taken := map[string]int64{}
	ended := map[string]bool{}
	give := func(transfer string, amount int64) error {
		if taken[transfer] != amount {
			return fmt.Errorf("transfer %q gives %d, and has %d", transfer, amount, taken[transfer])
		}
		taken[transfer] = 0
		ended[transfer] = true
		balance += amount
		moving -= amount
		return nil
	}
	for ev, err := range log.Scan(ctx, store.Query{Kinds: []string{Accounts.Name()}}) {
		if err != nil {
			return 0, 0, err
		}
		var failure error
		switch ev.Type {
		case "bank.v1.AccountOpened":
			balance += decode(ev, &bankv1.AccountOpened{}).GetBalance()
		case "bank.v1.Withdrawn":
			e := decode(ev, &bankv1.Withdrawn{})
			if taken[e.GetTransfer()] != 0 || ended[e.GetTransfer()] {
				failure = fmt.Errorf("transfer %q takes money twice", e.GetTransfer())
			}
			taken[e.GetTransfer()] = e.GetAmount()
			balance -= e.GetAmount()
			moving += e.GetAmount()
		case "bank.v1.Deposited":
			e := decode(ev, &bankv1.Deposited{})
			failure = give(e.GetTransfer(), e.GetAmount())
		case "bank.v1.Refunded":
			e := decode(ev, &bankv1.Refunded{})
			failure = give(e.GetTransfer(), e.GetAmount())
		}
		if failure != nil {
			return 0, 0, fmt.Errorf("at %v: %w", ev.Position, failure)
		}
	}
	return balance, moving, nil
}

func decode[M proto.Message](ev *store.Event, m M) M {
	if err := proto.Unmarshal(ev.Payload, m); err != nil {
		panic(fmt.Sprintf("event %v: %v", ev.Position, err)) // the engine has written it
	}
	return m
}

// live executes all needs by processes that die as f says. It returns an error if the sum
// of the money is wrong at any time or a transfer ends wrongly.
func live(ctx context.Context, log *memory.Log, f *fate) error {
	var engine *perdure.Engine
	restart := func() error {
		if engine != nil {
			if err := engine.Close(ctx); err != nil {
				return err
			}
			balance, moving, err := audit(ctx, log)
			if err != nil {
				return err
			}
			if balance+moving != opened && balance != 0 {
				return fmt.Errorf("after a crash: %d in accounts and %d on the way", balance, moving)
			}
		}
		life := f.begin()
		var err error
		engine, err = openBank(ctx, &mortalLog{log, f, life}, perdure.Perform(func(context.Context, *bankv1.Notice) error {
			return f.step(life)
		}))
		return err
	}
	if err := restart(); err != nil {
		return err
	}
	defer func() { engine.Close(ctx) }() //nolint:errcheck // the engine may have died
	for _, n := range needs {
		for err := n.do(ctx, engine); err != nil || f.died(); err = n.do(ctx, engine) {
			if !f.died() {
				return err
			}
			if err := restart(); err != nil {
				return err
			}
		}
	}
	for { // longer than all pauses
		select {
		case <-f.death:
		case <-time.After(24 * time.Hour):
		}
		if !f.died() {
			break
		}
		if err := restart(); err != nil {
			return err
		}
	}
	return settled(ctx, engine, log)
}

// settled checks that all transfers have ended, each in the right step.
func settled(ctx context.Context, engine *perdure.Engine, log store.Log) error {
	balance, moving, err := audit(ctx, log)
	if err != nil {
		return err
	}
	if balance != opened || moving != 0 {
		return fmt.Errorf("%d in accounts and %d on the way, want %d and nothing", balance, moving, opened)
	}
	for id, want := range map[string]bankv1.Step{
		"fine": bankv1.Step_STEP_COMPLETED, "refused": bankv1.Step_STEP_FAILED, "nobody": bankv1.Step_STEP_FAILED,
		"too much": bankv1.Step_STEP_FAILED, "back": bankv1.Step_STEP_UNSPECIFIED, // either step is right
	} {
		t, err := Transfers.Ref(engine, id).State(ctx)
		if err != nil {
			return err
		}
		ended := t.GetStep() == bankv1.Step_STEP_COMPLETED || t.GetStep() == bankv1.Step_STEP_FAILED
		if !ended || want != bankv1.Step_STEP_UNSPECIFIED && t.GetStep() != want {
			return fmt.Errorf("transfer %q has ended as %v, want %v", id, t, want)
		}
	}
	for _, parked := range []bool{false, true} {
		for m, err := range log.Messages(ctx, store.MessageQuery{Parked: parked}) {
			if err != nil {
				return err
			}
			return fmt.Errorf("message %+v is still there", m)
		}
	}
	return nil
}

// inBubble runs live in a bubble of its own.
func inBubble(t *testing.T, f *fate) (err error) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		err = live(t.Context(), memory.New(), f)
		synctest.Wait()
	})
	return err
}

func TestMoneyIsNeitherMadeNorLostByACrashAtAnyStep(t *testing.T) {
	t.Parallel()
	f := &fate{}
	if err := inBubble(t, f); err != nil {
		t.Fatalf("without a crash: %v", err)
	}
	steps := f.steps
	if steps < 2*len(needs) {
		t.Fatalf("%d steps, want two for every commit", steps)
	}
	for at := range steps {
		if err := inBubble(t, &fate{dieAt: []int{at + 1}}); err != nil {
			t.Errorf("with a crash at step %d of %d: %v", at+1, steps, err)
		}
	}
	random := rand.New(rand.NewPCG(1, 0))
	for range 100 {
		var at []int
		for range 2 + random.IntN(5) {
			at = append(at, 1+random.IntN(2*steps))
		}
		if err := inBubble(t, &fate{dieAt: at}); err != nil {
			t.Errorf("with crashes at steps %v: %v", at, err)
		}
	}
}

func TestDepositApartFromItsMessageIsCaught(t *testing.T) {
	t.Parallel()
	f := &fate{}
	if err := inBubble(t, f); err != nil {
		t.Fatal(err)
	}
	for at := range f.steps {
		if err := inBubble(t, &fate{dieAt: []int{at + 1}, apart: true}); err != nil {
			t.Logf("caught with a crash at step %d: %v", at+1, err)
			return
		}
	}
	t.Errorf("not caught with a crash at any of %d steps", f.steps)
}

func TestTransferThatTakesTooLongGivesTheMoneyBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, log := t.Context(), memory.New()
		letter := perdure.Perform(func(context.Context, *bankv1.Notice) error { return nil })
		// No engine runs the kind of the accounts.
		engine, err := perdure.Open(ctx, perdure.Config{Store: log, Kinds: []perdure.AnyKind{Transfers}, Effects: []perdure.EffectRule{letter}})
		if err != nil {
			t.Fatal(err)
		}
		start := &bankv1.StartTransfer{From: "ada", To: "bob", Amount: 5_00, Patience: durationpb.New(time.Minute)}
		if _, err := Transfers.Ref(engine, "1").Do(ctx, start); err != nil {
			t.Fatal(err)
		}
		<-time.After(time.Hour)
		s, err := Transfers.Ref(engine, "1").State(ctx)
		if err != nil || !s.GetLate() || s.GetStep() != bankv1.Step_STEP_WITHDRAWING {
			t.Fatalf("after an hour: got %v, %v, want it late and withdrawing", s, err)
		}
		if err := engine.Close(ctx); err != nil {
			t.Fatal(err)
		}
		if engine, err = openBank(ctx, log, letter); err != nil {
			t.Fatal(err)
		}
		for _, owner := range []string{"ada", "bob"} {
			_, err := Accounts.Ref(engine, owner).Do(ctx, &bankv1.OpenAccount{Owner: owner, Balance: 10_00})
			if err != nil {
				t.Fatal(err)
			}
		}
		<-time.After(time.Hour)
		s, err = Transfers.Ref(engine, "1").State(ctx)
		if err != nil || s.GetStep() != bankv1.Step_STEP_FAILED {
			t.Errorf("when the accounts are back: got %v, %v, want it failed", s, err)
		}
		balance, moving, err := audit(ctx, log)
		if err != nil || balance != 20_00 || moving != 0 {
			t.Errorf("got %d in accounts and %d on the way, %v, want 2000 and nothing", balance, moving, err)
		}
		if err := engine.Close(ctx); err != nil {
			t.Fatal(err)
		}
	})
}

func TestInterestIsPaidForEveryMonthAlsoForThoseThatWereMissed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, log := t.Context(), memory.New()
		var letters atomic.Int64
		letter := perdure.Perform(func(context.Context, *bankv1.Notice) error { letters.Add(1); return nil })
		const month = 24 * time.Hour
		open := func() *perdure.Engine {
			engine, err := openBank(ctx, log, letter)
			if err != nil {
				t.Fatal(err)
			}
			return engine
		}
		want := func(engine *perdure.Engine, balance, paid int64) {
			t.Helper()
			synctest.Wait()
			a, err := Accounts.Ref(engine, "fay").State(ctx)
			if err != nil || a.GetBalance() != balance || letters.Load() != paid {
				t.Errorf("got %v, %v and %d letters, want a balance of %d and %d letters", a, err, letters.Load(), balance, paid)
			}
		}
		engine := open()
		interest := &bankv1.Interest{Rate: 100_000, Every: durationpb.New(month)}
		if _, err := Accounts.Ref(engine, "fay").Do(ctx, &bankv1.OpenAccount{Owner: "fay", Balance: 100_00, Interest: interest}); err != nil {
			t.Fatal(err)
		}
		<-time.After(month - time.Second)
		want(engine, 100_00, 0)
		<-time.After(2 * time.Second)
		want(engine, 110_00, 1)
		if err := engine.Close(ctx); err != nil {
			t.Fatal(err)
		}
		<-time.After(2 * month) // no engine runs during this time
		engine = open()
		want(engine, 133_10, 3)
		<-time.After(month)
		want(engine, 146_41, 4)
		if _, err := Accounts.Ref(engine, "fay").Do(ctx, &bankv1.CloseAccount{}); err != nil {
			t.Fatal(err)
		}
		<-time.After(3 * month)
		want(engine, 146_41, 4)
		for m, err := range engine.Pending(ctx) {
			t.Errorf("a closed account has the timer %+v, %v", m, err)
		}
		if err := engine.Close(ctx); err != nil {
			t.Fatal(err)
		}
	})
}

func TestProgramPrintsTheSameTwice(t *testing.T) {
	t.Parallel()
	uri := "bbolt:" + t.TempDir() + "/bank.db"
	for _, which := range []string{"first", "second"} {
		var out bytes.Buffer
		if err := run(t.Context(), uri, &locked{w: &out}); err != nil {
			t.Fatalf("%s run: %v\n%s", which, err, out.String())
		}
		for _, line := range []string{
			"1: ada to bob, 30.00: completed", "2: ada to eve, 20.00: the account is closed",
			"3: bob to ada, 500.00: there are only 30.00", "  ada: 70.00\n", "  bob: 30.00\n", "  eve: 0.00\n",
		} {
			if !strings.Contains(out.String(), line) {
				t.Errorf("%s run: got\n%s\nwithout %q", which, out.String(), line)
			}
		}
	}
}

func TestProgramSaysWhereItFails(t *testing.T) {
	t.Parallel()
	if err := run(t.Context(), "nosuch:store", &bytes.Buffer{}); err == nil || !errors.Is(err, store.ErrInvalid) {
		t.Errorf("a store that is none: got %v, want ErrInvalid", err)
	}
}

// TestMain makes the test binary a bank process, for tests that need processes to kill.
func TestMain(m *testing.M) {
	if dir := os.Getenv(childEnv); dir != "" {
		if err := busy(context.Background(), dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}
