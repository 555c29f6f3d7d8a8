package perduretest_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/perdure/perdure"
	testv1 "github.com/perdure/perdure/internal/testproto/perdure/test/v1"
	"github.com/perdure/perdure/perduretest"
	"github.com/perdure/perdure/store"
)

// A rules is a set of rules that a test changes before it makes a kind with them.
type rules struct {
	deposit     func(context.Context, *testv1.Account, *testv1.Deposit) (*perdure.Decision, error)
	onDeposited func(*testv1.Account, *testv1.Deposited)
	balance     func(context.Context, *testv1.Account, *testv1.GetBalance) (*testv1.Balance, error)
}

func goodRules() rules {
	return rules{
		deposit: func(_ context.Context, _ *testv1.Account, c *testv1.Deposit) (*perdure.Decision, error) {
			if c.GetAmount() <= 0 {
				return nil, perdure.Reject(perdure.InvalidArgument, "amount %d is not positive", c.GetAmount())
			}
			events := make([]proto.Message, max(1, c.GetParts()))
			for i := range events {
				events[i] = &testv1.Deposited{Amount: c.GetAmount() / int64(len(events))}
			}
			return perdure.Persist(events...).Tag(c.GetTags()...), nil
		},
		onDeposited: func(a *testv1.Account, e *testv1.Deposited) {
			a.Balance += e.GetAmount()
			a.Operations++
		},
		balance: func(_ context.Context, a *testv1.Account, q *testv1.GetBalance) (*testv1.Balance, error) {
			if q.GetRefuse() {
				return nil, perdure.Reject(perdure.PermissionDenied, "not yours")
			}
			return &testv1.Balance{Amount: a.GetBalance(), Operations: a.GetOperations()}, nil
		},
	}
}

func (r rules) kind() *perdure.Kind[*testv1.Account] {
	return perdure.EventSourced("account",
		perdure.Decide(r.deposit),
		perdure.Decide(func(ctx context.Context, _ *testv1.Account, c *testv1.Open) (*perdure.Decision, error) {
			info := perdure.Info(ctx)
			owner := fmt.Sprintf("%s of %v at %d", c.GetOwner(), info.Key, info.Version)
			return perdure.Persist(&testv1.Opened{Owner: owner, At: timestamppb.New(perdure.Now(ctx))}), nil
		}),
		perdure.Decide(func(ctx context.Context, a *testv1.Account, _ *testv1.Withdraw) (*perdure.Decision, error) {
			return perdure.Persist(&testv1.Withdrawn{Amount: perdure.Rand(ctx).Int64N(1000)}), nil
		}),
		perdure.Decide(func(context.Context, *testv1.Account, *testv1.Touch) (*perdure.Decision, error) {
			return nil, nil //nolint:nilnil // it is the same as None
		}),
		perdure.Decide(func(_ context.Context, _ *testv1.Account, c *testv1.Annotate) (*perdure.Decision, error) {
			return perdure.Persist(&testv1.Annotated{Note: c.GetNote()}), nil
		}),
		perdure.Decide(func(ctx context.Context, _ *testv1.Account, _ *testv1.Misbehave) (*perdure.Decision, error) {
			return perdure.None().AfterCommit(&testv1.Touch{}).Enqueue(&testv1.Note{Text: "a"}).
				EnqueueTo(bob, &testv1.Deposit{Amount: 1}, perdure.ReplyTo("pay")).
				Schedule("remind", perdure.Now(ctx).Add(time.Hour), &testv1.Touch{}).
				ScheduleTo(bob, "nudge", perdure.Now(ctx).Add(time.Minute), &testv1.Open{}).
				Cancel("old").Claim(store.Claim{Space: "name", Value: "ada"}).Claim(store.Claim{Space: "mail", Value: "a@b"}).Release(store.Claim{Space: "name", Value: "eda"}), nil
		}),
		perdure.Evolve(r.onDeposited),
		perdure.Evolve(func(a *testv1.Account, e *testv1.Opened) { a.Owner, a.OpenedAt = e.GetOwner(), e.GetAt() }),
		perdure.Evolve(func(a *testv1.Account, e *testv1.Withdrawn) { a.Balance -= e.GetAmount() }),
		perdure.Evolve(func(a *testv1.Account, e *testv1.Annotated) { a.Notes = append(a.Notes, e.GetNote()) }),
		perdure.Answer(r.balance),
	).With(
		perdure.SnapshotEvery(2),
		perdure.Upcast(func(e *testv1.DepositedV0) *testv1.Deposited { return &testv1.Deposited{Amount: 100 * e.GetUnits()} }),
	)
}

