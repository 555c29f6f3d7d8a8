package perduretest_test

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/perdure/perdure"
	testv1 "github.com/perdure/perdure/internal/testproto/perdure/test/v1"
	"github.com/perdure/perdure/perduretest"
	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/memory"
)

var recordAnew = flag.Bool("record", false, "record the states of the replay guard again")

const recording = "testdata/account.replay"

// replayed returns a kind with the rules of accounts, one of which a test replaces.
func replayed(rules ...perdure.Rule[*testv1.Account]) *perdure.Kind[*testv1.Account] {
	r := goodRules()
	if len(rules) == 0 {
		rules = append(rules, perdure.Evolve(r.onDeposited))
	}
	rules = append(
		rules,
		perdure.Decide(r.deposit),
		perdure.Evolve(func(a *testv1.Account, e *testv1.Opened) { a.Owner, a.OpenedAt = e.GetOwner(), e.GetAt() }),
		perdure.Evolve(func(a *testv1.Account, e *testv1.Annotated) { a.Notes = append(a.Notes, e.GetNote()) }),
	)
	return perdure.EventSourced("account", rules...).With(
		perdure.Upcast(func(e *testv1.DepositedV0) *testv1.Deposited { return &testv1.Deposited{Amount: 100 * e.GetUnits()} }),
	)
}

// lived returns a log with entities that have used all rules, one of them without its first
// events.
func lived(t testing.TB) *memory.Log {
	t.Helper()
	l := memory.New()
	id := byte(0)
	commit := func(name string, expected store.Version, state proto.Message, events ...proto.Message) {
		b := &store.Batch{Key: store.Key{Kind: "account", ID: name}, Expected: expected}
		for _, e := range events {
			payload, err := proto.Marshal(e)
			if err != nil {
				t.Fatal(err)
			}
			id++
			b.Events = append(b.Events, store.Event{ID: store.ID{id}, Type: string(e.ProtoReflect().Descriptor().FullName()), Payload: payload})
		}
		if state != nil {
			payload, err := proto.Marshal(state)
			if err != nil {
				t.Fatal(err)
			}
			b.Snapshot = &store.State{ID: store.ID{id, 1}, Type: "perdure.test.v1.Account", Payload: payload}
		}
		results, err := l.Commit(context.Background(), []*store.Batch{b})
		if err != nil || results[0].Err != nil {
			t.Fatalf("commit: %v %v", err, results)
		}
	}
	opened := &testv1.Opened{Owner: "ada", At: timestamppb.New(time.Date(2020, 1, 2, 3, 4, 5, 0, time.UTC))}
	commit("ada", 0, nil, opened, &testv1.DepositedV0{Units: 3}, &testv1.Deposited{Amount: 7})
	commit("ada", 3, nil, &testv1.Annotated{Note: &testv1.Note{Text: "twice"}}, &testv1.Annotated{Note: &testv1.Note{Text: "twice"}})
	commit("bob", 0, nil, &testv1.Deposited{Amount: 1}, &testv1.Deposited{Amount: 2}, &testv1.Deposited{Amount: 3})
	commit("bob", 3, &testv1.Account{Balance: 6, Operations: 3})
	commit("bob", 3, nil, &testv1.Deposited{Amount: 4})
	if _, err := l.DeleteEvents(context.Background(), store.Key{Kind: "account", ID: "bob"}, 4, store.LastPosition(0)); err != nil {
		t.Fatal(err)
	}
	return l
}

func TestStatesOfAccountsStayTheSame(t *testing.T) {
	t.Parallel()
	if *recordAnew {
		perduretest.RecordReplay(t, replayed(), recording, lived(t), "ada", "bob")
	}
	perduretest.ReplayGuard(t, replayed(), recording)
}

// guard returns the messages of the guard about a kind.
func guard(t *testing.T, kind *perdure.Kind[*testv1.Account], file string) string {
	t.Helper()
	said, _ := failures(t, func(r *record) { perduretest.ReplayGuard(r, kind, file) })
	return said
}

