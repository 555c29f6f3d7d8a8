package projectiontest

import (
	"cmp"
	"context"
	"errors"
	"runtime"
	"testing"
	"time"

	"github.com/perdure/perdure/projection"
)

// Open returns a new target with an empty read model. Open registers its own clean-up by
// t.Cleanup. Many cases run at once, so each call must return a target of its own.
//
// A View must not wait for an Update that runs. So a target on a database needs at least two
// connections to it, and at least 32 if it has more than one writer.
type Open[Tx any] func(t testing.TB) projection.Target[Tx]

// Features has the functions by which the suite reads and writes the data of a target.
type Features[Tx any] struct {
	// Put writes a value of the read model, and Get reads it, through the transaction itself.
	// Both are required.
	Put func(ctx context.Context, tx Tx, key, value string) error
	Get func(ctx context.Context, tx Tx, key string) (value string, ok bool, err error)

	// Reopen closes a target with its database and opens the stored data again. Nil says that the
	// target keeps nothing.
	Reopen func(t testing.TB, target projection.Target[Tx]) projection.Target[Tx]
	// Another opens a second target on the data of a target, as another process would do. Nil
	// says that there cannot be two.
	Another func(t testing.TB, target projection.Target[Tx]) projection.Target[Tx]
	// FailCommit makes the next commit of a target fail. If stored is true, the commit is stored
	// nevertheless, as when only its answer is lost. Nil leaves the case out.
	FailCommit func(t testing.TB, target projection.Target[Tx], stored bool)

	// Misuses are the mistakes that a rule may make with its transaction without reporting them.
	// Empty says that none are possible.
	Misuses []Misuse[Tx]
	// Faults are errors that a target must call its own fault. Failures are errors of statements
	// that it must not. Both are for a [projection.Classifier].
	Faults, Failures []error
}

// Run runs every case that the features allow against targets from open, each as a parallel
// sub-test of t. A case that needs a missing feature is skipped, and the skip message names the
// feature.
func Run[Tx any](t *testing.T, open Open[Tx], f Features[Tx]) {
	if f.Put == nil || f.Get == nil {
		t.Fatal("projectiontest: Features without Put or Get")
	}
	for _, c := range cases[Tx]() {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.execute(t, open, f)
		})
	}
}

// A testCase tries to break one promise of the port.
type testCase[Tx any] struct {
	// name is the promise, as a sentence.
	name string
	// needs is the name of a feature that the case requires, or empty.
	needs string
	// wait bounds every wait of the case; zero is waitMax.
	wait time.Duration
	run  func(x *fixture[Tx])
}

// execute runs the case on t, or skips it. It works on any testing.TB, so that the tests of the
// suite can watch a case fail.
func (c *testCase[Tx]) execute(t testing.TB, open Open[Tx], f Features[Tx]) {
	t.Helper()
	has := map[string]bool{
		"": true, "Checker": true, "Reopen": f.Reopen != nil, "Another": f.Another != nil, "FailCommit": f.FailCommit != nil,
		"Misuses": len(f.Misuses) > 0, "Faults": len(f.Faults) > 0,
	}
	if !has[c.needs] {
		t.Skipf("the target has no %s", c.needs)
	}
	target := open(t)
	if _, ok := target.(projection.Checker[Tx]); !ok && c.needs == "Checker" {
		t.Skipf("%T is no Checker", target)
	}
	c.run(&fixture[Tx]{TB: t, Features: f, open: open, target: target, ctx: t.Context(), wait: cmp.Or(c.wait, waitMax)})
}

// cases returns the whole suite.
func cases[Tx any]() []testCase[Tx] {
	var all []testCase[Tx]
	for _, part := range [][]testCase[Tx]{
		updateCases[Tx](), viewCases[Tx](), noteCases[Tx](), contextCases[Tx](), writerCases[Tx](), lifeCases[Tx](), ruleCases[Tx](),
	} {
		all = append(all, part...)
	}
	return all
}

// waitMax bounds every wait of a case.
const waitMax = 30 * time.Second

