package perdure_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/perdure/perdure"
	testv1 "github.com/perdure/perdure/internal/testproto/perdure/test/v1"
	perdurev1 "github.com/perdure/perdure/proto/perdure/v1"
	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/memory"
)

// payers is a kind whose commands use every sort of record. Deposit sends a note and also
// enqueues it. Withdraw lets "target" get the money and reply. Open sets a timer.
func payers() *perdure.Kind[*testv1.Account] {
	return perdure.EventSourced("payer",
		perdure.Decide(func(_ context.Context, a *testv1.Account, c *testv1.Deposit) (*perdure.Decision, error) {
			note := &testv1.Note{Text: fmt.Sprintf("deposit %d", a.GetOperations()+1)}
			return perdure.Persist(&testv1.Deposited{Amount: c.GetAmount()}).AfterCommit(&testv1.Annotate{Note: note}).Enqueue(note), nil
		}),
		perdure.Decide(func(_ context.Context, _ *testv1.Account, c *testv1.Withdraw) (*perdure.Decision, error) {
			return perdure.Persist(&testv1.Withdrawn{Amount: c.GetAmount()}).EnqueueTo(
				store.Key{Kind: "account", ID: "target"}, &testv1.Deposit{Amount: c.GetAmount()}, perdure.ReplyTo(fmt.Sprint("pay ", c.GetAmount()))), nil
		}),
		perdure.Decide(func(_ context.Context, _ *testv1.Account, c *testv1.Open) (*perdure.Decision, error) {
			return perdure.Persist(&testv1.Opened{Owner: c.GetOwner()}).
				Schedule("ring", c.GetAt().AsTime(), &testv1.Annotate{Note: &testv1.Note{Text: "ring"}}), nil
		}),
		perdure.Decide(annotate),
		perdure.Decide(func(_ context.Context, _ *testv1.Account, c *perdurev1.Reply) (*perdure.Decision, error) {
			text := c.GetName() + " done"
			if perdure.ReplyError(c) != nil {
				text = c.GetName() + " refused"
			}
			return perdure.Persist(&testv1.Annotated{Note: &testv1.Note{Text: text}}), nil
		}),
		perdure.Evolve(onDeposited),
		perdure.Evolve(func(a *testv1.Account, e *testv1.Withdrawn) { a.Balance -= e.GetAmount() }),
		perdure.Evolve(func(a *testv1.Account, e *testv1.Opened) { a.Owner = e.GetOwner() }),
		perdure.Evolve(func(a *testv1.Account, e *testv1.Annotated) { a.Notes = append(a.Notes, e.GetNote()) }),
	)
}

// The faults of a crashing run, which show that its checks can fail.
type crashFault string

const (
	dispatchedEarly  crashFault = "effects are performed before the commit"
	receiptsApart    crashFault = "receipts are not in the batch of the command"
	messagesApart    crashFault = "messages are not in the batch of the command"
	settlementsApart crashFault = "a message does not end with the commit of its target"
	doneEarly        crashFault = "messages are settled before they are handled"
	idsChange        crashFault = "messages have another id each time they are read"
)

// A crashing is a run of a few commands in which the process dies at certain
// steps. A step is a commit, before and after it is stored, or a handler,
// before and after it has done its work; so there is one in every gap.
type crashing struct {
	log     *memory.Log
	instant bool
	fault   crashFault
	crashAt []int

	mu        sync.Mutex
	steps     int
	dead      bool          // the process that runs now has died
	death     chan struct{} // closed when the process dies
	life      int
	performed []string // notes that handlers of enqueued messages performed
	ids       map[string]store.ID
	sent      []string
	err       error
}

var errCrashed = errors.New("crashed")

func (r *crashing) failf(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf(format, args...)
	}
}

// step returns an error if the process of the given life dies here, or is dead.
func (r *crashing) step(life int) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.life != life || r.dead {
		return errCrashed
	}
	r.steps++
	if slices.Contains(r.crashAt, r.steps) {
		r.dead = true
		close(r.death)
		return errCrashed
	}
	return nil
}

