package ledger_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/perdure/perdure"
	"github.com/perdure/perdure/examples/library/ledger"
	"github.com/perdure/perdure/examples/library/library"
	"github.com/perdure/perdure/examples/library/notice"
	libraryv1 "github.com/perdure/perdure/examples/library/proto/library/v1"
	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/bbolt"
	"github.com/perdure/perdure/store/memory"
)

// closing returns a log that the test closes at its end.
func closing(t testing.TB, log store.Log) store.Log {
	t.Cleanup(func() {
		if err := log.Close(); err != nil {
			t.Errorf("close the log: %v", err)
		}
	})
	return log
}

// inMemory returns an empty log in memory, which the test closes at its end.
func inMemory(t testing.TB, options ...memory.Option) store.Log {
	return closing(t, memory.New(options...))
}

// onFile returns an empty log in a file. The log is closed at the end of the test.
func onFile(t testing.TB) store.Log {
	t.Helper()
	log, err := bbolt.Open(filepath.Join(t.TempDir(), "library.db"))
	if err != nil {
		t.Fatal(err)
	}
	return closing(t, log)
}

// onEngine runs do with an engine of its own, and closes the engine when do returns.
func onEngine(t testing.TB, log store.Log, do func(*perdure.Engine)) {
	t.Helper()
	onEngineWith(t, log, notice.New(""), do)
}

// onEngineWith is onEngine with a file for the reminders.
func onEngineWith(t testing.TB, log store.Log, notices *notice.File, do func(*perdure.Engine)) {
	t.Helper()
	engine, err := perdure.Open(t.Context(), perdure.Config{
		Store: log, Kinds: []perdure.AnyKind{library.Books, library.Readers},
		Effects: []perdure.EffectRule{perdure.Perform(notices.Write)},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := engine.Close(context.WithoutCancel(t.Context())); err != nil {
			t.Errorf("close the engine: %v", err)
		}
	}()
	do(engine)
}

// settleMax bounds the wait for the outbox.
const settleMax = time.Minute

// settle waits until no message is pending. It is for ledgers whose loans were all due long
// ago.
func settle(t testing.TB, engine *perdure.Engine) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), settleMax)
	defer cancel()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		var first *store.Message
		for m, err := range engine.Pending(ctx) {
			if err != nil {
				t.Fatal(err)
			}
			first = m
			break
		}
		if first == nil {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("messages are pending after %v, first of them %d, %s of %v: %s",
				settleMax, first.Sequence, first.Type, first.Source, first.LastError)
		}
	}
}