// bob is the target of messages.
var bob = store.Key{Kind: "account", ID: "bob"}

func shelf() *perdure.Kind[*testv1.Account] {
	return perdure.DurableState("shelf",
		perdure.Update(func(_ context.Context, a *testv1.Account, c *testv1.Deposit) (*perdure.Change, error) {
			a.Balance += c.GetAmount()
			if a.Balance > 100 {
				return nil, perdure.Reject(perdure.OutOfRange, "too much")
			}
			return perdure.Save(), nil
		}),
		perdure.Update(func(_ context.Context, a *testv1.Account, _ *testv1.Touch) (*perdure.Change, error) {
			a.Balance = -1
			return perdure.Unchanged(), nil
		}),
		perdure.Update(func(_ context.Context, a *testv1.Account, c *testv1.Open) (*perdure.Change, error) {
			a.Owner = c.GetOwner() + fmt.Sprint(rand.Uint64())
			return perdure.Save(), nil
		}),
		perdure.Answer(func(_ context.Context, a *testv1.Account, _ *testv1.GetNotes) (*testv1.Account, error) { return a, nil }),
	)
}

func deposited(amount int64) *testv1.Deposited { return &testv1.Deposited{Amount: amount} }

func TestScenarioThatHoldsPasses(t *testing.T) {
	t.Parallel()
	noon := time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC)
	midnight := time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)
	kind := goodRules().kind()

	perduretest.Given(t, kind, deposited(5), &testv1.DepositedV0{Units: 2}).
		When(&testv1.Deposit{Amount: 10, Parts: 2, Tags: []string{"a", "b"}}).
		Then(deposited(5), deposited(5)).
		ThenTagged("a", "b").
		ThenState(&testv1.Account{Balance: 215, Operations: 4}).
		WhenAsked(&testv1.GetBalance{}).
		ThenAnswer(&testv1.Balance{Amount: 215, Operations: 4}).
		WhenAsked(&testv1.GetBalance{Refuse: true}).
		ThenRefused(perdure.PermissionDenied, "yours").
		When(&testv1.Deposit{Amount: -1}).
		ThenRefused(perdure.InvalidArgument, "-1", "not positive").
		ThenState(&testv1.Account{Balance: 215, Operations: 4}).
		When(&testv1.Touch{}).
		ThenNothing().
		Then()

	perduretest.GivenState(t, kind, &testv1.Account{Balance: 3}).For("ada").At(noon).
		When(&testv1.Open{Owner: "Ada"}).
		Then(&testv1.Opened{Owner: "Ada of account/ada at 1", At: timestamppb.New(noon)}).
		At(midnight).
		When(&testv1.Open{Owner: "Ada"}).
		Then(&testv1.Opened{Owner: "Ada of account/ada at 2", At: timestamppb.New(midnight)})

	var now time.Time
	clock := perdure.EventSourced("clock", perdure.Decide(func(ctx context.Context, _ *testv1.Account, _ *testv1.Touch) (*perdure.Decision, error) {
		now = perdure.Now(ctx)
		return perdure.None(), nil
	}), perdure.Evolve(func(*testv1.Account, *testv1.Opened) {}))
	perduretest.Given(t, clock).At(midnight.In(time.FixedZone("east", 13*3600))).When(&testv1.Touch{})
	if now.Location() != time.UTC || !now.Equal(midnight) {
		t.Errorf("in a scenario at midnight, given in another zone: a rule is told %v, want it in UTC as from an engine", now)
	}
	if got, want := perduretest.Given(t, kind).When(&testv1.Open{}).State().GetOpenedAt().AsTime(), midnight; !got.Equal(want) {
		t.Errorf("clock of a scenario that sets none: got %v, want %v", got, want)
	}
}