func (r *crashing) died() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.dead
}

// A mortalLog is the log as one process sees it.
type mortalLog struct {
	*memory.Log
	run  *crashing
	life int
}

func (l *mortalLog) Synchronous() bool { return l.run.instant }

func (l *mortalLog) Commit(ctx context.Context, group []*store.Batch) ([]store.Result, error) {
	if l.run.fault == dispatchedEarly {
		for _, b := range group {
			for i := range b.Enqueue {
				l.run.performEarly(&b.Enqueue[i], b)
			}
		}
	}
	if err := l.run.step(l.life); err != nil {
		return nil, fmt.Errorf("%w: %w", store.ErrNotStored, err)
	}
	results, err := l.commit(ctx, group)
	if err2 := l.run.step(l.life); err2 != nil {
		return nil, err2
	}
	return results, err
}

// commit stores the group, by some faults in two parts.
func (l *mortalLog) commit(ctx context.Context, group []*store.Batch) ([]store.Result, error) {
	first := make([]*store.Batch, len(group))
	rest := make([]*store.Batch, len(group))
	for i, b := range group {
		one, two := *b, store.Batch{Key: b.Key, Expected: b.Next()}
		switch {
		case b.Key.IsZero():
		case l.run.fault == receiptsApart:
			one.Receipts, two.Receipts = nil, b.Receipts
		case l.run.fault == messagesApart:
			one.Enqueue, two.Enqueue = nil, b.Enqueue
		case l.run.fault == settlementsApart:
			one.Settle, two.Settle = nil, b.Settle
		}
		first[i], rest[i] = &one, &two
	}
	results, err := l.Log.Commit(ctx, first)
	if err != nil {
		return results, err
	}
	for i, b := range rest {
		if results[i].Err != nil || b.IsCheck() {
			continue
		}
		if err := l.run.step(l.life); err != nil {
			return nil, err
		}
		more, err := l.Log.Commit(ctx, []*store.Batch{b})
		if err != nil {
			return nil, err
		}
		results[i].Err, results[i].Sequence = more[0].Err, max(results[i].Sequence, more[0].Sequence)
	}
	return results, nil
}

func (l *mortalLog) Messages(ctx context.Context, q store.MessageQuery) iter.Seq2[*store.Message, error] {
	return func(yield func(*store.Message, error) bool) {
		for m, err := range l.Log.Messages(ctx, q) {
			if err == nil && l.run.fault == idsChange {
				m.ID[15] ^= byte(l.life)
			}
			if !yield(m, err) {
				return
			}
		}
	}
}

func (r *crashing) performEarly(m *store.Message, b *store.Batch) {
	note := new(testv1.Note)
	if !m.Target.IsZero() || proto.Unmarshal(m.Payload, note) != nil {
		return
	}
	r.note(&perdure.EffectInfo{ID: m.ID, Source: b.Key, Metadata: m.Metadata}, note)
}

// note records that an enqueued message was performed. Its command must be in the log at that
// time.
func (r *crashing) note(d *perdure.EffectInfo, m *testv1.Note) {
	r.committed(d, m.GetText())
	r.mu.Lock()
	defer r.mu.Unlock()
	if id, known := r.ids[m.GetText()]; known && id != d.ID {
		r.failf("%q is performed as message %v, and was as %v before", m.GetText(), d.ID, id)
	}
	r.ids[m.GetText()] = d.ID
	r.performed = append(r.performed, m.GetText())
}