func TestFoldThatHasChangedIsNoticed(t *testing.T) {
	t.Parallel()
	calls := 0
	for _, c := range []struct {
		name string
		fold func(*testv1.Account, *testv1.Deposited)
		want string
	}{
		{"another sum", func(a *testv1.Account, e *testv1.Deposited) { a.Balance += 2 * e.GetAmount(); a.Operations++ }, "the state is another one than recorded"},
		{"another field", func(a *testv1.Account, e *testv1.Deposited) { a.Balance += e.GetAmount(); a.Owner = "x" }, "the state is another one than recorded"},
		{"nothing", func(*testv1.Account, *testv1.Deposited) {}, "the state is another one than recorded"},
		{"a panic", func(*testv1.Account, *testv1.Deposited) { panic("no") }, "panic: no"},
		{"a clock", func(a *testv1.Account, e *testv1.Deposited) {
			a.Balance += e.GetAmount()
			a.Operations++
			a.OpenedAt = timestamppb.New(time.Now())
		}, "makes another state of the same state and event"},
		{"a random number", func(a *testv1.Account, e *testv1.Deposited) {
			a.Balance += e.GetAmount() + rand.Int64N(1<<40)
			a.Operations++
		}, "makes another state of the same state and event"},
		{"the order of a map", func(a *testv1.Account, e *testv1.Deposited) {
			a.Balance += e.GetAmount()
			a.Operations++
			a.Notes = nil
			for k := range map[string]bool{"a": true, "b": true, "c": true, "d": true, "e": true, "f": true, "g": true, "h": true} {
				a.Notes = append(a.Notes, &testv1.Note{Text: k})
			}
		}, "makes another state of the same state and event"},
		{"a memory", func(a *testv1.Account, e *testv1.Deposited) {
			a.Balance += e.GetAmount()
			a.Operations++
			if calls++; calls > 4 {
				a.Owner = "x"
			}
		}, "version"},
		{"its event", func(a *testv1.Account, e *testv1.Deposited) {
			a.Balance += e.GetAmount()
			a.Operations++
			e.Amount = 0
		}, "has changed the event"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			said := guard(t, replayed(perdure.Evolve(c.fold)), recording)
			if !strings.Contains(said, c.want) {
				t.Errorf("guard: got %s\nwant %q", said, c.want)
			}
			for _, word := range []string{recording, "kind account, entity ", "version ", "event perdure.test.v1.Deposited"} {
				if !strings.Contains(said, word) {
					t.Errorf("guard: got %s\nwant it to name %q", said, word)
				}
			}
		})
	}
}

// recordingWithoutFold was made when fingerprints were one number.
const recordingWithoutFold = "testdata/account-without-fold.replay"

func TestReplayGuard(t *testing.T) {
	t.Parallel()
	const raise = "the fingerprint of kind account is the same: raise FoldVersion"
	fold := func(evolve func(a *testv1.Account, e *testv1.Deposited), options ...perdure.KindOption) *perdure.Kind[*testv1.Account] {
		return replayed(perdure.Evolve(func(a *testv1.Account, e *testv1.Deposited) {
			a.Balance += e.GetAmount()
			a.Operations++
			evolve(a, e)
		})).With(options...)
	}
	seven := func(a *testv1.Account, e *testv1.Deposited) { // no sample has that amount
		if e.GetAmount() == 7 {
			a.Owner = "x"
		}
	}
	doubled := func(a *testv1.Account, e *testv1.Deposited) { a.Balance += e.GetAmount() }
	added := perdure.Upcast(func(*testv1.DepositedV00) *testv1.DepositedV0 { return &testv1.DepositedV0{} })
	for name, c := range map[string]struct {
		kind    *perdure.Kind[*testv1.Account]
		changed bool
		raise   bool
	}{
		"is_quiet_where_nothing_has_changed":                        {fold(func(*testv1.Account, *testv1.Deposited) {}), false, false},
		"is_quiet_where_the_fingerprint_alone_has_changed":          {replayed().With(perdure.FoldVersion(3)), false, false},
		"is_quiet_about_additions":                                  {replayed().With(added), false, false},
		"says_that_a_change_is_in_no_fingerprint":                   {fold(seven), true, true},
		"does_not_say_so_of_a_change_that_is_in_it":                 {fold(doubled), true, false},
		"does_not_say_so_of_a_change_whose_version_has_been_raised": {fold(seven, perdure.FoldVersion(1)), true, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, file := range []string{recording, recordingWithoutFold} {
				said := guard(t, c.kind, file)
				if got := said != ""; got != c.changed {
					t.Errorf("%s: got %q, want something said: %v", file, said, c.changed)
				}
				if got := strings.Contains(said, raise); got != c.raise {
					t.Errorf("%s: got %q, want FoldVersion named: %v", file, said, c.raise)
				}
			}
		})
	}
	t.Run("names_rules_that_the_recording_never_reaches", func(t *testing.T) {
		t.Parallel()
		kind := perdure.EventSourced("account",
			perdure.Decide(goodRules().deposit), perdure.Evolve(goodRules().onDeposited),
			perdure.Evolve(func(a *testv1.Account, e *testv1.Opened) { a.Owner, a.OpenedAt = e.GetOwner(), e.GetAt() }),
			perdure.Evolve(func(a *testv1.Account, e *testv1.Annotated) { a.Notes = append(a.Notes, e.GetNote()) }),
			perdure.Evolve(func(*testv1.Account, *testv1.Withdrawn) {}),
		).With(
			perdure.Upcast(func(e *testv1.DepositedV0) *testv1.Deposited { return &testv1.Deposited{Amount: 100 * e.GetUnits()} }),
			perdure.Upcast(func(*testv1.DepositedV00) *testv1.DepositedV0 { return &testv1.DepositedV0{} }),
		)
		r := &logging{record: record{TB: t}}
		perduretest.ReplayGuard(r, kind, recording)
		const want = "no event of type perdure.test.v1.DepositedV00, perdure.test.v1.Withdrawn, so their rules are not guarded"
		if r.said.Len() > 0 || !strings.Contains(r.logged, want) {
			t.Errorf("got failures %q and log %q, want none and %q", r.said.String(), r.logged, want)
		}
	})
}