func TestScenarioSeesTheSideEffects(t *testing.T) {
	t.Parallel()
	perduretest.Given(t, goodRules().kind()).At(start).
		When(&testv1.Misbehave{}).
		Then().
		ThenAfterCommit(&testv1.Touch{}).
		ThenEnqueued(&testv1.Note{Text: "a"}, &testv1.Deposit{Amount: 1}).
		ThenEnqueuedTo(bob, &testv1.Deposit{Amount: 1}).
		ThenEnqueuedTo(store.Key{Kind: "account", ID: "carl"}).
		ThenReplyTo("pay", &testv1.Deposit{Amount: 1}).
		ThenScheduled("remind", start.Add(time.Hour), &testv1.Touch{}).
		ThenScheduledTo(bob, "nudge", start.Add(time.Minute), &testv1.Open{}).
		ThenCancelled("old").
		ThenClaimed(store.Claim{Space: "name", Value: "ada"}, store.Claim{Space: "mail", Value: "a@b"}).
		ThenReleased(store.Claim{Space: "name", Value: "eda"}).
		When(&testv1.Touch{}).
		ThenAfterCommit().
		ThenEnqueued().
		ThenEnqueuedTo(bob).
		ThenCancelled().
		ThenClaimed().
		ThenReleased()
}

func TestScenarioOfADurableStateHolds(t *testing.T) {
	t.Parallel()
	perduretest.Given(t, shelf()).
		When(&testv1.Deposit{Amount: 60}).
		ThenState(&testv1.Account{Balance: 60}).
		When(&testv1.Deposit{Amount: 60}).
		ThenRefused(perdure.OutOfRange).
		ThenState(&testv1.Account{Balance: 60}).
		When(&testv1.Touch{}).
		ThenNothing().
		ThenState(&testv1.Account{Balance: 60})
	perduretest.GivenState(t, shelf(), &testv1.Account{Owner: "ada"}).
		WhenAsked(&testv1.GetNotes{}).
		ThenAnswer(&testv1.Account{Owner: "ada"})
}

func TestRandomNumbersAreTheSameInEveryRun(t *testing.T) {
	t.Parallel()
	kind := goodRules().kind()
	first := perduretest.Given(t, kind).When(&testv1.Withdraw{}).State().GetBalance()
	second := perduretest.Given(t, kind).When(&testv1.Withdraw{}).State().GetBalance()
	if first != second {
		t.Errorf("two runs of one scenario: got %d and %d, want the same", first, second)
	}
}

func TestCallerChangesNothingLater(t *testing.T) {
	t.Parallel()
	note := &testv1.Note{Text: "first"}
	o := perduretest.Given(t, goodRules().kind()).When(&testv1.Annotate{Note: note})
	note.Text = "second"
	o.State().Notes[0].Text = "third"
	o.Then(&testv1.Annotated{Note: &testv1.Note{Text: "first"}}).
		ThenState(&testv1.Account{Notes: []*testv1.Note{{Text: "first"}}})
}

// A record keeps the failures that a scenario reports.
type record struct {
	testing.TB
	said  strings.Builder
	fatal bool
}

type stopped struct{}

func (r *record) Helper() {}

func (r *record) Errorf(format string, args ...any) { fmt.Fprintf(&r.said, format+"\n", args...) }

func (r *record) Fatalf(format string, args ...any) {
	r.Errorf(format, args...)
	r.fatal = true
	panic(stopped{})
}

func (r *record) Fatal(args ...any) { r.Fatalf("%s", fmt.Sprint(args...)) }

