package ledger_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/perdure/perdure"
	"github.com/perdure/perdure/examples/library/ledger"
	"github.com/perdure/perdure/examples/library/library"
	libraryv1 "github.com/perdure/perdure/examples/library/proto/library/v1"
	"github.com/perdure/perdure/perduretest"
	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/bbolt"
	"github.com/perdure/perdure/store/memory"
)

// stores open an empty log of each sort.
var stores = map[string]func(testing.TB) store.Log{
	"memory": func(testing.TB) store.Log { return memory.New() },
	"shared": func(testing.TB) store.Log { return memory.New(memory.Shared(), memory.WithPartitions(3)) },
	"bbolt": func(t testing.TB) store.Log {
		log, err := bbolt.Open(filepath.Join(t.TempDir(), "library.db"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := log.Close(); err != nil {
				t.Error(err)
			}
		})
		return log
	},
}

// bring imports a ledger with an engine of its own.
func bring(ctx context.Context, t testing.TB, log store.Log, l *ledger.Ledger, o ledger.Options) (*ledger.Report, error) {
	t.Helper()
	engine, err := perdure.Open(ctx, perdure.Config{
		Store: log, Kinds: []perdure.AnyKind{library.Books, library.Readers},
		Effects: []perdure.EffectRule{perdure.Perform(func(context.Context, *libraryv1.WriteNotice) error { return nil })},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := engine.Close(context.WithoutCancel(ctx)); err != nil {
			t.Errorf("close the engine: %v", err)
		}
	}()
	return ledger.Import(ctx, engine, l, o)
}

// wantReport imports a ledger and compares the report with the one that replay makes.
func wantReport(t testing.TB, log store.Log, l *ledger.Ledger, o ledger.Options) *ledger.Report {
	t.Helper()
	r, err := bring(t.Context(), t, log, l, o)
	if err != nil {
		t.Fatalf("Import: %v", err)
	}
	if got, want := figures(t, r), figures(t, replay(l)); got != want {
		t.Errorf("report\n got %s\nwant %s", got, want)
	}
	return r
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

// replay computes the report of a ledger in another way: it sorts all operations in one list by the
// documented rule, and applies them to a table of books and borrowers.
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
		versions[loan.Book] = max(versions[loan.Book], 1)
		switch {
		case returns && out[loan.Book] == loan.ID:
			r.Returned++
			versions[loan.Book]++
			delete(out, loan.Book)
		case !returns && out[loan.Book] == "":
			r.Lent++
			versions[loan.Book]++
			out[loan.Book] = loan.ID
		case returns:
			r.ReturnRefused++
		default:
			r.LendRefused++
		}
	}
	r.Open, r.Entities, r.Registered, r.Rejected = len(out), len(versions), len(versions), len(l.Rejects)
	r.Commands = r.Registered + len(keys)
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

const smallLedger = header +
	"1,emma,Emma,Ada,1891-01-01,1891-01-10\n" +
	"2,emma,Emma,Basil,1891-01-05,1891-01-12\n" + // refused: emma is out
	"3,walden,Walden,Ada,1891-01-02,\n" +
	"4,walden,Walden,Cora,1891-01-03,1891-01-04\n" + // refused: walden is out, and stays out
	"5,faust,Faust,,1891-01-03,1891-01-04\n"

func TestImport(t *testing.T) {
	t.Parallel()
	for name, open := range stores {
		t.Run("does_what_the_ledger_says_and_nothing_twice_in_"+name, func(t *testing.T) {
			t.Parallel()
			log, l := open(t), chance(1, 2000, 40)
			first := wantReport(t, log, l, ledger.Options{Workers: 16, Expected: 24 * time.Hour})
			before, err := log.Heads(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			second := wantReport(t, log, l, ledger.Options{Expected: 24 * time.Hour})
			if after, err := log.Heads(t.Context()); err != nil || !slices.Equal(before, after) {
				t.Errorf("heads are %v, %v after the second import, want %v", after, err, before)
			}
			if first.Resumed != 0 || second.Resumed < int(second.Events) {
				t.Errorf("resumed %d and then %d commands, want 0 and at least %d", first.Resumed, second.Resumed, second.Events)
			}
		})
		t.Run("continues_where_it_was_stopped_in_"+name, func(t *testing.T) {
			t.Parallel()
			log, l := open(t), chance(3, 1500, 30)
			total := int64(l.Commands())
			for _, stop := range []int64{total / 10, total / 2, total * 9 / 10} {
				ctx, cancel := context.WithCancel(t.Context())
				var done atomic.Int64
				_, err := bring(ctx, t, log, l, ledger.Options{Workers: 4, Done: func(n int, _ bool) {
					if done.Add(int64(n)) >= stop {
						cancel()
					}
				}})
				if cancel(); !errors.Is(err, context.Canceled) {
					t.Errorf("an import that is stopped ends with %v, want %v", err, context.Canceled)
				}
			}
			var done, earlier atomic.Int64
			r := wantReport(t, log, l, ledger.Options{Done: func(n int, before bool) {
				done.Add(int64(n))
				if before {
					earlier.Add(int64(n))
				}
			}})
			if done.Load() != total || earlier.Load() != int64(r.Resumed) || r.Resumed < int(total)/2 {
				t.Errorf("Done was told of %d commands, %d of them earlier; want %d, and %d, at least half of them",
					done.Load(), earlier.Load(), total, r.Resumed)
			}
		})
	}
	t.Run("goes_on_with_a_ledger_that_has_grown", func(t *testing.T) {
		t.Parallel()
		log := memory.New()
		wantReport(t, log, read(t, smallLedger), ledger.Options{})
		wantReport(t, log, read(t, smallLedger+"6,emma,Emma,Dora,1891-03-01,1891-03-02\n7,candide,Candide,Dora,1890-03-01,\n"), ledger.Options{})
	})
	t.Run("leaves_a_log_alone_that_is_not_of_the_ledger", func(t *testing.T) {
		t.Parallel()
		for text, message := range map[string]string{
			"2,emma,Emma,Ada,1891-01-01,\n3,walden,Walden,Ada,1891-01-02,\n": "it holds library.v1.BookLent at version 2; the ledger makes BookLent{",
			"1,emma,Persuasion,Ada,1891-01-01,1891-01-10\n":                  "it holds library.v1.BookRegistered at version 1;",
			"1,emma,Emma,Ada,1891-01-01,\n9,new,New,Ada,1891-01-01,\n":       "the ledger makes no more",
		} {
			log := memory.New()
			wantReport(t, log, read(t, smallLedger), ledger.Options{})
			before, err := log.Heads(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			_, err = bring(t.Context(), t, log, read(t, header+text), ledger.Options{})
			if err == nil || !strings.Contains(err.Error(), "book/emma: the log is not of this ledger") || !strings.Contains(err.Error(), message) {
				t.Errorf("Import of %q = %v; want a mismatch of emma that says %q", text, err, message)
			}
			if after, err := log.Heads(t.Context()); err != nil || !slices.Equal(before, after) {
				t.Errorf("heads are %v, %v; want them where they were, %v", after, err, before)
			}
		}
	})
	t.Run("notices_a_book_that_another_program_has_changed", func(t *testing.T) {
		t.Parallel()
		log := memory.New(memory.Shared())
		rival, err := perdure.Open(t.Context(), perdure.Config{Store: log, Kinds: []perdure.AnyKind{library.Books, library.Readers}})
		if err != nil {
			t.Fatal(err)
		}
		l := read(t, header+"1,emma,Emma,Ada,1891-01-01,1891-01-10\n")
		_, err = bring(t.Context(), t, log, l, ledger.Options{Done: func(int, bool) {
			command := &libraryv1.LendBook{LoanId: "2", Borrower: "Basil", Date: timestamppb.New(l.Loans[0].ReturnedOn)}
			if _, err := library.Books.Ref(rival, "emma").Do(t.Context(), command); err != nil {
				t.Errorf("lend emma: %v", err)
			}
		}})
		if err == nil || !strings.Contains(err.Error(), "at version 4; the ledger makes Book{") {
			t.Errorf("Import = %v; want a mismatch at version 4", err)
		}
		if err := rival.Close(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	t.Run("beside_others_of_the_same_ledger_is_one", func(t *testing.T) {
		t.Parallel()
		log, l := memory.New(memory.Shared()), chance(4, 400, 15)
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				if r, err := bring(t.Context(), t, log, l, ledger.Options{}); err != nil || figures(t, r) != figures(t, replay(l)) {
					t.Errorf("Import = %+v, %v; want the report of the ledger", r, err)
				}
			})
		}
		wg.Wait()
	})
	t.Run("loses_and_doubles_nothing_in_a_store_that_fails", func(t *testing.T) {
		t.Parallel()
		for seed := range uint64(4) {
			faults := perduretest.NewFaults(stores[[]string{"bbolt", "memory"}[seed%2]](t))
			faults.Random(seed, perduretest.Rates{
				NotStored: 0.05, FailBefore: 0.05, FailAfter: 0.05, WrongResults: 0.02, ReadFailBefore: 0.02,
			})
			// If groups are large, there are few commits that the random faults can hit.
			faults.Next(perduretest.MethodCommit, perduretest.FailAfter(nil), perduretest.Pass(), perduretest.NotStored())
			l := chance(seed, 300, 12)
			var r *ledger.Report
			var err error
			for tries := 0; r == nil && tries < 100; tries++ {
				r, err = bring(t.Context(), t, faults.Log(), l, ledger.Options{Expected: 21 * 24 * time.Hour})
			}
			if r == nil || figures(t, r) != figures(t, replay(l)) {
				t.Errorf("seed %d: Import = %+v, %v; want the report of the ledger", seed, r, err)
			}
			if len(faults.Injected()) == 0 {
				t.Error("no fault was injected: the test tests nothing")
			}
		}
	})
	t.Run("continues_when_the_book_has_forgotten_the_keys", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			log, l := memory.New(), chance(6, 2000, 1)
			for i := range l.Loans { // an open loan would make the book refuse all later ones
				loan := &l.Loans[i]
				loan.Returned, loan.ReturnedOn = true, loan.LentOn.AddDate(0, 0, 1)
			}
			ctx, cancel := context.WithCancel(t.Context())
			done := 0
			if _, err := bring(ctx, t, log, l, ledger.Options{Done: func(n int, _ bool) {
				if done += n; done > l.Commands()*3/4 {
					cancel()
				}
			}}); !errors.Is(err, context.Canceled) {
				t.Errorf("an import that is stopped ends with %v, want %v", err, context.Canceled)
			}
			<-time.After(48 * time.Hour)
			if r := wantReport(t, log, l, ledger.Options{}); r.Events < 2000 || r.Resumed < l.Commands()/2 {
				t.Errorf("%d events, resumed %d; want more events than keys are kept, and half of the commands resumed", r.Events, r.Resumed)
			}
		})
	})
	t.Run("refuses_too_many_workers", func(t *testing.T) {
		t.Parallel()
		for _, workers := range []int{-1, ledger.WorkersMax + 1} {
			if _, err := bring(t.Context(), t, memory.New(), read(t, smallLedger), ledger.Options{Workers: workers}); !errors.Is(err, store.ErrInvalid) {
				t.Errorf("Import with %d workers = %v, want %v", workers, err, store.ErrInvalid)
			}
		}
	})
}

