package perduretest_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"
	"testing/synctest"

	"google.golang.org/protobuf/proto"

	"github.com/perdure/perdure"
	"github.com/perdure/perdure/internal/testlog"
	testv1 "github.com/perdure/perdure/internal/testproto/perdure/test/v1"
	"github.com/perdure/perdure/perduretest"
	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/memory"
)

var ada = store.Key{Kind: "account", ID: "ada"}

// batch returns a batch with one deposit.
func batch(t *testing.T, expected store.Version, amount int64) *store.Batch {
	t.Helper()
	payload, err := proto.Marshal(deposited(amount))
	if err != nil {
		t.Fatal(err)
	}
	return &store.Batch{Key: ada, Expected: expected, Events: []store.Event{{
		ID: store.ID{6: 0x70, 14: byte(expected), 15: byte(amount)}, Type: "perdure.test.v1.Deposited", Payload: payload,
	}}}
}

// amounts returns the deposits in the log.
func amounts(t *testing.T, log store.Log) []int64 {
	t.Helper()
	var amounts []int64
	for e, err := range log.Read(t.Context(), ada, 0) {
		if err != nil {
			t.Fatal(err)
		}
		var d testv1.Deposited
		if err := proto.Unmarshal(e.Payload, &d); err != nil {
			t.Fatal(err)
		}
		amounts = append(amounts, d.GetAmount())
	}
	return amounts
}

// outcome describes the end of a Commit.
func outcome(results []store.Result, err error, panicked any) string {
	switch {
	case panicked != nil:
		return fmt.Sprint("panic: ", panicked)
	case errors.Is(err, store.ErrNotStored):
		return "not stored"
	case err != nil:
		return "unknown"
	}
	s := fmt.Sprint(len(results), " results")
	for _, r := range results {
		if errors.Is(r.Err, store.ErrConflict) {
			s += ", conflict"
		}
	}
	return s
}

func TestFaultDoesWhatItsNameSays(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		fault   perduretest.Fault
		name    string
		want    string
		amounts []int64
	}{
		{perduretest.Pass(), "", "1 results", []int64{1, 2}},
		{perduretest.NotStored(), "NotStored", "not stored", []int64{1}},
		{perduretest.FailBefore(nil), "FailBefore", "unknown", []int64{1}},
		{perduretest.FailAfter(nil), "FailAfter", "unknown", []int64{1, 2}},
		{perduretest.PanicBefore("no"), "PanicBefore", "panic: no", []int64{1}},
		{perduretest.PanicAfter("no"), "PanicAfter", "panic: no", []int64{1, 2}},
		{perduretest.WrongResults(3), "WrongResults", "3 results", []int64{1, 2}},
		{perduretest.WrongResults(0), "WrongResults", "0 results", []int64{1, 2}},
		{perduretest.Conflict(), "Conflict", "1 results, conflict", []int64{1, 2}},
		{perduretest.Conflict(deposited(8), deposited(9)), "Conflict", "1 results, conflict", []int64{1, 8, 9}},
	} {
		log := memory.New()
		faults := perduretest.NewFaults(log)
		faults.Next(perduretest.MethodCommit, perduretest.Pass(), c.fault)
		commit := func(b *store.Batch) (end string) {
			var results []store.Result
			var err error
			defer func() { end = outcome(results, err, recover()) }()
			results, err = faults.Log().Commit(t.Context(), []*store.Batch{b})
			return ""
		}
		commit(batch(t, 0, 1))
		if got := commit(batch(t, 1, 2)); got != c.want {
			t.Errorf("commit with %s: got %q, want %q", c.name, got, c.want)
		}
		if got := amounts(t, log); !slices.Equal(got, c.amounts) {
			t.Errorf("stored after a commit with %s: got %d, want %d", c.name, got, c.amounts)
		}
		want := map[perduretest.Injection]int{}
		if c.name != "" {
			want[perduretest.Injection{Method: perduretest.MethodCommit, Fault: c.name}] = 1
		}
		if got := faults.Injected(); !maps.Equal(got, want) {
			t.Errorf("faults counted: got %v, want %v", got, want)
		}
		if got := faults.Calls(perduretest.MethodCommit); got != 2 {
			t.Errorf("calls counted with %s: got %d, want 2", c.name, got)
		}
	}
}

