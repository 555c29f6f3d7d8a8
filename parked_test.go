package perdure_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/perdure/perdure"
	testv1 "github.com/perdure/perdure/internal/testproto/perdure/test/v1"
	"github.com/perdure/perdure/store"
)

// A parking is an engine with parked mails. Their texts are numbers from 1.
type parking struct {
	*perdure.Engine
	t    *testing.T
	log  *hookedLog
	kind *perdure.Kind[*testv1.Account]

	mu     sync.Mutex
	sent   []string
	broken bool // the mail server is broken
}

func newParking(t *testing.T, mails int) *parking {
	t.Helper()
	p := &parking{t: t, log: &hookedLog{Log: newLog(t)}, kind: mailers(), broken: true}
	p.Engine = openConfig(t, perdure.Config{Store: p.log, Kinds: []perdure.AnyKind{p.kind}, Effects: []perdure.EffectRule{
		perdure.Perform(func(_ context.Context, m *testv1.Note) error {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.sent = append(p.sent, m.GetText())
			if p.broken {
				return perdure.Park(errors.New("mail server is broken"))
			}
			return nil
		}),
	}})
	for i := range mails {
		p.mail(i + 1)
	}
	p.wantParked(mails)
	return p
}

func (p *parking) mail(n int) {
	p.t.Helper()
	if _, err := p.kind.Ref(p.Engine, "1").Do(p.t.Context(), &testv1.Deposit{Amount: int64(n)}); err != nil {
		p.t.Fatal(err)
	}
}

// repair makes the mail server work, and clears the list of sent mails.
func (p *parking) repair() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.broken, p.sent = false, nil
}

// list returns the mails that were sent since the last repair.
func (p *parking) list() []string {
	pass(time.Minute)
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.sent)
}

func (p *parking) wantParked(n int) {
	p.t.Helper()
	pass(time.Minute)
	if list := messages(p.t, p.Parked(p.t.Context())); len(list) != n {
		p.t.Fatalf("%d messages are parked, want %d", len(list), n)
	}
}

func all(*store.Message) bool { return true }

// texts returns the texts of the mails from one number to another, in steps.
func texts(from, to, step int) (list []string) {
	for i := from; i <= to; i += step {
		list = append(list, fmt.Sprint(i))
	}
	return list
}