// failures returns the failures that a scenario reports to its test.
func failures(t *testing.T, scenario func(r *record)) (said string, fatal bool) {
	t.Helper()
	r := &record{TB: t}
	defer func() {
		if v := recover(); v != nil && v != (stopped{}) {
			panic(v)
		}
		said, fatal = r.said.String(), r.fatal
	}()
	scenario(r)
	return r.said.String(), r.fatal
}

func TestScenarioThatDoesNotHoldFails(t *testing.T) {
	t.Parallel()
	good := goodRules().kind()
	var count atomic.Int64
	calls := func() int64 { return count.Add(1) }
	for _, c := range []struct {
		name     string
		scenario func(r *record)
		want     []string // parts of the failures
		fatal    bool
	}{
		{
			name: "another event", want: []string{"perdure.test.v1.Deposit {amount:", "account/test", "balance:", "other events", "-want +got"},
			scenario: func(r *record) {
				perduretest.Given(r, good, deposited(1)).When(&testv1.Deposit{Amount: 2}).Then(deposited(3))
			},
		},
		{
			name: "an event too many", want: []string{"other events"},
			scenario: func(r *record) {
				perduretest.Given(r, good).When(&testv1.Deposit{Amount: 2, Parts: 2}).Then(deposited(1))
			},
		},
		{
			name: "an event instead of nothing", want: []string{"got events, wanted none"},
			scenario: func(r *record) { perduretest.Given(r, good).When(&testv1.Deposit{Amount: 2}).ThenNothing() },
		},
		{
			name: "a saved state instead of nothing", want: []string{"got a state that is saved"},
			scenario: func(r *record) { perduretest.Given(r, shelf()).When(&testv1.Deposit{Amount: 2}).ThenNothing() },
		},
		{
			name: "another state", want: []string{"another state"},
			scenario: func(r *record) {
				perduretest.Given(r, good).When(&testv1.Touch{}).ThenState(&testv1.Account{Balance: 1})
			},
		},
		{
			name: "other tags", want: []string{"other tags"},
			scenario: func(r *record) {
				perduretest.Given(r, good).When(&testv1.Deposit{Amount: 1, Tags: []string{"a"}}).ThenTagged("b")
			},
		},
		{
			name: "tags of nothing", want: []string{"got no event, wanted events tagged"},
			scenario: func(r *record) { perduretest.Given(r, good).When(&testv1.Touch{}).ThenTagged("b") },
		},
		{
			name: "another answer", want: []string{"another answer"},
			scenario: func(r *record) {
				perduretest.Given(r, good).WhenAsked(&testv1.GetBalance{}).ThenAnswer(&testv1.Balance{Amount: 1})
			},
		},
		{
			name: "a refusal instead of events", want: []string{"got a refusal, wanted events", "not positive"},
			scenario: func(r *record) { perduretest.Given(r, good).When(&testv1.Deposit{}).Then(deposited(1)) },
		},
		{
			name: "events instead of a refusal", want: []string{"got it accepted", "invalid argument"},
			scenario: func(r *record) {
				perduretest.Given(r, good).When(&testv1.Deposit{Amount: 1}).ThenRefused(perdure.InvalidArgument)
			},
		},
		{
			name: "another refusal", want: []string{`got the refusal "invalid argument"`, `wanted "not found"`},
			scenario: func(r *record) {
				perduretest.Given(r, good).When(&testv1.Deposit{}).ThenRefused(perdure.NotFound)
			},
		},
		{
			name: "other words", want: []string{`wanted it to say "empty"`},
			scenario: func(r *record) {
				perduretest.Given(r, good).When(&testv1.Deposit{}).ThenRefused(perdure.InvalidArgument, "amount", "empty")
			},
		},
		{
			name: "a refusal that nobody asked for", want: []string{"refused, which nothing has asked for"},
			scenario: func(r *record) {
				perduretest.Given(r, good).When(&testv1.Deposit{}).When(&testv1.Touch{}).ThenNothing()
			},
		},
		{
			name: "no rule", want: []string{`kind "account" has no rule for it`},
			scenario: func(r *record) { perduretest.Given(r, good).When(&testv1.Note{}) },
		},
		{
			name: "an event without a rule", want: []string{"perdure.test.v1.Note has no Evolve rule"},
			scenario: func(r *record) { perduretest.Given(r, decides(&testv1.Note{})).When(&testv1.Deposit{}) },
		},
		{
			name: "a nil event", want: []string{"nil"},
			scenario: func(r *record) { perduretest.Given(r, decides(nil)).When(&testv1.Deposit{}) },
		},
		{
			name: "a typed nil event", want: []string{"nil"},
			scenario: func(r *record) {
				perduretest.Given(r, decides((*testv1.Deposited)(nil))).When(&testv1.Deposit{})
			},
		},
		{
			name: "an event that cannot be encoded", want: []string{"UTF-8"},
			scenario: func(r *record) {
				perduretest.Given(r, decides(&testv1.Opened{Owner: "\xff"})).When(&testv1.Deposit{})
			},
		},
		{
			name: "a panic in Decide", want: []string{"panic: no", "Decide perdure.test.v1.Deposit"},
			scenario: func(r *record) {
				rules := goodRules()
				rules.deposit = func(context.Context, *testv1.Account, *testv1.Deposit) (*perdure.Decision, error) { panic("no") }
				perduretest.Given(r, rules.kind()).When(&testv1.Deposit{})
			},
		},
		{
			name: "a panic in Evolve", want: []string{"panic: no", "Evolve"},
			scenario: func(r *record) {
				rules := goodRules()
				rules.onDeposited = func(*testv1.Account, *testv1.Deposited) { panic("no") }
				perduretest.Given(r, rules.kind()).When(&testv1.Deposit{Amount: 1})
			},
		},
		{
			name: "a panic in Evolve of what is given", want: []string{"panic: no"}, fatal: true,
			scenario: func(r *record) {
				rules := goodRules()
				rules.onDeposited = func(*testv1.Account, *testv1.Deposited) { panic("no") }
				perduretest.Given(r, rules.kind(), deposited(1)).When(&testv1.Touch{})
			},
		},
		{
			name: "a Decide rule that changes the state", want: []string{"Decide perdure.test.v1.Deposit has changed the state"},
			scenario: func(r *record) {
				rules := goodRules()
				rules.deposit = func(_ context.Context, a *testv1.Account, _ *testv1.Deposit) (*perdure.Decision, error) {
					a.Balance++
					return perdure.None(), nil
				}
				perduretest.Given(r, rules.kind()).When(&testv1.Deposit{})
			},
		},
		{
			name: "a Decide rule that changes the command", want: []string{"Decide perdure.test.v1.Deposit has changed the command"},
			scenario: func(r *record) {
				rules := goodRules()
				rules.deposit = func(_ context.Context, _ *testv1.Account, c *testv1.Deposit) (*perdure.Decision, error) {
					c.Amount++
					return perdure.None(), nil
				}
				perduretest.Given(r, rules.kind()).When(&testv1.Deposit{})
			},
		},
		{
			name: "a Decide rule that counts", want: []string{"decides differently"},
			scenario: func(r *record) {
				rules := goodRules()
				rules.deposit = func(context.Context, *testv1.Account, *testv1.Deposit) (*perdure.Decision, error) {
					return perdure.Persist(deposited(calls())), nil
				}
				perduretest.Given(r, rules.kind()).When(&testv1.Deposit{})
			},
		},
		{
			name: "a Decide rule that refuses at times", want: []string{"decides differently"},
			scenario: func(r *record) {
				rules := goodRules()
				n := 0
				rules.deposit = func(context.Context, *testv1.Account, *testv1.Deposit) (*perdure.Decision, error) {
					if n++; n%2 == 0 {
						return nil, perdure.Reject(perdure.Aborted, "not now")
					}
					return perdure.None(), nil
				}
				perduretest.Given(r, rules.kind()).When(&testv1.Deposit{})
			},
		},
		{
			name: "an Update rule with chance of its own", want: []string{"Update perdure.test.v1.Open decides differently"},
			scenario: func(r *record) { perduretest.Given(r, shelf()).When(&testv1.Open{}) },
		},
		{
			name: "an Answer rule that changes the state", want: []string{"Answer perdure.test.v1.GetBalance has changed the state"},
			scenario: func(r *record) {
				rules := goodRules()
				rules.balance = func(_ context.Context, a *testv1.Account, _ *testv1.GetBalance) (*testv1.Balance, error) {
					a.Operations++
					return &testv1.Balance{}, nil
				}
				perduretest.Given(r, rules.kind()).WhenAsked(&testv1.GetBalance{})
			},
		},
		{
			name: "an Answer rule that counts", want: []string{"answers differently"},
			scenario: func(r *record) {
				rules := goodRules()
				rules.balance = func(context.Context, *testv1.Account, *testv1.GetBalance) (*testv1.Balance, error) {
					return &testv1.Balance{Amount: calls()}, nil
				}
				perduretest.Given(r, rules.kind()).WhenAsked(&testv1.GetBalance{})
			},
		},
		{
			name: "an Evolve rule that counts", want: []string{"Evolve perdure.test.v1.Deposited makes another state"},
			scenario: func(r *record) {
				rules := goodRules()
				rules.onDeposited = func(a *testv1.Account, _ *testv1.Deposited) { a.Balance += calls() }
				perduretest.Given(r, rules.kind(), deposited(1)).When(&testv1.Touch{})
			},
		},
		{
			name: "an Evolve rule that changes the event", want: []string{"Evolve perdure.test.v1.Deposited has changed the event"},
			scenario: func(r *record) {
				rules := goodRules()
				rules.onDeposited = func(a *testv1.Account, e *testv1.Deposited) { a.Balance += e.GetAmount(); e.Amount = 0 }
				perduretest.Given(r, rules.kind()).When(&testv1.Deposit{Amount: 1})
			},
		},
		{
			name: "a state that cannot be encoded", want: []string{"cannot be encoded"},
			scenario: func(r *record) {
				rules := goodRules()
				rules.onDeposited = func(a *testv1.Account, _ *testv1.Deposited) { a.Owner = "\xff" }
				perduretest.Given(r, rules.kind()).When(&testv1.Deposit{Amount: 1})
			},
		},
		{
			name: "messages instead of nothing", want: []string{"left for after the commit", "remind"},
			scenario: func(r *record) { perduretest.Given(r, good).When(&testv1.Misbehave{}).ThenNothing() },
		},
		{
			name: "other effects", want: []string{"other effects"},
			scenario: func(r *record) { perduretest.Given(r, good).When(&testv1.Misbehave{}).ThenAfterCommit(&testv1.Open{}) },
		},
		{
			name: "other messages", want: []string{"other messages in the outbox"},
			scenario: func(r *record) { perduretest.Given(r, good).When(&testv1.Misbehave{}).ThenEnqueued() },
		},
		{
			name: "another timer", want: []string{`got no timer "late"`},
			scenario: func(r *record) {
				perduretest.Given(r, good).When(&testv1.Misbehave{}).ThenScheduled("late", start, &testv1.Touch{})
			},
		},
		{
			name: "a timer at another time", want: []string{`got timer "remind" due at 2000-01-01 01:00:00`},
			scenario: func(r *record) {
				perduretest.Given(r, good).When(&testv1.Misbehave{}).ThenScheduled("remind", start, &testv1.Touch{})
			},
		},
		{
			name: "a timer with another command", want: []string{`got timer "remind" with another command`},
			scenario: func(r *record) {
				perduretest.Given(r, good).At(start).When(&testv1.Misbehave{}).ThenScheduled("remind", start.Add(time.Hour), &testv1.Open{})
			},
		},
		{
			name: "a timer for another entity", want: []string{`got timer "nudge" for account/bob, wanted it for account/test`},
			scenario: func(r *record) {
				perduretest.Given(r, good).At(start).When(&testv1.Misbehave{}).ThenScheduled("nudge", start.Add(time.Minute), &testv1.Open{})
			},
		},
		{
			name: "other messages to an entity", want: []string{"other messages to account/bob"},
			scenario: func(r *record) {
				perduretest.Given(r, good).When(&testv1.Misbehave{}).ThenEnqueuedTo(bob, &testv1.Deposit{Amount: 2})
			},
		},
		{
			name: "no reply", want: []string{`other messages with the reply "paid"`},
			scenario: func(r *record) {
				perduretest.Given(r, good).When(&testv1.Misbehave{}).ThenReplyTo("paid", &testv1.Deposit{Amount: 1})
			},
		},
		{
			name: "other claims", want: []string{"other claims than wanted"},
			scenario: func(r *record) {
				perduretest.Given(r, good).When(&testv1.Misbehave{}).ThenClaimed(store.Claim{Space: "name", Value: "bob"})
			},
		},
		{
			name: "other released values", want: []string{"other released values than wanted"},
			scenario: func(r *record) { perduretest.Given(r, good).When(&testv1.Misbehave{}).ThenReleased() },
		},
		{
			name: "other cancelled timers", want: []string{"other cancelled timers"},
			scenario: func(r *record) { perduretest.Given(r, good).When(&testv1.Misbehave{}).ThenCancelled("new") },
		},
		{
			name: "a kind with mistakes", want: []string{`kind "account"`, "no Evolve rule"}, fatal: true,
			scenario: func(r *record) {
				perduretest.Given(r, perdure.EventSourced("account", perdure.Decide(goodRules().deposit)))
			},
		},
		{
			name: "given an event of nobody", want: []string{"given event 1", "perdure.test.v1.Note"}, fatal: true,
			scenario: func(r *record) { perduretest.Given(r, good, deposited(1), &testv1.Note{}) },
		},
		{
			name: "given a nil event", want: []string{"given event 0", "nil"}, fatal: true,
			scenario: func(r *record) { perduretest.Given(r, good, nil) },
		},
		{
			name: "given a nil state", want: []string{"given state", "nil"}, fatal: true,
			scenario: func(r *record) { perduretest.GivenState(r, good, nil) },
		},
		{
			name: "given events of a durable state", want: []string{"use GivenState"}, fatal: true,
			scenario: func(r *record) { perduretest.Given(r, shelf(), deposited(1)) },
		},
		{
			name: "wanted events of a durable state", want: []string{"use ThenState"}, fatal: true,
			scenario: func(r *record) { perduretest.Given(r, shelf()).When(&testv1.Touch{}).Then() },
		},
		{
			name: "a nil command", want: []string{"nil"}, fatal: true,
			scenario: func(r *record) { perduretest.Given(r, good).When((*testv1.Touch)(nil)) },
		},
		{
			name: "an answer of a command", want: []string{"use WhenAsked"}, fatal: true,
			scenario: func(r *record) {
				perduretest.Given(r, good).When(&testv1.Touch{}).ThenAnswer(&testv1.Balance{})
			},
		},
		{
			name: "a bad id", want: []string{"entity id is empty"}, fatal: true,
			scenario: func(r *record) { perduretest.Given(r, good).For("") },
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			said, fatal := failures(t, c.scenario)
			if said == "" {
				t.Fatalf("the scenario has passed, want a failure that says %q", c.want)
			}
			for _, w := range c.want {
				if !strings.Contains(said, w) {
					t.Errorf("got\n%s\nwant it to say %q", said, w)
				}
			}
			if fatal != c.fatal {
				t.Errorf("got the test stopped: %t, want %t; it said\n%s", fatal, c.fatal, said)
			}
		})
	}
}

// decides returns a kind whose Deposit returns the event.
func decides(event proto.Message) *perdure.Kind[*testv1.Account] {
	r := goodRules()
	r.deposit = func(context.Context, *testv1.Account, *testv1.Deposit) (*perdure.Decision, error) {
		return perdure.Persist(event), nil
	}
	return r.kind()
}