func TestConflictMeetsChecksAndSavedStatesToo(t *testing.T) {
	t.Parallel()
	log := memory.New()
	faults := perduretest.NewFaults(log)
	commit := func(b *store.Batch) string {
		results, err := faults.Log().Commit(t.Context(), []*store.Batch{b})
		return outcome(results, err, nil)
	}
	box := store.Key{Kind: "box", ID: "1"}
	save := func(expected store.Version) *store.Batch {
		return &store.Batch{Key: box, Expected: expected, Save: &store.State{ID: store.ID{6: 0x70, 15: byte(expected + 1)}, Type: "x.Box", Payload: []byte("a")}}
	}
	for i, c := range []struct {
		batch *store.Batch
		fault perduretest.Fault
		want  string
	}{
		{&store.Batch{Key: ada}, perduretest.Conflict(), "1 results"}, // the other writer has no change to repeat
		{&store.Batch{Key: ada}, perduretest.Conflict(deposited(5)), "1 results, conflict"},
		{&store.Batch{Key: ada, Expected: 1}, perduretest.Conflict(), "1 results, conflict"},
		{save(0), perduretest.Conflict(), "1 results, conflict"},
		{save(1), perduretest.Conflict(&testv1.Account{Balance: 1}), "1 results, conflict"},
		{&store.Batch{Key: box, Expected: 2}, perduretest.Conflict(), "1 results, conflict"},
		{&store.Batch{Key: box, Expected: 3}, perduretest.Pass(), "1 results"},
	} {
		faults.Next(perduretest.MethodCommit, c.fault)
		if got := commit(c.batch); got != c.want {
			t.Errorf("commit %d: got %q, want %q", i, got, c.want)
		}
	}
	if got, want := amounts(t, log), []int64{5, 5}; !slices.Equal(got, want) {
		t.Errorf("stored: got %d, want %d", got, want)
	}
}

func TestDelayEndsWithItsRelease(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		log := memory.New()
		faults := perduretest.NewFaults(log)
		release := make(chan struct{})
		faults.Next(perduretest.MethodCommit, perduretest.Delay(release), perduretest.FailAfter(nil).Until(release))
		faults.Next(perduretest.MethodHeads, perduretest.Delay(nil).Until(make(chan struct{})))
		done := make(chan string, 2)
		go func() {
			for i := range 2 {
				results, err := faults.Log().Commit(t.Context(), []*store.Batch{batch(t, store.Version(i), 1)})
				done <- outcome(results, err, nil)
			}
		}()
		synctest.Wait()
		if got := amounts(t, log); len(got) > 0 || len(done) > 0 {
			t.Fatalf("before the release: got %d stored and %d commits ended, want none", got, len(done))
		}
		close(release)
		synctest.Wait()
		if first, second := <-done, <-done; first != "1 results" || second != "unknown" {
			t.Errorf("after the release: got %q and %q, want 1 results and unknown", first, second)
		}
		if got := amounts(t, log); len(got) != 2 {
			t.Errorf("stored after the release: got %d, want two deposits", got)
		}
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			_, err := faults.Log().Heads(ctx)
			done <- fmt.Sprint(err)
		}()
		synctest.Wait()
		cancel()
		if got := <-done; got != context.Canceled.Error() {
			t.Errorf("a delayed call whose context ends: got %q, want %q", got, context.Canceled)
		}
	})
}

func TestCommitThatIsDelayedTooLongIsNotStored(t *testing.T) {
	t.Parallel()
	faults := perduretest.NewFaults(memory.New())
	faults.Next(perduretest.MethodCommit, perduretest.Delay(make(chan struct{})))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := faults.Log().Commit(ctx, []*store.Batch{batch(t, 0, 1)})
	if !errors.Is(err, store.ErrNotStored) || !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want an error matching ErrNotStored and the context's", err)
	}
}