func TestEvents(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, rows string
		want       []string
	}{
		{
			"are_in_order_of_time", "2,emma,Emma,Basil,1891-02-01,1891-02-02\n1,emma,Emma,Ada,1891-01-01,1891-01-02\n",
			[]string{"BookRegistered 1 line 3", "BookLent 1 line 3", "BookReturned 1 line 3", "BookLent 2 line 2", "BookReturned 2 line 2"},
		},
		{
			"of_a_return_come_before_a_lending_at_the_same_time", "2,emma,Emma,Basil,1891-01-02,\n1,emma,Emma,Ada,1891-01-01,1891-01-02\n",
			[]string{"BookRegistered 1 line 3", "BookLent 1 line 3", "BookReturned 1 line 3", "BookLent 2 line 2"},
		},
		{
			"of_a_loan_that_ends_when_it_begins_come_before_the_next_row",
			"1,emma,Emma,Ada,1891-01-01,1891-01-01\n2,emma,Emma,Basil,1891-01-01,\n",
			[]string{"BookRegistered 1 line 2", "BookLent 1 line 2", "BookReturned 1 line 2", "BookLent 2 line 3"},
		},
		{
			"have_times_and_zones", "2,emma,Emma,Basil,1891-01-01T12:00:00+02:00,\n1,emma,Emma,Ada,1891-01-01 09:00,1891-01-01 10:00\n",
			[]string{"BookRegistered 1 line 3", "BookLent 1 line 3", "BookReturned 1 line 3", "BookLent 2 line 2"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			log := memory.New()
			wantReport(t, log, read(t, header+c.rows), ledger.Options{Source: "small.csv"})
			var got []string
			for e, err := range log.Read(t.Context(), store.Key{Kind: library.Books.Name(), ID: "emma"}, 0) {
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, fmt.Sprintf("%s %s line %s", e.Type[strings.LastIndexByte(e.Type, '.')+1:], e.Metadata.Correlation(), e.Metadata.Values["line"]))
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("events\n got %q\nwant %q\ninput %q", got, c.want, c.rows)
			}
		})
	}
}

