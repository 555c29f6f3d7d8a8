package memorytarget_test

import (
	"context"
	"iter"
	"testing"
	"time"

	"github.com/perdure/perdure/internal/hooktest"
	"github.com/perdure/perdure/projection"
	"github.com/perdure/perdure/projection/memorytarget"
)

// A ledger is a model of one table and a number.
type ledger struct {
	Rows  memorytarget.Table[string, int]
	Total int
}

// A hooking is one hook with one fault.
type hooking struct {
	*hooktest.Hook
	m *memorytarget.Target[ledger]
}

func (h *hooking) ctx() context.Context {
	return hooktest.Context{Context: context.Background(), Hook: h.Hook}
}

func (h *hooking) update(do func(*ledger) error) { _ = h.m.Update(h.ctx(), do) }

func (h *hooking) view(do func(*ledger) error) { _ = h.m.View(h.ctx(), do) }

// adds adds one to the model, in a transaction that fails half-way if the hook is in it.
func adds(h *hooking) {
	h.update(func(l *ledger) error {
		l.Total++
		l.Rows.Put("b", l.Total)
		h.Reached("Target.Update(do)")
		return nil
	})
}

func loops(all func(l *ledger) iter.Seq2[string, int]) func(h *hooking) {
	return func(h *hooking) {
		h.view(func(l *ledger) error {
			all(l)(func(string, int) bool { h.Do(); return false })
			return nil
		})
	}
}

// notes stores two notes and reads them.
func notes(h *hooking) {
	h.update(func(l *ledger) error {
		for _, key := range []string{"a", "b"} {
			if err := h.m.SetNote(h.ctx(), l, key, []byte("v")); err != nil {
				return err
			}
		}
		h.m.Notes(h.ctx(), l, "")(func(projection.Note, error) bool {
			h.Reached("Target.Notes(yield)")
			return true
		})
		return nil
	})
}

// waits runs an update while another one runs.
func waits(h *hooking) {
	_ = h.m.Update(context.Background(), func(*ledger) error {
		ctx, cancel := context.WithTimeout(h.ctx(), time.Second)
		defer cancel()
		return h.m.Update(hooktest.Context{Context: ctx, Hook: h.Hook}, func(*ledger) error { return nil })
	})
}

// hooks are the places where the package calls code of users.
var hooks = map[string]func(h *hooking){
	"NewClone(clone)":       adds,
	"Target.Update(do)":     adds,
	"Target.View(do)":       func(h *hooking) { h.view(func(*ledger) error { h.Do(); return nil }) },
	"Target.Notes(yield)":   notes,
	"Table.All(yield)":      loops(func(l *ledger) iter.Seq2[string, int] { return l.Rows.All() }),
	"Table.Backward(yield)": loops(func(l *ledger) iter.Seq2[string, int] { return l.Rows.Backward() }),
	"Table.From(yield)":     loops(func(l *ledger) iter.Seq2[string, int] { return l.Rows.From("") }),
	"context.Context.Done":  waits,
	"context.Context.Err":   notes,
}

func TestHooks(t *testing.T) {
	t.Parallel()
	hooktest.Each(t, hooks, testHook)
}

// testHook makes the code of a user fail once. It checks that readers do not wait while the code
// blocks, that a transaction that has not returned nil has stored nothing, and that the next
// update works.
func testHook(t *testing.T, trigger func(h *hooking), fault *hooktest.Hook) {
	h := &hooking{Hook: fault}
	h.m = memorytarget.NewClone(&ledger{}, func(l *ledger) *ledger {
		if h.Reached("NewClone(clone)") {
			return nil
		}
		return &ledger{Rows: l.Rows, Total: l.Total}
	})
	if err := h.m.Update(t.Context(), func(l *ledger) error { l.Rows.Put("a", 1); return nil }); err != nil {
		t.Fatal(err)
	}
	total := func(when string) int {
		n := -1
		if err := h.m.View(t.Context(), func(l *ledger) error { n = l.Total; return nil }); err != nil {
			t.Errorf("%s: view: %v", when, err)
		}
		return n
	}
	h.Arm()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		defer func() { _ = recover() }() // the caller runs the code itself
		trigger(h)
	}()
	<-time.After(10 * time.Second)
	if !h.Hit() {
		t.Fatal("the code was not called")
	}
	if got := total("while the code fails"); got != 0 && fault.Fault != hooktest.Nothing {
		t.Errorf("total while the code fails: got %d, want 0", got)
	}
	h.Release()
	<-ended
	before := total("after the code has returned")
	if err := h.m.Update(t.Context(), func(l *ledger) error { l.Total++; return nil }); err != nil {
		t.Fatal(err)
	}
	if got := total("after an update"); got != before+1 {
		t.Errorf("total after an update: got %d, want %d", got, before+1)
	}
}