// calls returns functions that call each method of a log once, by the method's name.
func calls(ctx context.Context, log store.Log) map[perduretest.Method]func() error {
	drain := func(seq func(yield func(error) bool)) func() error {
		return func() (last error) {
			seq(func(err error) bool { last = err; return true })
			return last
		}
	}
	return map[perduretest.Method]func() error{
		perduretest.MethodCommit: func() error { _, err := log.Commit(ctx, nil); return err },
		perduretest.MethodLoad: drain(func(y func(error) bool) {
			for _, err := range log.Load(ctx, ada, nil) {
				y(err)
			}
		}),
		perduretest.MethodRead: drain(func(y func(error) bool) {
			for _, err := range log.Read(ctx, ada, 0) {
				y(err)
			}
		}),
		perduretest.MethodScan: drain(func(y func(error) bool) {
			for _, err := range log.Scan(ctx, store.Query{}) {
				y(err)
			}
		}),
		perduretest.MethodHeads: func() error { _, err := log.Heads(ctx); return err },
		perduretest.MethodAcquire: func() error {
			release, err := log.Acquire()
			if err == nil {
				release()
			}
			return err
		},
		perduretest.MethodKinds: func() error { _, err := log.Kinds(ctx); return err },
		perduretest.MethodEntities: drain(func(y func(error) bool) {
			for _, err := range log.Entities(ctx, "account", "") {
				y(err)
			}
		}),
		perduretest.MethodDeleteEvents: func() error { _, err := log.DeleteEvents(ctx, ada, 0, 0); return err },
		perduretest.MethodDeleteSnapshots: func() error {
			_, err := log.DeleteSnapshots(ctx, ada, 0)
			return err
		},
		perduretest.MethodDeleted: func() error { _, err := log.Deleted(ctx); return err },
		perduretest.MethodMessages: drain(func(y func(error) bool) {
			for _, err := range log.Messages(ctx, store.MessageQuery{}) {
				y(err)
			}
		}),
		perduretest.MethodReceipt: func() error {
			_, err := log.Receipt(ctx, ada, "x")
			if errors.Is(err, store.ErrNotFound) {
				return nil
			}
			return err
		},
		perduretest.MethodReceipts: drain(func(y func(error) bool) {
			for _, err := range log.Receipts(ctx, ada) {
				y(err)
			}
		}),
		perduretest.MethodOwner: func() error {
			_, err := log.Owner(ctx, store.Claim{Space: "s", Value: "v"})
			if errors.Is(err, store.ErrNotFound) {
				return nil
			}
			return err
		},
		perduretest.MethodClaims: drain(func(y func(error) bool) {
			for _, err := range log.Claims(ctx, "s") {
				y(err)
			}
		}),
		perduretest.MethodCheckpoints: func() error { _, err := log.Checkpoints(ctx); return err },
		perduretest.MethodStats:       func() error { _, err := log.Stats(ctx); return err },
		perduretest.MethodVerifyFiles: func() error { return log.VerifyFiles(ctx, func(error) {}) },
		perduretest.MethodExport: func() error {
			x, err := log.Export(ctx)
			if err == nil {
				err = x.Close()
			}
			return err
		},
		perduretest.MethodClose: log.Close,
	}
}

func TestMethodsCanFail(t *testing.T) {
	t.Parallel()
	faults := perduretest.NewFaults(memory.New())
	all := calls(t.Context(), faults.Log())
	errBefore := errors.New("before")
	for _, m := range slices.Sorted(maps.Keys(all)) {
		if m != perduretest.MethodClose {
			if err := all[m](); err != nil {
				t.Errorf("%s without a fault: got %v, want no error", m, err)
			}
		}
		faults.Next(m, perduretest.FailBefore(errBefore))
		if err := all[m](); !errors.Is(err, errBefore) {
			t.Errorf("%s with FailBefore: got %v, want %v", m, err, errBefore)
		}
	}
	// Close comes last, since it takes effect although it fails.
	for _, m := range append(slices.DeleteFunc(slices.Sorted(maps.Keys(all)), func(m perduretest.Method) bool {
		// These methods find nothing, so they have failed already.
		return m == perduretest.MethodReceipt || m == perduretest.MethodOwner || m == perduretest.MethodClose
	}), perduretest.MethodClose) {
		faults.Next(m, perduretest.FailAfter(nil))
		if err := all[m](); !errors.Is(err, perduretest.ErrInjected) {
			t.Errorf("%s with FailAfter: got %v, want %v", m, err, perduretest.ErrInjected)
		}
	}
	if err := all[perduretest.MethodHeads](); !errors.Is(err, store.ErrClosed) {
		t.Errorf("Heads after Close: got %v, want an error matching ErrClosed", err)
	}
}

func TestLogThatCannotBeHeldSaysSo(t *testing.T) {
	t.Parallel()
	log := perduretest.NewFaults(testlog.Bare(memory.New())).Log()
	if _, err := log.Acquire(); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("Acquire: got %v, want an error matching ErrUnsupported", err)
	}
	if _, ok := perduretest.NewFaults(memory.New()).Log().(store.Synchronous); ok {
		t.Error("a log with faults says that it never waits")
	}
}