// checkReaders compares the states of a ledger's readers with the events of the books.
func checkReaders(t testing.TB, log store.Log, l *ledger.Ledger) {
	t.Helper()
	out, lent := map[string]*libraryv1.BookLent{}, map[string]uint64{}
	heads, err := log.Heads(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for partition := range heads {
		for e, err := range log.Scan(t.Context(), store.Query{After: store.NewPosition(partition, 0)}) {
			if err != nil {
				t.Fatal(err)
			}
			if e.Type == "library.v1.BookReturned" {
				delete(out, e.Key.ID)
			}
			if e.Type != "library.v1.BookLent" {
				continue
			}
			event := new(libraryv1.BookLent)
			if err := proto.Unmarshal(e.Payload, event); err != nil {
				t.Fatal(err)
			}
			out[e.Key.ID] = event
			lent[event.GetBorrower()]++
		}
	}
	want := make(map[string][]string)
	for book, event := range out {
		want[event.GetBorrower()] = append(want[event.GetBorrower()], book+" on "+event.GetLoanId())
	}
	onEngine(t, log, func(engine *perdure.Engine) {
		settle(t, engine)
		for i := range l.Loans {
			name := l.Loans[i].Borrower
			reader, err := library.Readers.Ref(engine, name).State(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, o := range reader.GetOut() {
				got = append(got, o.GetBook()+" on "+o.GetLoan().GetId())
			}
			slices.Sort(got)
			slices.Sort(want[name])
			if !slices.Equal(got, want[name]) || reader.GetLent() != lent[name] {
				t.Errorf("%s has %q and was lent %d; want %q and %d", name, got, reader.GetLent(), want[name], lent[name])
			}
		}
	})
}

// bring imports a ledger with an engine of its own.
func bring(t testing.TB, log store.Log, l *ledger.Ledger, o ledger.Options) (report *ledger.Report, err error) {
	t.Helper()
	onEngine(t, log, func(engine *perdure.Engine) { report, err = ledger.Import(t.Context(), engine, l, o) })
	return report, err
}

// mustBring is bring for imports that must succeed.
func mustBring(t testing.TB, log store.Log, l *ledger.Ledger, o ledger.Options) *ledger.Report {
	t.Helper()
	report, err := bring(t, log, l, o)
	if err != nil {
		t.Fatalf("Import: %v", err)
	}
	return report
}

// figures returns the part of a report that must be the same after every run of an import.
func figures(t testing.TB, r *ledger.Report) string {
	t.Helper()
	c := *r
	c.Seconds = 0
	b, err := json.Marshal(&c)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// stores open an empty log of every store. They do not use package open, which would link
// all stores into the tests and into the fuzzed program.
var stores = map[string]func(testing.TB) store.Log{
	"memory": func(t testing.TB) store.Log { return inMemory(t) },
	"bbolt":  onFile,
	"shared": func(t testing.TB) store.Log {
		return inMemory(t, memory.Shared(), memory.WithPartitions(3))
	},
}

// fewer returns rows, or a quarter of it with -short.
func fewer(rows int) int {
	if testing.Short() {
		return rows / 4
	}
	return rows
}

// chance makes a random ledger with many refusals: loans of few books at few times.
func chance(seed uint64, rows, books int) *ledger.Ledger {
	random := rand.New(rand.NewPCG(seed, 0))
	l := new(ledger.Ledger)
	day := time.Date(1891, 1, 1, 0, 0, 0, 0, time.UTC)
	for i := range rows {
		loan := ledger.Loan{
			Line: i + 2, ID: fmt.Sprint("loan ", i), Book: fmt.Sprint("book ", random.IntN(books)),
			Borrower: fmt.Sprint("borrower ", random.IntN(100)), Title: "Any",
			LentOn: day.AddDate(0, 0, random.IntN(10*rows/books)), Returned: random.IntN(200) > 0,
		}
		if loan.Returned {
			loan.ReturnedOn = loan.LentOn.AddDate(0, 0, random.IntN(12))
		}
		l.Loans = append(l.Loans, loan)
	}
	return l
}

// replay computes the report of a ledger in another way: it sorts all operations in one
// list by the documented rule, and applies them to a table of books and borrowers.
func replay(l *ledger.Ledger) *ledger.Report {
	type key struct {
		at              time.Time
		class, row, sub int
	}
	var keys []key
	for i, loan := range l.Loans {
		keys = append(keys, key{loan.LentOn, 1, i, 0})
		if loan.Returned && loan.ReturnedOn.Equal(loan.LentOn) {
			keys = append(keys, key{loan.LentOn, 1, i, 1})
		} else if loan.Returned {
			keys = append(keys, key{loan.ReturnedOn, 0, i, 0})
		}
	}
	slices.SortFunc(keys, func(a, b key) int {
		for _, c := range []int{a.at.Compare(b.at), a.class - b.class, a.row - b.row, a.sub - b.sub} {
			if c != 0 {
				return c
			}
		}
		return 0
	})
	r := new(ledger.Report)
	versions, out := map[string]uint64{}, map[string]string{}
	for _, k := range keys {
		loan := &l.Loans[k.row]
		returns := k.class == 0 || k.sub == 1
		if versions[loan.Book] == 0 {
			versions[loan.Book]++
			r.Registered++
		}
		switch {
		case returns && out[loan.Book] == loan.ID:
			r.Returned++
			versions[loan.Book]++
			delete(out, loan.Book)
		case !returns && out[loan.Book] == "":
			r.Lent++
			versions[loan.Book]++
			out[loan.Book] = loan.ID
		default:
			r.Refusals = append(r.Refusals, ledger.Refusal{Loan: loan, Return: returns})
		}
	}
	r.Open, r.Entities, r.Rejected = len(out), len(versions), len(l.Rejects)
	var lines []string
	for book, v := range versions {
		r.Events += v
		r.Longest = max(r.Longest, v)
		lines = append(lines, fmt.Sprintf("%s:%d", book, v))
	}
	slices.Sort(lines)
	sum := sha256.Sum256([]byte(strings.Join(lines, "\n")))
	r.Digest = hex.EncodeToString(sum[:])
	return r
}