// A logging test keeps the logged text.
type logging struct {
	record
	logged string
}

func (l *logging) Logf(format string, args ...any) { l.logged += fmt.Sprintf(format, args...) + "\n" }

func TestEventWithoutARuleIsNoticed(t *testing.T) {
	t.Parallel()
	r := goodRules()
	kind := perdure.EventSourced("account", perdure.Decide(r.deposit), perdure.Evolve(r.onDeposited))
	if said := guard(t, kind, recording); !strings.Contains(said, "version 1, event perdure.test.v1.Opened: the kind has neither") {
		t.Errorf("guard: got %s", said)
	}
}

// TestFieldThatIsGoneIsNoticed records an event with a field that the message does not
// have, like a field that was renamed and got another number.
func TestFieldThatIsGoneIsNoticed(t *testing.T) {
	t.Parallel()
	l := memory.New()
	payload := protowire.AppendVarint(protowire.AppendTag(nil, 9, protowire.VarintType), 5)
	_, err := l.Commit(t.Context(), []*store.Batch{{
		Key: store.Key{Kind: "account", ID: "eve"}, Events: []store.Event{{ID: store.ID{1}, Type: "perdure.test.v1.Deposited", Payload: payload}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "eve.replay")
	if said, _ := failures(t, func(r *record) { perduretest.RecordReplay(r, replayed(), file, l, "eve") }); !strings.Contains(said, "number 9 of perdure.test.v1.Deposited") {
		t.Errorf("record: got %s", said)
	}
	line := `{"format":1,"kind":"account"}
{"id":"eve","version":1,"type":"perdure.test.v1.Deposited","payload":"SAU=","hash":"00"}
`
	if err := os.WriteFile(file, []byte(line), 0o600); err != nil {
		t.Fatal(err)
	}
	if said := guard(t, replayed(), file); !strings.Contains(said, "does not have any more: number 9 of perdure.test.v1.Deposited") {
		t.Errorf("guard: got %s", said)
	}
}

func TestStatesAreRecordedAnewWithoutALog(t *testing.T) {
	t.Parallel()
	whole, err := os.ReadFile(recording)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "account.replay")
	if err := os.WriteFile(file, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	changed := replayed(perdure.Evolve(func(a *testv1.Account, e *testv1.Deposited) { a.Balance -= e.GetAmount() }))
	if guard(t, changed, file) == "" {
		t.Error("guard: got nothing for a changed fold")
	}
	perduretest.RecordReplay(t, changed, file, nil)
	perduretest.ReplayGuard(t, changed, file)
	perduretest.RecordReplay(t, replayed(), file, nil)
	again, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if string(again) != string(whole) {
		t.Errorf("recording: got\n%s\nwant\n%s", again, whole)
	}
}

func TestRecordingOfAnotherTestIsReported(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"":                                 "unexpected end of JSON input",
		`{"format":2,"kind":"account"}`:    "of format 2",
		`{"format":1,"kind":"other"}`:      `of kind "other"`,
		`{"format":1,"kind":"account"}`:    "of nothing",
		"{\"format\":1,\"kind\":\"a\"}\n!": "line 2",
	} {
		file := filepath.Join(t.TempDir(), "x.replay")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if said := guard(t, replayed(), file); !strings.Contains(said, want) {
			t.Errorf("guard of %q: got %s, want %q", text, said, want)
		}
	}
}

func ExampleReplayGuard() {
	t := printer{}
	// Recorded by: perduretest.RecordReplay(t, accounts, "testdata/account.replay", log, "ada", "bob")
	accounts := replayed()

	perduretest.ReplayGuard(t, accounts, "testdata/account.replay")
	fmt.Println("ada and bob are what they were")
	// Output: ada and bob are what they were
}

// FuzzReplayGuard reads recordings with arbitrary content.
func FuzzReplayGuard(f *testing.F) {
	whole, err := os.ReadFile(recording)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	f.Add([]byte("{\"format\":1,\"kind\":\"account\"}\n{\"id\":\"a\",\"version\":1,\"snapshot\":true,\"type\":\"perdure.test.v1.Account\"}\n"))
	f.Add([]byte("{\"format\":1,\"kind\":\"account\"}\n{}\n{}\n"))
	kind := replayed()
	f.Fuzz(func(t *testing.T, b []byte) {
		file := filepath.Join(t.TempDir(), "x.replay")
		if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
		said, _ := failures(t, func(r *record) { perduretest.ReplayGuard(r, kind, file) })
		if said == "" && !strings.HasPrefix(string(b), "{") {
			t.Errorf("guard of %q: got nothing", b)
		}
	})
}