func (r *crashing) committed(d *perdure.EffectInfo, text string) {
	for ev, err := range r.log.Read(context.Background(), d.Source, 0) {
		if err == nil && ev.Metadata.CausationID == d.Metadata.CausationID {
			return
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failf("%q is performed, and its command %v is not in the log", text, d.Metadata.CausationID)
}

// effects are the handlers of one process.
func (r *crashing) effects(life int) []perdure.EffectRule {
	return []perdure.EffectRule{
		perdure.Perform(func(ctx context.Context, m *testv1.Note) error {
			d := perdure.EffectInfoFrom(ctx)
			if r.fault == doneEarly {
				r.settle(d.ID)
			}
			if err := r.step(life); err != nil {
				return err
			}
			r.note(d, m)
			return r.step(life)
		}, perdure.RetryPolicy{MinBackoff: time.Minute, MaxBackoff: time.Minute}),
		perdure.Perform(func(ctx context.Context, m *testv1.Annotate) error {
			if err := r.step(life); err != nil {
				return err
			}
			r.committed(perdure.EffectInfoFrom(ctx), "sent "+m.GetNote().GetText())
			r.mu.Lock()
			r.sent = append(r.sent, m.GetNote().GetText())
			r.mu.Unlock()
			return r.step(life)
		}),
	}
}

// settle removes a message from the log by its id.
func (r *crashing) settle(id store.ID) {
	for m, err := range r.log.Messages(context.Background(), store.MessageQuery{}) {
		if err == nil && m.ID == id {
			r.log.Commit(context.Background(), []*store.Batch{{Settle: []store.Settlement{{Sequence: m.Sequence}}}}) //nolint:errcheck // the checks will tell
			return
		}
	}
}

// run runs the commands, each until it has an answer, and all work that they cause. It returns
// the violations at the end.
func (r *crashing) run(ctx context.Context) error {
	payer, account := payers(), accounts()
	var engine *perdure.Engine
	live := func() error {
		r.mu.Lock()
		r.life++
		r.dead, r.death = false, make(chan struct{})
		life := r.life
		r.mu.Unlock()
		if engine != nil {
			engine.Close(ctx) //nolint:errcheck // of a process that has died
		}
		var err error
		engine, err = perdure.Open(ctx, perdure.Config{
			Store: &mortalLog{r.log, r, life}, Kinds: []perdure.AnyKind{payer, account}, Effects: r.effects(life),
		})
		return err
	}
	if err := live(); err != nil {
		return err
	}
	defer func() { engine.Close(ctx) }() //nolint:errcheck // its store may be dead
	for n, command := range []proto.Message{
		&testv1.Deposit{Amount: 100},
		&testv1.Withdraw{Amount: 10},
		&testv1.Open{Owner: "ada", At: timestamppb.New(time.Now().Add(time.Hour))},
		&testv1.Withdraw{Amount: 0}, // the target refuses it
		&testv1.Deposit{Amount: 200},
		&testv1.Withdraw{Amount: 20},
		&testv1.Deposit{Amount: 300},
	} {
		for {
			_, err := payer.Ref(engine, "a").Do(ctx, command, perdure.WithIdempotencyKey(fmt.Sprint(n)))
			if err == nil && !r.died() {
				break
			}
			if !r.died() {
				return fmt.Errorf("command %d: %w", n, err)
			}
			if err := live(); err != nil {
				return err
			}
		}
	}
	for { // wait longer than the timer and all pauses
		select {
		case <-r.death:
		case <-time.After(2 * time.Hour):
		}
		if !r.died() {
			break
		}
		if err := live(); err != nil {
			return err
		}
	}
	if err := r.check(); err != nil {
		return err
	}
	for _, parked := range []bool{false, true} {
		for m, err := range r.log.Messages(ctx, store.MessageQuery{Parked: parked}) {
			if err != nil {
				return err
			}
			return fmt.Errorf("message %+v is still there", m)
		}
	}
	target, err := account.Ref(engine, "target").State(ctx)
	if err != nil {
		return err
	}
	if target.GetBalance() != 30 || target.GetOperations() != 2 {
		return fmt.Errorf("target: got %v, want balance 30 after 2 operations", target)
	}
	a, err := payer.Ref(engine, "a").State(ctx)
	if err != nil {
		return err
	}
	if a.GetBalance() != 570 || a.GetOperations() != 3 {
		return fmt.Errorf("payer: got %v, want balance 570 after 3 deposits", a)
	}
	var replies, rings []string
	for _, n := range a.GetNotes() {
		if n.GetText() == "ring" {
			rings = append(rings, n.GetText())
		} else {
			replies = append(replies, n.GetText())
		}
	}
	if want := []string{"pay 10 done", "pay 0 refused", "pay 20 done"}; !slices.Equal(replies, want) || len(rings) != 1 {
		return fmt.Errorf("the payer has heard %q and %q, want %q and one ring", replies, rings, want)
	}
	return nil
}

// check checks the effects that were performed.
func (r *crashing) check() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := []string{"deposit 1", "deposit 2", "deposit 3"}
	var first []string // performances without the repeated ones
	for _, text := range r.performed {
		if !slices.Contains(first, text) {
			first = append(first, text)
		}
	}
	sent := slices.Compact(slices.Sorted(slices.Values(r.sent)))
	switch {
	case r.err != nil:
		return r.err
	case !slices.Equal(first, all):
		return fmt.Errorf("enqueued: got %q, want each of %q at least once, in order", r.performed, all)
	case !slices.Equal(sent, r.sent):
		return fmt.Errorf("sent: got %q, want each of %q at most once, in order", r.sent, all)
	case r.life == 1 && (len(r.sent) != len(all) || len(r.performed) != len(all)):
		return fmt.Errorf("without a crash: sent %q, enqueued %q, want each of %q once", r.sent, r.performed, all)
	}
	return nil
}

// crashed makes a run in a bubble of its own and returns how many steps it had.
func crashed(t *testing.T, r *crashing) (steps int, err error) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r.log, r.ids = memory.New(), map[string]store.ID{}
		err = r.run(t.Context())
		synctest.Wait()
	})
	return r.steps, err
}

