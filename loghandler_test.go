package perdure_test

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"sync"
	"testing"
	"testing/slogtest"
	"testing/synctest"
	"time"

	"github.com/perdure/perdure"
	testv1 "github.com/perdure/perdure/internal/testproto/perdure/test/v1"
	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/memory"
)

// A lockedBuffer is a buffer for many goroutines.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

// records returns the JSON records in the buffer.
func (l *lockedBuffer) records(t *testing.T) (all []map[string]any) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	for line := range bytes.Lines(l.b.Bytes()) {
		r := map[string]any{}
		if err := json.Unmarshal(line, &r); err != nil {
			t.Fatal(err)
		}
		all = append(all, r)
	}
	return all
}

func TestLogHandler(t *testing.T) {
	t.Parallel()
	t.Run("is a handler", func(t *testing.T) {
		t.Parallel()
		var b *lockedBuffer
		slogtest.Run(t, func(*testing.T) slog.Handler {
			b = new(lockedBuffer)
			return perdure.LogHandler(slog.NewJSONHandler(b, nil))
		}, func(t *testing.T) map[string]any { return b.records(t)[0] })
	})
	t.Run("adds what the context says", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			var b lockedBuffer
			log := slog.New(perdure.LogHandler(slog.NewJSONHandler(&b, nil))).With("a", 1).WithGroup("g").With("b", 2)
			other := store.Key{Kind: "account", ID: "2"}
			kind := perdure.EventSourced("account",
				perdure.Decide(func(ctx context.Context, _ *testv1.Account, c *testv1.Deposit) (*perdure.Decision, error) {
					log.InfoContext(ctx, "rule", "c", 3)
					if perdure.Info(ctx).Key == other {
						return perdure.None().Enqueue(&testv1.Note{}), nil
					}
					return perdure.None().EnqueueTo(other, c), nil
				}),
				perdure.Answer(func(ctx context.Context, _ *testv1.Account, _ *testv1.GetBalance) (*testv1.Balance, error) {
					log.InfoContext(ctx, "answer")
					return &testv1.Balance{}, nil
				}),
				perdure.Evolve(onDeposited))
			e := openConfig(t, perdure.Config{
				Store: memory.New(), Kinds: []perdure.AnyKind{kind},
				Effects: []perdure.EffectRule{perdure.Perform(func(ctx context.Context, _ *testv1.Note) error {
					log.InfoContext(ctx, "handler")
					return nil
				})},
			})
			ref := kind.Ref(e, "1")
			trace := store.Metadata{TraceParent: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}
			if _, err := ref.Do(t.Context(), &testv1.Deposit{Amount: 1}, perdure.WithMetadata(trace)); err != nil {
				t.Fatal(err)
			}
			pass(time.Minute)
			if _, err := perdure.Query[*testv1.Balance](t.Context(), ref, &testv1.GetBalance{}); err != nil {
				t.Fatal(err)
			}
			log.InfoContext(t.Context(), "outside")
			r := b.records(t)
			if len(r) != 5 {
				t.Fatalf("got %d records, want 5: %v", len(r), r)
			}
			first, second := r[0]["command"], r[1]["command"]
			for i, want := range []map[string]any{
				{"msg": "rule", "entity": "account/1", "command": first, "correlation": first, "causation": nil},
				{"msg": "rule", "entity": "account/2", "command": second, "correlation": first, "causation": first},
				{"msg": "handler", "entity": "account/2", "effect": r[2]["effect"], "command": nil, "correlation": first, "causation": second},
				{"msg": "answer", "entity": "account/1", "command": nil, "correlation": nil, "causation": nil},
				{"msg": "outside", "entity": nil},
			} {
				for name, value := range want {
					if r[i][name] != value {
						t.Errorf("record %d: %s is %v, want %v: %v", i, name, r[i][name], value, r[i])
					}
				}
				if i < 3 && (r[i]["trace_id"] != "4bf92f3577b34da6a3ce929d0e0e4736" || r[i]["span_id"] != "00f067aa0ba902b7") {
					t.Errorf("record %d has no trace: %v", i, r[i])
				}
				if g, _ := r[i]["g"].(map[string]any); r[i]["a"] != 1.0 || g["b"] != 2.0 {
					t.Errorf("record %d has lost the attributes of its logger: %v", i, r[i])
				}
			}
			if first == nil || second == nil || first == second || r[2]["effect"] == nil {
				t.Errorf("ids: got %v, %v and %v", first, second, r[2]["effect"])
			}
		})
	})
}
