package perdure_test

import (
	"context"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/perdure/perdure"
	testv1 "github.com/perdure/perdure/internal/testproto/perdure/test/v1"
	"github.com/perdure/perdure/store"
)

// failures are all exported failures of the package, with their codes.
var failures = map[string]struct {
	err  error
	code perdure.Code
}{
	"ErrOutcomeUnknown":  {perdure.ErrOutcomeUnknown, perdure.Unknown},
	"ErrOverloaded":      {perdure.ErrOverloaded, perdure.ResourceExhausted},
	"ErrVersion":         {perdure.ErrVersion, perdure.Aborted},
	"ErrUnhandled":       {perdure.ErrUnhandled, perdure.Unimplemented},
	"ErrInvalidDecision": {perdure.ErrInvalidDecision, perdure.Internal},
	"ErrPanicked":        {perdure.ErrPanicked, perdure.Internal},
	"ErrStore":           {perdure.ErrStore, perdure.Unavailable},
	"ErrSnapshot":        {perdure.ErrSnapshot, perdure.Internal},
	"ErrContention":      {perdure.ErrContention, perdure.Aborted},
	"ErrFailed":          {perdure.ErrFailed, perdure.Internal},
	"ErrClosed":          {perdure.ErrClosed, perdure.Unavailable},
	"ErrKeyReused":       {perdure.ErrKeyReused, perdure.InvalidArgument},
	"ErrStateGone":       {perdure.ErrStateGone, perdure.OutOfRange},
	"ErrInvalid":         {perdure.ErrInvalid, perdure.InvalidArgument},
	"ErrNested":          {perdure.ErrNested, perdure.Internal},
}

