package entity_test

import (
	"errors"
	"testing"

	"github.com/perdure/perdure/internal/core/entity"
	testv1 "github.com/perdure/perdure/internal/testproto/perdure/test/v1"
	"github.com/perdure/perdure/store"
)

func TestConflictOfAnEarlierCommand(t *testing.T) {
	t.Parallel()
	t.Run("does not count the conflict as its own", func(t *testing.T) {
		t.Parallel()
		l := newLab(t, account, nil) // the core gives up after two conflicts
		first := l.send(&testv1.Deposit{Amount: 1}, nil)
		behind := l.send(&testv1.Deposit{Amount: 2}, nil)
		for range l.options.Limits.Conflicts {
			l.other(&testv1.Deposited{Amount: 1})
			l.store()
		}
		// The store commits the first item, and the other one meets its first conflict.
		results, err := l.log.Commit(l.Context(), []*store.Batch{&l.items[0].Batch})
		if err != nil || results[0].Err != nil {
			t.Fatal(err, results)
		}
		l.settle(append(results, store.Result{Err: &store.ConflictError{Key: l.key()}}), nil)
		l.store()
		l.wantAnswer("the first command", first, entity.StatusDone, 3)
		if behind.Outcome.Status != entity.StatusDone {
			t.Errorf("the command behind it: got status %d, want it to be done", behind.Outcome.Status)
		}
	})
}

func TestAbort(t *testing.T) {
	t.Parallel()
	t.Run("does not say that a command in doubt is not stored", func(t *testing.T) {
		t.Parallel()
		l := newLab(t, shelf, func(o *entity.Options) { o.Shared = true })
		m := l.incoming(1)
		c := l.send(&testv1.Deposit{Amount: 2}, func(c *entity.Call) {
			from(m)(c)
			c.Conditional = true
		})
		l.overwrite()
		l.lose(false) // the second attempt finds another version, and only checks it
		if len(l.items) != 1 || !l.items[0].Batch.IsCheck() {
			t.Fatalf("got %d items, want a check", len(l.items))
		}
		l.core.Abort()
		l.wantAnswer("a command in doubt", c, entity.StatusUnknown, 0)
	})
	t.Run("and Fail answer every call once", func(t *testing.T) {
		t.Parallel()
		reason := errors.New("page 7")
		for _, fail := range []bool{false, true} {
			l := newLab(t, account, nil)
			l.deposit(1)
			l.store()
			flying := l.send(&testv1.Deposit{Amount: 2}, nil)
			reads := l.send(&testv1.GetBalance{}, nil)
			want := entity.StatusClosed
			if fail {
				want = entity.StatusFailed
				l.core.Fail(reason)
			} else {
				l.core.Abort()
			}
			if len(l.replies) != 3 || flying.Outcome.Status != entity.StatusUnknown || reads.Outcome.Status != want {
				t.Errorf("fail %v: got %d replies, status %d and %d, want 3, %d and %d",
					fail, len(l.replies), flying.Outcome.Status, reads.Outcome.Status, entity.StatusUnknown, want)
			}
			if fail && !errors.Is(reads.Outcome.Err, reason) {
				t.Errorf("got %v, want the reason", reads.Outcome.Err)
			}
		}
	})
}

func TestUnknownOutcomes(t *testing.T) {
	t.Parallel()
	t.Run("end a call after a bounded number of them", func(t *testing.T) {
		t.Parallel()
		l := newLab(t, account, nil)
		c := l.send(&testv1.Deposit{Amount: 2}, nil)
		for range l.options.Limits.Unknowns {
			l.lose(false)
			l.wantSilence("a command that runs again", c)
		}
		l.lose(false)
		l.wantAnswer("a command that a store never tells of", c, entity.StatusUnknown, 0)
	})
}