// strashun opens a file of the borrowing ledgers of the Strashun library in Vilna. The files are
// not part of the repository: they are in the directory that PERDURE_STRASHUN names, or in the
// shared data beside the repository.
func strashun(t *testing.T, name string) *os.File {
	t.Helper()
	dir := os.Getenv("PERDURE_STRASHUN")
	if dir == "" {
		dir = filepath.Join("..", "..", "..", "..", "shared", "data", "strashun")
	}
	file, err := os.Open(filepath.Join(dir, name))
	if err != nil {
		t.Skipf("SKIPPED: the ledgers of the Strashun library are not there (%v); set PERDURE_STRASHUN to their directory", err)
	}
	t.Cleanup(func() { _ = file.Close() }) // it was only read
	return file
}

func TestLedgerOfTheStrashunLibrary(t *testing.T) {
	t.Parallel()
	columns := ledger.Columns{
		Book: "book_id", Loan: "loan_id", Borrower: "borrower_id", Lent: "lent_on", Returned: "returned_on", Title: "title_as_written",
	}
	l, err := ledger.Read(strashun(t, "loans.csv"), columns)
	if err != nil {
		t.Fatal(err)
	}
	var want ledger.Report
	if err := json.NewDecoder(strashun(t, "expected.json")).Decode(&want); err != nil {
		t.Fatal(err)
	}
	for name, open := range stores {
		r := wantReport(t, open(t), l, ledger.Options{})
		if got, want := figures(t, r), figures(t, &want); got != want {
			t.Errorf("report in %s\n got %s\nwant %s", name, got, want)
		}
	}
	skipped, err := ledger.Read(strashun(t, "skipped_rows.csv"), columns)
	if err != nil || len(skipped.Loans) != 0 || len(skipped.Rejects) != 369 {
		t.Errorf("Read of the skipped rows = %+v, %v; want 369 rejected rows and no loan", skipped, err)
	}
}

func BenchmarkImport(b *testing.B) {
	l := chance(1, 20_000, 600)
	for _, name := range []string{"memory", "bbolt"} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				wantReport(b, stores[name](b), l, ledger.Options{})
			}
			b.ReportMetric(float64(b.N*l.Commands())/b.Elapsed().Seconds(), "commands/s")
		})
	}
}

func BenchmarkRead(b *testing.B) {
	text := write(b, chance(1, 20_000, 600).Loans)
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ledger.Read(strings.NewReader(text), columns); err != nil {
			b.Fatal(err)
		}
	}
}