// A fixture is a target under test, with helpers for the cases.
type fixture[Tx any] struct {
	testing.TB
	Features[Tx]
	open   Open[Tx]
	target projection.Target[Tx]
	ctx    context.Context
	wait   time.Duration
}

// update runs do in an Update that must succeed.
func (x *fixture[Tx]) update(do func(tx Tx) error) {
	x.Helper()
	if err := x.target.Update(x.ctx, do); err != nil {
		x.Fatalf("update: %v", err)
	}
}

// view runs do in a View that must succeed.
func (x *fixture[Tx]) view(do func(tx Tx) error) {
	x.Helper()
	if err := x.target.View(x.ctx, do); err != nil {
		x.Fatalf("view: %v", err)
	}
}

// write sets a value of the model and the note of the same name.
func (x *fixture[Tx]) write(tx Tx, key, value string) error {
	if err := x.Put(x.ctx, tx, key, value); err != nil {
		return err
	}
	return x.target.SetNote(x.ctx, tx, key, []byte(value))
}

// store writes in a transaction of its own.
func (x *fixture[Tx]) store(key, value string) {
	x.Helper()
	x.update(func(tx Tx) error { return x.write(tx, key, value) })
}

// none stands for a value or note that does not exist.
const none = "(none)"

// read returns a value of the model and the note of the same name.
func (x *fixture[Tx]) read(tx Tx, key string) (value, note string, err error) {
	value, ok, err := x.Get(x.ctx, tx, key)
	if err != nil {
		return "", "", err
	}
	if !ok {
		value = none
	}
	note, err = x.note(tx, key)
	return value, note, err
}

func (x *fixture[Tx]) note(tx Tx, key string) (string, error) {
	b, err := x.target.Note(x.ctx, tx, key)
	if err != nil {
		return "", err
	}
	if b == nil {
		return none, nil
	}
	return string(b), nil
}

// want compares a value of the model, and the note of the same name, in a View.
func (x *fixture[Tx]) want(key, want string) {
	x.Helper()
	x.view(func(tx Tx) error { return x.wantIn(tx, key, want) })
}

// wantIn is want in a transaction.
func (x *fixture[Tx]) wantIn(tx Tx, key, want string) error {
	x.Helper()
	value, note, err := x.read(tx, key)
	if err == nil && (value != want || note != want) {
		x.Errorf("%q is %q in the model and %q in the notes, want %q in both", key, short(value), short(note), short(want))
	}
	return err
}

// wantError fails the test unless err matches target.
func (x *fixture[Tx]) wantError(what string, err, target error) {
	x.Helper()
	if !errors.Is(err, target) {
		x.Errorf("%s: got error %v, want one that matches %v", what, err, target)
	}
}

// list returns the notes under a prefix, as key=value.
func (x *fixture[Tx]) list(tx Tx, prefix string) ([]string, error) {
	var all []string
	for n, err := range x.target.Notes(x.ctx, tx, prefix) {
		if err != nil {
			return all, err
		}
		all = append(all, n.Key+"="+string(n.Value))
	}
	return all, nil
}

// background runs fn on a goroutine. The returned function waits until fn ends, at most as long
// as a case may wait, and returns its error.
func (x *fixture[Tx]) background(what string, fn func() error) (wait func() error) {
	done := make(chan error, 1)
	go func() {
		err := errors.New("its goroutine has ended")
		defer func() { done <- err }()
		err = fn()
	}()
	return func() error {
		x.Helper()
		select {
		case err := <-done:
			return err
		case <-time.After(x.wait):
			buf := make([]byte, 1<<20)
			x.Fatalf("%s has not ended in %v\n%s", what, x.wait, buf[:runtime.Stack(buf, true)])
			return nil
		}
	}
}

// await waits for a signal.
func (x *fixture[Tx]) await(what string, signal <-chan struct{}) {
	x.Helper()
	select {
	case <-signal:
	case <-time.After(x.wait):
		x.Fatalf("%s has not come in %v", what, x.wait)
	}
}

// short shortens a value for a message.
func short(s string) string {
	if len(s) > 100 {
		return s[:100] + "…"
	}
	return s
}