func TestCodeOf(t *testing.T) {
	t.Parallel()
	t.Run("returns_the_code_of_every_failure", func(t *testing.T) {
		t.Parallel()
		for name, f := range failures {
			if got := perdure.CodeOf(fmt.Errorf("ask acc/1: %w: %w", f.err, errors.New("a reason"))); got != f.code {
				t.Errorf("%s has the code %v, want %v", name, got, f.code)
			}
		}
	})
	t.Run("knows_every_exported_failure", func(t *testing.T) {
		t.Parallel()
		syntax, err := parser.ParseFile(token.NewFileSet(), "errors.go", nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		seen := 0
		ast.Inspect(syntax, func(n ast.Node) bool {
			v, ok := n.(*ast.ValueSpec)
			if !ok {
				return true
			}
			for _, name := range v.Names {
				if !strings.HasPrefix(name.Name, "Err") {
					continue
				}
				seen++
				if _, ok := failures[name.Name]; !ok {
					t.Errorf("%s is not in the table failures", name.Name)
				}
			}
			return true
		})
		if seen != len(failures) {
			t.Errorf("errors.go declares %d failures, and the table has %d", seen, len(failures))
		}
	})
	for name, c := range map[string]struct {
		err  error
		want perdure.Code
	}{
		"nil":                         {nil, 0},
		"a_refusal":                   {perdure.Reject(perdure.NotFound, "no such book"), perdure.NotFound},
		"a_wrapped_refusal":           {fmt.Errorf("lend: %w", perdure.Reject(perdure.NotFound, "no such book")), perdure.NotFound},
		"a_code":                      {fmt.Errorf("lend: %w", perdure.OutOfRange), perdure.OutOfRange},
		"an_ended_context":            {context.Canceled, perdure.Canceled},
		"an_unknown_outcome_in_time":  {fmt.Errorf("%w: %w", perdure.ErrOutcomeUnknown, context.DeadlineExceeded), perdure.DeadlineExceeded},
		"a_snapshot_that_is_no_fault": {fmt.Errorf("%w: %w", perdure.ErrStore, perdure.ErrSnapshot), perdure.Internal},
		"a_version":                   {&perdure.VersionError{Want: 1}, perdure.Aborted},
		"a_panic":                     {&perdure.PanicError{Value: errors.New("boom")}, perdure.Internal},
		"another_error":               {errors.New("boom"), perdure.Unknown},
	} {
		t.Run("of_"+name, func(t *testing.T) {
			t.Parallel()
			if got := perdure.CodeOf(c.err); got != c.want {
				t.Errorf("got %v, want %v", got, c.want)
			}
		})
	}
	t.Run("of_a_claimed_value", func(t *testing.T) {
		t.Parallel()
		err := fmt.Errorf("%w: %w", perdure.AlreadyExists, &store.ClaimedError{})
		if got := perdure.CodeOf(err); got != perdure.AlreadyExists {
			t.Errorf("got %v", got)
		}
	})
}

func TestOpen(t *testing.T) {
	t.Parallel()
	t.Run("names_the_kind_of_every_mistake", func(t *testing.T) {
		t.Parallel()
		decide := perdure.Decide(nothing)
		_, err := perdure.Open(t.Context(), perdure.Config{Store: newLog(t), Kinds: []perdure.AnyKind{
			perdure.EventSourced("acc", decide, decide, perdure.Evolve(onDeposited)).With(perdure.RetainEvents(1), perdure.PassivateAfter(-1)),
			perdure.EventSourced("book", perdure.Decide(func(context.Context, *testv1.Account, *testv1.Open) (*perdure.Decision, error) {
				return perdure.None(), nil
			})),
		}})
		const want = `open engine: invalid: kind "acc": two Decide rules for perdure.test.v1.Touch
kind "acc": PassivateAfter(-1ns) is negative
kind "acc": RetainEvents needs SnapshotEvery
kind "book": it has no Evolve rule`
		if err == nil || err.Error() != want || !errors.Is(err, perdure.ErrInvalid) {
			t.Errorf("got\n%v\nwant\n%s", err, want)
		}
	})
}

// claimers is a kind whose rules claim a value, and call another entity.
func claimers(engine func() *perdure.Engine) *perdure.Kind[*testv1.Account] {
	return perdure.DurableState("user",
		perdure.Update(func(context.Context, *testv1.Account, *testv1.Touch) (*perdure.Change, error) {
			return perdure.Save().Claim(store.Claim{Space: "email", Value: "a@b"}), nil
		}),
		perdure.Update(func(ctx context.Context, _ *testv1.Account, _ *testv1.Open) (*perdure.Change, error) {
			_, err := accounts().Ref(engine(), "1").Do(ctx, &testv1.Touch{})
			return nil, err
		}),
		perdure.Update(func(context.Context, *testv1.Account, *testv1.Withdraw) (*perdure.Change, error) {
			return perdure.Save().EnqueueTo(store.Key{}, &testv1.Touch{}), nil
		}),
		perdure.Update(func(context.Context, *testv1.Account, *testv1.Annotate) (*perdure.Change, error) {
			return perdure.Save().Enqueue(&testv1.Note{}), nil
		}),
		perdure.Update(func(context.Context, *testv1.Account, *testv1.Deposit) (*perdure.Change, error) {
			var e *perdure.Error
			return nil, e
		}),
	)
}

// overload tells an entity of a store that stands still to do something until it gets an error.
func overload(t *testing.T, c perdure.Config) error {
	log := &hookedLog{Log: newLog(t)}
	release := make(chan struct{})
	log.on(func(group []*store.Batch, next commitFunc) ([]store.Result, error) {
		<-release
		return next(group)
	})
	defer close(release)
	c.Store, c.Kinds = log, []perdure.AnyKind{accounts()}
	ref := accounts().Ref(openConfig(t, c), "1")
	for range 1000 {
		if err := ref.Tell(t.Context(), &testv1.Deposit{Amount: 1}); err != nil {
			return err
		}
	}
	return nil
}

// TestErrorTexts has the whole text of every error that a caller of the engine may see, as the API
// makes it.
func TestErrorTexts(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	log := &hookedLog{Log: newLog(t)}
	var e *perdure.Engine
	users := claimers(func() *perdure.Engine { return e })
	e = openConfig(t, perdure.Config{Store: log, Kinds: []perdure.AnyKind{accounts(), shelves(), users}})
	account, shelf, user := accounts().Ref(e, "1"), shelves().Ref(e, "1"), users.Ref(e, "1")
	other := perdure.EventSourced("other", perdure.Decide(deposit), perdure.Evolve(onDeposited)).Ref(e, "1")
	same := perdure.DurableState("account", perdure.Update(func(context.Context, *testv1.Balance, *testv1.Touch) (*perdure.Change, error) {
		return perdure.Save(), nil
	})).Ref(e, "1")
	do := func(m proto.Message, options ...perdure.CallOption) error {
		_, err := account.Do(ctx, m, options...)
		return err
	}
	misbehave := func(how testv1.Misbehave_How) error { return do(&testv1.Misbehave{How: how}) }
	doUser := func(m proto.Message) error {
		_, err := user.Do(ctx, m)
		return err
	}
	if err := do(&testv1.Deposit{Amount: 7}, perdure.WithIdempotencyKey("k")); err != nil {
		t.Fatal(err)
	}
	if _, err := users.Ref(e, "2").Do(ctx, &testv1.Touch{}); err != nil {
		t.Fatal(err)
	}
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	for _, c := range []struct {
		want string
		call func() error
	}{
		// the ref
		{"ref was not made by Kind.Ref", func() error { _, err := perdure.Ref[*testv1.Account]{}.State(ctx); return err }},
		{`ask other/1: kind "other" is not in Config.Kinds`, func() error { _, err := other.Ask(ctx, &testv1.Deposit{}); return err }},
		{`do other/1: kind "other" is not in Config.Kinds`, func() error { _, err := other.Do(ctx, &testv1.Deposit{}); return err }},
		{`tell other/1: kind "other" is not in Config.Kinds`, func() error { return other.Tell(ctx, &testv1.Deposit{}) }},
		{`read state of other/1: kind "other" is not in Config.Kinds`, func() error { _, err := other.State(ctx); return err }},
		{`query other/1: kind "other" is not in Config.Kinds`, func() error {
			_, err := perdure.Query[*testv1.Balance](ctx, other, &testv1.GetBalance{})
			return err
		}},
		{`read state of account/1: kind "account" in Config.Kinds has the state *testv1.Account, and that of the ref has *testv1.Balance`, func() error { _, err := same.State(ctx); return err }},
		{"read state of account/: invalid: entity id is empty", func() error { _, err := accounts().Ref(e, "").State(ctx); return err }},
		{"read state of account/a\x00b: invalid: entity id \"a\\x00b\" holds a zero byte", func() error { _, err := accounts().Ref(e, "a\x00b").State(ctx); return err }},
		{"do account/1: call from inside a rule (use Decision.EnqueueTo)", func() error { return doUser(&testv1.Open{}) }},
		// the message and the options
		{"do account/1: message is nil", func() error { return do(nil) }},
		{"do account/1: invalid: option 0 of the call is nil", func() error { return do(&testv1.Touch{}, nil) }},
		{"do account/1: invalid: idempotency key is empty", func() error { return do(&testv1.Touch{}, perdure.WithIdempotencyKey("")) }},
		{"read state of account/1: invalid: only a command has an idempotency key", func() error { _, err := account.State(ctx, perdure.WithIdempotencyKey("k")); return err }},
		{"do account/1: invalid: the metadata of a call has a CausationID (leave it zero: the engine sets it)", func() error {
			return do(&testv1.Touch{}, perdure.WithMetadata(store.Metadata{CausationID: store.ID{1}}))
		}},
		// the rules
		{`do account/1: kind "account" has no Decide rule for perdure.test.v1.Note (it has those for perdure.test.v1.Annotate, perdure.test.v1.Deposit, perdure.test.v1.Misbehave, perdure.test.v1.Open, perdure.test.v1.Touch, perdure.test.v1.Withdraw)`, func() error { return do(&testv1.Note{}) }},
		{`ask shelf/1: kind "shelf" has no Update rule for perdure.test.v1.Note (it has those for perdure.test.v1.Annotate, perdure.test.v1.Deposit, perdure.test.v1.Touch)`, func() error { _, err := shelf.Ask(ctx, &testv1.Note{}); return err }},
		{`query account/1: kind "account" has no Answer rule for perdure.test.v1.Touch (it has those for perdure.test.v1.GetBalance, perdure.test.v1.GetNotes)`, func() error { _, err := perdure.Query[*testv1.Balance](ctx, account, &testv1.Touch{}); return err }},
		{"query account/1: the answer to perdure.test.v1.GetBalance is a *testv1.Balance, not a *testv1.Note", func() error { _, err := perdure.Query[*testv1.Note](ctx, account, &testv1.GetBalance{}); return err }},
		{"failed precondition: balance is 7", func() error { return do(&testv1.Withdraw{Amount: 8}) }},
		{"no money", func() error {
			_, err := perdure.Query[*testv1.Balance](ctx, account, &testv1.GetBalance{Refuse: true})
			return err
		}},
		{"do account/1: invalid decision of perdure.test.v1.Misbehave: event perdure.test.v1.Note has no Evolve rule", func() error { return misbehave(testv1.Misbehave_HOW_UNKNOWN_EVENT) }},
		{"do account/1: invalid decision of perdure.test.v1.Misbehave: event 0 is nil", func() error { return misbehave(testv1.Misbehave_HOW_NIL_EVENT) }},
		{"do account/1: Decide perdure.test.v1.Misbehave: panic: no money", func() error { return misbehave(testv1.Misbehave_HOW_PANIC) }},
		{"do account/1: Evolve after perdure.test.v1.Misbehave: panic: evolve", func() error { return misbehave(testv1.Misbehave_HOW_EVOLVE_PANIC) }},
		{"do user/1: invalid decision of perdure.test.v1.Withdraw: message 0: invalid: perdure.test.v1.Touch has no target: its key is zero", func() error { return doUser(&testv1.Withdraw{}) }},
		{"do user/1: invalid decision of perdure.test.v1.Annotate: message 0: effect perdure.test.v1.Note has no Perform rule in Config.Effects", func() error { return doUser(&testv1.Annotate{}) }},
		{"do user/1: invalid decision of perdure.test.v1.Deposit: Update has returned a nil *perdure.Error as its error, which is not equal to nil (return nil itself)", func() error { return doUser(&testv1.Deposit{}) }},
		// the commit
		{"do account/1: entity is at version 1, not 3", func() error { return do(&testv1.Touch{}, perdure.IfVersion(3)) }},
		{`do account/1: idempotency key "k" is used for another command`, func() error { return do(&testv1.Deposit{Amount: 8}, perdure.WithIdempotencyKey("k")) }},
		{`do user/1: already exists: claim "a@b" in "email": held by user/2`, func() error { return doUser(&testv1.Touch{}) }},
		{"do account/1: not run: context canceled", func() error { _, err := account.Do(canceled, &testv1.Deposit{Amount: 1}); return err }},
		{"do account/1: store failed: commit to a.db: not stored: disk is full", func() error {
			log.on(func([]*store.Batch, commitFunc) ([]store.Result, error) {
				return nil, fmt.Errorf("commit to a.db: %w: disk is full", store.ErrNotStored)
			})
			defer log.on(nil)
			return do(&testv1.Deposit{Amount: 1})
		}},
		{"do account/1: too many conflicts: append account/1: version conflict: expected version 1, found 2", func() error {
			log.on(func(group []*store.Batch, _ commitFunc) ([]store.Result, error) {
				return []store.Result{{Err: &store.ConflictError{Key: group[0].Key, Expected: 1, Actual: 2}}}, nil
			})
			defer log.on(nil)
			return do(&testv1.Deposit{Amount: 1})
		}},
		{"do account/1: outcome is unknown: context canceled", func() error {
			leaving, leave := context.WithCancel(ctx)
			release := make(chan struct{})
			log.on(func(group []*store.Batch, next commitFunc) ([]store.Result, error) {
				leave()
				<-release
				return next(group)
			})
			defer log.on(nil)
			defer close(release)
			_, err := account.Do(leaving, &testv1.Deposit{Amount: 1})
			return err
		}},
		{"tell account/1: entity is overloaded: 8 calls are waiting (see Config.EntityCallsMax)", func() error { return overload(t, perdure.Config{EntityCallsMax: 8}) }},
		{"tell account/1: engine is overloaded: 50 calls are waiting (see Config.CallsMax)", func() error { return overload(t, perdure.Config{CallsMax: 50}) }},
		// parked messages
		{"drop message 5: no parked message has this sequence", func() error { return e.Drop(ctx, 5) }},
		{"unpark message 5: no parked message has this sequence", func() error { return e.Unpark(ctx, 5, nil) }},
		{"drop messages: invalid: match is nil (to select all parked messages, pass a function that returns true)", func() error { _, err := e.DropWhere(ctx, nil); return err }},
		// the engine
		{"open engine: invalid: Config.Store is nil (use memory.New or one of the other stores)", func() error { _, err := perdure.Open(ctx, perdure.Config{}); return err }},
		{"open engine: invalid: Config.Kinds is empty", func() error { _, err := perdure.Open(ctx, perdure.Config{Store: newLog(t)}); return err }},
		{"open engine: memory log is held by another engine", func() error {
			_, err := perdure.Open(ctx, perdure.Config{Store: log, Kinds: []perdure.AnyKind{accounts()}})
			return err
		}},
		{"ask account/1: engine is closed", func() error {
			if err := e.Close(ctx); err != nil {
				return err
			}
			_, err := account.Ask(ctx, &testv1.Touch{})
			return err
		}},
	} {
		err := c.call()
		if err == nil || err.Error() != c.want {
			t.Errorf("got\n%v, want\n%s", err, c.want)
		}
	}
}