func onBothWays(t *testing.T, fn func(t *testing.T, instant bool)) {
	t.Helper()
	for _, instant := range []bool{true, false} {
		t.Run(fmt.Sprintf("instant %v", instant), func(t *testing.T) {
			t.Parallel()
			fn(t, instant)
		})
	}
}

func TestCrashLosesAndRepeatsNothing(t *testing.T) {
	t.Parallel()
	onBothWays(t, func(t *testing.T, instant bool) {
		steps, err := crashed(t, &crashing{instant: instant})
		if err != nil {
			t.Fatalf("without a crash: %v", err)
		}
		if steps < 25 {
			t.Fatalf("%d steps, want one for every commit and handler", steps)
		}
		for at := range steps {
			if _, err := crashed(t, &crashing{instant: instant, crashAt: []int{at + 1}}); err != nil {
				t.Errorf("with a crash at step %d of %d: %v", at+1, steps, err)
			}
		}
		random := rand.New(rand.NewPCG(1, 0))
		for range 200 {
			var at []int
			for range 2 + random.IntN(4) {
				at = append(at, 1+random.IntN(2*steps))
			}
			if _, err := crashed(t, &crashing{instant: instant, crashAt: at}); err != nil {
				t.Errorf("with crashes at steps %v: %v", at, err)
			}
		}
	})
}

func TestCrashFindsAFaultyOutbox(t *testing.T) {
	t.Parallel()
	for _, fault := range []crashFault{dispatchedEarly, receiptsApart, messagesApart, settlementsApart, doneEarly, idsChange} {
		t.Run(string(fault), func(t *testing.T) {
			t.Parallel()
			onBothWays(t, func(t *testing.T, instant bool) {
				steps, _ := crashed(t, &crashing{instant: instant})
				for at := range steps {
					if _, err := crashed(t, &crashing{instant: instant, fault: fault, crashAt: []int{at + 1}}); err != nil {
						t.Logf("caught with a crash at step %d: %v", at+1, err)
						return
					}
				}
				t.Errorf("not caught with a crash at any of %d steps", steps)
			})
		})
	}
}