func TestRandomFaultsAreTheSameForASeed(t *testing.T) {
	t.Parallel()
	rates := perduretest.Rates{
		NotStored: 0.1, FailBefore: 0.1, FailAfter: 0.1, PanicBefore: 0.1, PanicAfter: 0.1, Conflict: 0.1, WrongResults: 0.1,
		ReadFailBefore: 0.3, ReadFailAfter: 0.3,
	}
	run := func(seed uint64) (trace []string) {
		faults := perduretest.NewFaults(memory.New())
		faults.Random(seed, rates)
		version := store.Version(0)
		for range 200 {
			func() {
				var results []store.Result
				var err error
				defer func() { trace = append(trace, outcome(results, err, recover())) }()
				results, err = faults.Log().Commit(t.Context(), []*store.Batch{batch(t, version, 1)})
			}()
			_, err := faults.Log().Heads(t.Context())
			trace = append(trace, fmt.Sprint(err))
		}
		if got := len(faults.Injected()); got != 9 {
			t.Errorf("sorts of faults injected in 200 rounds: got %v, want 9", faults.Injected())
		}
		faults.Clear()
		if _, err := faults.Log().Heads(t.Context()); err != nil {
			t.Errorf("Heads after Clear: got %v, want no error", err)
		}
		return trace
	}
	if a, b := run(1), run(1); !slices.Equal(a, b) {
		t.Errorf("two runs with one seed: got\n%q\nand\n%q", a, b)
	}
	if a, b := run(1), run(2); slices.Equal(a, b) {
		t.Error("runs with two seeds: got the same faults, want others")
	}
}

func TestHookSeesTheCall(t *testing.T) {
	t.Parallel()
	faults := perduretest.NewFaults(memory.New())
	var seen []string
	faults.Hook(func(c *perduretest.Call) perduretest.Fault {
		seen = append(seen, fmt.Sprint(c.Method, " ", c.Number, " ", len(c.Group)))
		return perduretest.Pass()
	})
	log := faults.Log()
	for i := range 2 {
		if _, err := log.Commit(t.Context(), []*store.Batch{batch(t, store.Version(i), 1)}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := log.Heads(t.Context()); err != nil {
		t.Fatal(err)
	}
	if want := []string{"Commit 1 1", "Commit 2 1", "Heads 1 0"}; !slices.Equal(seen, want) {
		t.Errorf("calls seen: got %q, want %q", seen, want)
	}
}

// TestEngineAnswersTheTruthOverFaults shows the purpose of faults.
func TestEngineAnswersTheTruthOverFaults(t *testing.T) {
	t.Parallel()
	log := memory.New()
	faults := perduretest.NewFaults(log)
	kind := goodRules().kind()
	engine, err := perdure.Open(t.Context(), perdure.Config{Store: faults.Log(), Kinds: []perdure.AnyKind{kind}})
	if err != nil {
		t.Fatal(err)
	}
	account := kind.Ref(engine, ada.ID)
	for _, c := range []struct {
		name  string
		fault perduretest.Fault
		want  error
	}{
		{"Pass", perduretest.Pass(), nil},
		{"FailAfter", perduretest.FailAfter(nil), nil},   // the engine finds the command in the log
		{"FailBefore", perduretest.FailBefore(nil), nil}, // the engine does not find it, and runs it again
		{"PanicAfter", perduretest.PanicAfter("no"), nil},
		{"Conflict", perduretest.Conflict(), nil},
		{"WrongResults", perduretest.WrongResults(0), nil},
		{"NotStored", perduretest.NotStored(), perdure.ErrStore},
	} {
		faults.Next(perduretest.MethodCommit, c.fault)
		if _, err := account.Ask(t.Context(), &testv1.Deposit{Amount: 1}); !errors.Is(err, c.want) {
			t.Errorf("Ask with %s: got %v, want %v", c.name, err, c.want)
		}
	}
	state, err := account.State(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	// Six of the commands are stored, once each, and the other writer's copy of one.
	if got := state.GetBalance(); got != 7 {
		t.Errorf("balance: got %d, want 7; the log holds %d", got, amounts(t, log))
	}
	if err := engine.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
}