func TestUnparkWhere(t *testing.T) {
	t.Parallel()
	const part = 128
	run := func(name string, mails int, fn func(t *testing.T, p *parking)) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { fn(t, newParking(t, mails)) })
		})
	}
	run("delivers_what_matches_oldest_first_and_leaves_the_others", 2*part+10, func(t *testing.T, p *parking) {
		p.repair()
		n, err := p.UnparkWhere(t.Context(), func(m *store.Message) bool {
			if m.LastError != "mail server is broken" || !m.Parked || m.Type != "perdure.test.v1.Note" {
				t.Errorf("match was called with %+v", m)
			}
			return m.Sequence%2 == 0
		})
		if err != nil || n != part+5 {
			t.Errorf("UnparkWhere: got %d, %v, want %d", n, err, part+5)
		}
		if got, want := p.list(), texts(2, 2*part+10, 2); !slices.Equal(got, want) {
			t.Errorf("sent %v, want %v", got, want)
		}
		p.wantParked(part + 5)
	})
	run("unparks_a_message_once_though_it_is_parked_again", part+10, func(t *testing.T, p *parking) {
		p.sent = nil
		if n, err := p.UnparkWhere(t.Context(), all); err != nil || n != part+10 {
			t.Errorf("UnparkWhere: got %d, %v, want %d", n, err, part+10)
		}
		if got := p.list(); len(got) != part+10 {
			t.Errorf("%d attempts were made, want one for each of %d messages", len(got), part+10)
		}
		p.wantParked(part + 10)
	})
	run("does_not_follow_what_is_parked_while_it_runs", part, func(t *testing.T, p *parking) {
		calls := 0
		n, err := p.UnparkWhere(t.Context(), func(*store.Message) bool {
			if calls++; calls < 10*part {
				p.mail(part + calls)
				synctest.Wait()
			}
			return true
		})
		if err != nil || n != part || calls != part {
			t.Errorf("UnparkWhere: got %d, %v, after %d calls of match, want %d", n, err, calls, part)
		}
	})
	run("passes_over_what_another_engine_has_settled", 5, func(t *testing.T, p *parking) {
		p.repair()
		third := messages(t, p.Parked(t.Context()))[2].Sequence
		var once sync.Once
		p.log.on(func(group []*store.Batch, next commitFunc) ([]store.Result, error) {
			once.Do(func() {
				if _, err := next([]*store.Batch{{Settle: []store.Settlement{{Sequence: third}}}}); err != nil {
					t.Error(err)
				}
			})
			return next(group)
		})
		if n, err := p.UnparkWhere(t.Context(), all); err != nil || n != 4 {
			t.Errorf("UnparkWhere: got %d, %v, want 4", n, err)
		}
		if got, want := p.list(), []string{"1", "2", "4", "5"}; !slices.Equal(got, want) {
			t.Errorf("sent %v, want %v", got, want)
		}
	})
	run("stops_at_the_end_of_its_context_with_the_number_so_far", 3*part, func(t *testing.T, p *parking) {
		p.repair()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		calls := 0
		n, err := p.UnparkWhere(ctx, func(*store.Message) bool {
			if calls++; calls == part+10 {
				cancel()
			}
			return true
		})
		if !errors.Is(err, context.Canceled) || errors.Is(err, perdure.ErrOutcomeUnknown) || n != part {
			t.Errorf("UnparkWhere: got %d, %v, want %d and a context that is canceled", n, err, part)
		}
		p.wantParked(2 * part)
	})
	run("says_that_the_outcome_of_a_commit_is_unknown", 5, func(t *testing.T, p *parking) {
		p.repair()
		ctx, cancel := context.WithCancel(t.Context())
		returned := make(chan struct{})
		p.log.on(func(group []*store.Batch, next commitFunc) ([]store.Result, error) {
			cancel()
			<-returned
			return next(group)
		})
		n, err := p.UnparkWhere(ctx, all)
		close(returned)
		if !errors.Is(err, perdure.ErrOutcomeUnknown) || !errors.Is(err, context.Canceled) || n != 0 {
			t.Errorf("UnparkWhere: got %d, %v, want an unknown outcome", n, err)
		}
		pass(time.Minute)
		p.log.on(nil)
		rest := len(messages(t, p.Parked(t.Context())))
		if got := p.list(); len(got)+rest != 5 || len(got) == 0 {
			t.Errorf("%v were sent and %d are parked, want 5 in all: what the store has taken is delivered", got, rest)
		}
	})
	run("stops_when_the_store_fails", 2*part, func(t *testing.T, p *parking) {
		p.repair()
		calls := 0
		broken := errors.New("disk is full")
		n, err := p.UnparkWhere(t.Context(), func(*store.Message) bool {
			if calls++; calls == part+1 {
				p.log.on(func([]*store.Batch, commitFunc) ([]store.Result, error) {
					return nil, fmt.Errorf("%w: %w", store.ErrNotStored, broken)
				})
			}
			return true
		})
		p.log.on(nil)
		if !errors.Is(err, broken) || errors.Is(err, perdure.ErrOutcomeUnknown) || n != part {
			t.Errorf("UnparkWhere: got %d, %v, want %d and %v", n, err, part, broken)
		}
		p.wantParked(part)
	})
	run("goes_on_behind_a_damaged_message_and_says_so_in_the_end", 5, func(t *testing.T, p *parking) {
		p.repair()
		second := messages(t, p.Parked(t.Context()))[1]
		if err := p.log.Corrupt(second, func(sealed []byte) { sealed[len(sealed)-1] ^= 1 }); err != nil {
			t.Fatal(err)
		}
		if n, err := p.UnparkWhere(t.Context(), all); !errors.Is(err, store.ErrCorrupt) || n != 4 {
			t.Errorf("UnparkWhere: got %d, %v, want 4 and ErrCorrupt", n, err)
		}
		if got, want := p.list(), []string{"1", "3", "4", "5"}; !slices.Equal(got, want) {
			t.Errorf("sent %v, want %v", got, want)
		}
	})
	run("makes_an_error_of_a_panic_of_match", 5, func(t *testing.T, p *parking) {
		p.repair()
		calls := 0
		n, err := p.UnparkWhere(t.Context(), func(*store.Message) bool {
			if calls++; calls == 3 {
				panic("no idea")
			}
			return true
		})
		if err == nil || !strings.Contains(err.Error(), "no idea") || n != 2 || calls != 3 {
			t.Errorf("UnparkWhere: got %d, %v, after %d calls of match, want 2 and the panic", n, err, calls)
		}
		p.wantParked(3)
	})
	run("lends_match_a_copy", 1, func(t *testing.T, p *parking) {
		p.repair()
		if n, err := p.UnparkWhere(t.Context(), func(m *store.Message) bool {
			clear(m.Payload)
			m.Sequence, m.Type = 77, "other"
			return true
		}); err != nil || n != 1 {
			t.Errorf("UnparkWhere: got %d, %v, want 1", n, err)
		}
		if got := p.list(); !slices.Equal(got, []string{"1"}) {
			t.Errorf("sent %q, want 1", got)
		}
	})
	run("refuses_a_match_that_is_nil", 2, func(t *testing.T, p *parking) {
		for name, where := range map[string]func(context.Context, func(*store.Message) bool) (int, error){"unpark": p.UnparkWhere, "drop": p.DropWhere} {
			if n, err := where(t.Context(), nil); !errors.Is(err, store.ErrInvalid) || n != 0 || !strings.HasPrefix(err.Error(), name+" messages: invalid: match is nil") {
				t.Errorf("%s without match: got %d, %v", name, n, err)
			}
		}
		p.wantParked(2)
	})
	run("ends_with_its_engine", 2, func(t *testing.T, p *parking) {
		if err := p.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		if n, err := p.UnparkWhere(t.Context(), all); !errors.Is(err, perdure.ErrClosed) || n != 0 {
			t.Errorf("UnparkWhere of an engine that is closed: got %d, %v, want ErrClosed", n, err)
		}
	})
	run("is_like_DropWhere", part+10, func(t *testing.T, p *parking) {
		p.repair()
		if n, err := p.DropWhere(t.Context(), func(m *store.Message) bool { return m.Sequence%2 == 1 }); err != nil || n != part/2+5 {
			t.Errorf("DropWhere: got %d, %v, want %d", n, err, part/2+5)
		}
		p.wantParked(part/2 + 5)
		for _, m := range messages(t, p.Parked(t.Context())) {
			if m.Sequence%2 == 1 {
				t.Errorf("message %d is still parked", m.Sequence)
			}
		}
		if got := p.list(); len(got) != 0 {
			t.Errorf("sent %v, want none of what was dropped or stays", got)
		}
	})
}

func TestUnpark(t *testing.T) {
	t.Parallel()
	t.Run("delivers_a_message_whose_caller_has_gone_before_the_store_answered", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			p := newParking(t, 1)
			p.repair()
			sequence := messages(t, p.Parked(t.Context()))[0].Sequence
			ctx, cancel := context.WithCancel(t.Context())
			returned := make(chan struct{})
			p.log.on(func(group []*store.Batch, next commitFunc) ([]store.Result, error) {
				p.log.on(nil)
				cancel()
				<-returned
				return next(group)
			})
			err := p.Unpark(ctx, sequence, nil)
			close(returned)
			if !errors.Is(err, perdure.ErrOutcomeUnknown) {
				t.Errorf("Unpark: got %v, want ErrOutcomeUnknown", err)
			}
			if got := p.list(); !slices.Equal(got, []string{"1"}) {
				t.Errorf("sent %q, want the message once: the store has unparked it", got)
			}
		})
	})
}
