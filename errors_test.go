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
