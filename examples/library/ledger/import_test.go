package ledger_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/perdure/perdure"
	"github.com/perdure/perdure/examples/library/ledger"
	"github.com/perdure/perdure/examples/library/library"
	"github.com/perdure/perdure/examples/library/notice"
	libraryv1 "github.com/perdure/perdure/examples/library/proto/library/v1"
	"github.com/perdure/perdure/perduretest"
	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/memory"
)

// story returns one word for each event of a book.
func story(t *testing.T, log store.Log, book string) []string {
	t.Helper()
	var words []string
	for e, err := range log.Read(t.Context(), store.Key{Kind: library.Books.Name(), ID: book}, 0) {
		if err != nil {
			t.Fatal(err)
		}
		word := e.Type[strings.LastIndexByte(e.Type, '.')+1:]
		if e.Version > 1 {
			word += " " + e.Metadata.Correlation()
		}
		words = append(words, word)
	}
	return words
}

func TestWhatHappensToABookHappensInTheOrderOfTheDesk(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, rows string
		want       []string
	}{
		{
			"by time, not by row",
			"2,emma,Emma,Basil,1891-02-01,1891-02-02\n1,emma,Emma,Ada,1891-01-01,1891-01-02\n",
			[]string{"BookRegistered", "BookLent 1", "BookReturned 1", "BookLent 2", "BookReturned 2"},
		},
		{
			"a return comes before a lending at the same time",
			"2,emma,Emma,Basil,1891-01-02,\n1,emma,Emma,Ada,1891-01-01,1891-01-02\n",
			[]string{"BookRegistered", "BookLent 1", "BookReturned 1", "BookLent 2"},
		},
		{
			"a loan that ends when it begins ends before the next row",
			"1,emma,Emma,Ada,1891-01-01,1891-01-01\n2,emma,Emma,Basil,1891-01-01,1891-01-01\n3,emma,Emma,Cora,1891-01-01,\n",
			[]string{"BookRegistered", "BookLent 1", "BookReturned 1", "BookLent 2", "BookReturned 2", "BookLent 3"},
		},
		{
			"one time is by row",
			"2,emma,Emma,Basil,1891-01-01,\n1,emma,Emma,Ada,1891-01-01,\n",
			[]string{"BookRegistered", "BookLent 2"},
		},
		{
			"times of one day are apart, and zones are minded",
			"2,emma,Emma,Basil,1891-01-01T12:00:00+02:00,\n1,emma,Emma,Ada,1891-01-01 09:00,1891-01-01 10:00\n",
			[]string{"BookRegistered", "BookLent 1", "BookReturned 1", "BookLent 2"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			log := inMemory(t)
			mustBring(t, log, read(t, header+c.rows), ledger.Options{})
			if got := story(t, log, "emma"); !slices.Equal(got, c.want) {
				t.Errorf("events\n got %q\nwant %q\ninput %q", got, c.want, c.rows)
			}
		})
	}
}

const smallLedger = header +
	"1,emma,Emma,Ada,1891-01-01,1891-01-10\n" +
	"2,emma,Emma,Basil,1891-01-05,1891-01-12\n" + // refused: emma is out
	"3,walden,Walden,Ada,1891-01-02,\n" +
	"4,walden,Walden,Cora,1891-01-03,1891-01-04\n" + // refused: walden is out, and stays out
	"5,faust,Faust,,1891-01-03,1891-01-04\n"

func TestAReportSumsUpTheBooks(t *testing.T) {
	t.Parallel()
	for name, open := range stores {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			log := open(t)
			r := mustBring(t, log, read(t, smallLedger), ledger.Options{})
			const want = `{"registered":2,"lent":2,"returned":1,"lend_refused":2,"return_refused":2,"commands":9,"events":5,` +
				`"open":1,"entities":2,"longest":3,"digest":"%s","rejected_rows":1,"seconds":0}`
			sum := sha256.Sum256([]byte("emma:3\nwalden:2"))
			if got, want := figures(t, r), fmt.Sprintf(want, hex.EncodeToString(sum[:])); got != want {
				t.Errorf("report\n got %s\nwant %s", got, want)
			}
			var got []string
			for i := range r.Refusals {
				reason, _ := library.ReasonOf(r.Refusals[i].Err)
				got = append(got, fmt.Sprintf("%s %s %v", library.Day(r.Refusals[i].At()), r.Refusals[i].Loan.ID, reason))
			}
			refusals := []string{
				"1891-01-03 4 REASON_ALREADY_LENT", "1891-01-04 4 REASON_OTHER_LOAN",
				"1891-01-05 2 REASON_ALREADY_LENT", "1891-01-12 2 REASON_NOT_LENT",
			}
			if !slices.Equal(got, refusals) {
				t.Errorf("refusals\n got %q\nwant %q", got, refusals)
			}
		})
	}
}

func TestEveryEventSaysWhereItComesFrom(t *testing.T) {
	t.Parallel()
	log := inMemory(t)
	mustBring(t, log, read(t, smallLedger), ledger.Options{Source: "small.csv", Expected: 21 * 24 * time.Hour})
	var got []string
	for e, err := range log.Read(t.Context(), store.Key{Kind: library.Books.Name(), ID: "walden"}, 0) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, fmt.Sprintf("%s %v %v", e.Metadata.Correlation(), e.Metadata.Values, e.Tags))
		if lent := new(libraryv1.BookLent); e.Version == 2 {
			if err := proto.Unmarshal(e.Payload, lent); err != nil || lent.GetExpected().AsDuration() != 21*24*time.Hour {
				t.Errorf("event 2 is %v, %v; want it to expect 21 days", lent, err)
			}
		}
	}
	want := []string{"3 map[ledger:small.csv line:4] []", "3 map[ledger:small.csv line:4] [borrower:Ada]"}
	if !slices.Equal(got, want) {
		t.Errorf("events\n got %q\nwant %q", got, want)
	}
}

func TestAnImportIsWhatAReplayOnPaperGives(t *testing.T) {
	t.Parallel()
	for name, open := range stores {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			log := open(t)
			l := chance(1, fewer(3000), 40)
			r := mustBring(t, log, l, ledger.Options{Workers: 16})
			if got, want := figures(t, r), figures(t, replay(l)); got != want {
				t.Errorf("report\n got %s\nwant %s", got, want)
			}
		})
	}
}

func TestASecondImportChangesNothing(t *testing.T) {
	t.Parallel()
	for name, open := range stores {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			log := open(t)
			l := chance(2, 500, 20)
			first := mustBring(t, log, l, ledger.Options{})
			before, err := log.Heads(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			second := mustBring(t, log, l, ledger.Options{})
			after, err := log.Heads(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if figures(t, first) != figures(t, second) || first.Resumed != 0 || second.Resumed < int(second.Events) {
				t.Errorf("second import\n got %s, resumed %d\nwant %s, resumed 0 and then at least all %d events",
					figures(t, second), second.Resumed, figures(t, first), first.Events)
			}
			if !slices.Equal(before, after) {
				t.Errorf("heads are %v after the second import, want %v", after, before)
			}
		})
	}
}

func TestAnImportGoesOnWhereAnEarlierOneWasStopped(t *testing.T) {
	t.Parallel()
	for name, open := range stores {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			log := open(t)
			l := chance(3, fewer(2000), 30)
			total := int64(l.Operations())
			for _, stop := range []int64{total / 10, total / 2, total * 9 / 10} {
				ctx, cancel := context.WithCancel(t.Context())
				var done atomic.Int64
				onEngine(t, log, func(engine *perdure.Engine) {
					_, err := ledger.Import(ctx, engine, l, ledger.Options{Workers: 4, Done: func(n int, _ bool) {
						if done.Add(int64(n)) >= stop {
							cancel()
						}
					}})
					if !errors.Is(err, context.Canceled) {
						t.Errorf("an import that is stopped ends with %v, want %v", err, context.Canceled)
					}
				})
				cancel()
			}
			var done, earlier atomic.Int64
			r := mustBring(t, log, l, ledger.Options{Done: func(n int, before bool) {
				done.Add(int64(n))
				if before {
					earlier.Add(int64(n))
				}
			}})
			if got, want := figures(t, r), figures(t, replay(l)); got != want {
				t.Errorf("report\n got %s\nwant %s", got, want)
			}
			if done.Load() != total || earlier.Load() != int64(r.Resumed) || r.Resumed < int(total)/2 || r.Commands() != int(total) {
				t.Errorf("Done was told of %d commands, %d of them earlier; the report says %d and %d; want %d and at least half of them",
					done.Load(), earlier.Load(), r.Commands(), r.Resumed, total)
			}
		})
	}
}

func TestALedgerThatHasGrownIsImportedFurther(t *testing.T) {
	t.Parallel()
	log := inMemory(t)
	mustBring(t, log, read(t, smallLedger), ledger.Options{})
	l := read(t, smallLedger+"6,emma,Emma,Dora,1891-03-01,1891-03-02\n7,candide,Candide,Dora,1890-03-01,\n")
	r := mustBring(t, log, l, ledger.Options{})
	if got, want := figures(t, r), figures(t, replay(l)); got != want {
		t.Errorf("report\n got %s\nwant %s", got, want)
	}
}

func TestALogThatIsNotOfTheLedgerIsLeftAlone(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, ledger, message string }{
		{
			"another loan", header + "2,emma,Emma,Ada,1891-01-01,\n3,walden,Walden,Ada,1891-01-02,\n",
			`book/emma: the log is not of this ledger: it holds event 2, BookLent{`,
		},
		{
			"another title", header + "1,emma,Persuasion,Ada,1891-01-01,1891-01-10\n",
			`it holds event 1, BookRegistered{`,
		},
		{
			"a shorter ledger", header + "1,emma,Emma,Ada,1891-01-01,\n9,another,Another,Ada,1891-01-01,\n",
			"the ledger makes no more",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			log := inMemory(t)
			mustBring(t, log, read(t, smallLedger), ledger.Options{})
			before, err := log.Heads(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			_, err = bring(t, log, read(t, c.ledger), ledger.Options{})
			var mismatch *ledger.MismatchError
			if !errors.As(err, &mismatch) || mismatch.Key.ID != "emma" || !strings.Contains(err.Error(), c.message) {
				t.Errorf("Import = %v; want a MismatchError of emma that says %q", err, c.message)
			}
			if after, err := log.Heads(t.Context()); err != nil || !slices.Equal(before, after) {
				t.Errorf("heads are %v, %v; want them where they were, %v", after, err, before)
			}
		})
	}
}

func TestABookThatMovesOnBehindTheImportIsNoticed(t *testing.T) {
	t.Parallel()
	log := inMemory(t, memory.Shared())
	l := read(t, header+"1,emma,Emma,Ada,1891-01-01,1891-01-10\n")
	onEngine(t, log, func(rival *perdure.Engine) {
		_, err := bring(t, log, l, ledger.Options{Done: func(int, bool) {
			command := &libraryv1.LendBook{LoanId: "2", Borrower: "Basil", Date: timestamppb.New(l.Loans[0].ReturnedOn)}
			if _, err := library.Books.Ref(rival, "emma").Do(t.Context(), command); err != nil {
				t.Errorf("lend emma: %v", err)
			}
		}})
		var mismatch *ledger.MismatchError
		if !errors.As(err, &mismatch) || !strings.HasPrefix(mismatch.Stored, "version 4") || !strings.HasPrefix(mismatch.Want, "version 3") {
			t.Errorf("Import = %v; want a MismatchError of version 4 where the ledger makes version 3", err)
		}
	})
}

func TestImportsOfOneLedgerSideBySideAreOne(t *testing.T) {
	t.Parallel()
	log := inMemory(t, memory.Shared())
	l := chance(4, 400, 15)
	want := figures(t, replay(l))
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			r, err := bring(t, log, l, ledger.Options{})
			if err != nil {
				t.Errorf("Import: %v", err)
				return
			}
			if got := figures(t, r); got != want {
				t.Errorf("report\n got %s\nwant %s", got, want)
			}
		})
	}
	wg.Wait()
}

func TestNoCommandIsLostOrDoubledByAStoreThatFails(t *testing.T) {
	t.Parallel()
	for seed := range uint64(6) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			open := stores["memory"]
			if seed%2 == 0 {
				open = stores["bbolt"]
			}
			log := open(t)
			faults := perduretest.NewFaults(log)
			faults.Random(seed, perduretest.Rates{
				NotStored: 0.05, FailBefore: 0.05, FailAfter: 0.05, WrongResults: 0.02, ReadFailBefore: 0.02,
			})
			// If groups are large, there are few commits that the random faults can hit. On a
			// busy machine one commit may hold the whole import.
			faults.Next(perduretest.MethodCommit, perduretest.FailAfter(nil), perduretest.Pass(), perduretest.NotStored())
			l := chance(seed, 300, 12)
			notices := notice.New("")
			var r *ledger.Report
			for tries := 0; r == nil; tries++ {
				onEngineWith(t, faults.Log(), notices, func(engine *perdure.Engine) {
					var err error
					r, err = ledger.Import(t.Context(), engine, l, ledger.Options{Expected: 21 * 24 * time.Hour})
					if err != nil && tries == 100 {
						t.Fatalf("after %d tries: %v", tries, err)
					}
				})
			}
			if got, want := figures(t, r), figures(t, replay(l)); got != want {
				t.Errorf("report\n got %s\nwant %s", got, want)
			}
			onEngineWith(t, log, notices, func(engine *perdure.Engine) { settle(t, engine) })
			checkReaders(t, log, l)
			checkNotices(t, notices, r)
			if len(faults.Injected()) == 0 {
				t.Error("no fault was injected: the test tests nothing")
			}
		})
	}
}

// checkNotices compares the reminders with the loans that are open.
func checkNotices(t *testing.T, notices *notice.File, r *ledger.Report) {
	t.Helper()
	all, err := notices.All()
	if err != nil {
		t.Fatal(err)
	}
	loans := make(map[string]bool)
	for _, n := range all {
		loans[n.Loan] = true
	}
	if len(all) != r.Open || len(loans) != r.Open {
		t.Errorf("%d reminders of %d loans, want one for each of the %d that are open", len(all), len(loans), r.Open)
	}
}

func TestBorrowersAreRemindedOfWhatTheLedgerLeavesOpen(t *testing.T) {
	t.Parallel()
	for name, open := range stores {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			log, notices, l := open(t), notice.New(""), chance(5, fewer(2000), 60)
			var first *ledger.Report
			for run := range 2 {
				onEngineWith(t, log, notices, func(engine *perdure.Engine) {
					r, err := ledger.Import(t.Context(), engine, l, ledger.Options{Expected: 21 * 24 * time.Hour})
					if err != nil {
						t.Fatal(err)
					}
					settle(t, engine)
					if first == nil {
						first = r
					}
					if got, want := figures(t, r), figures(t, replay(l)); got != want || r.Open == 0 {
						t.Errorf("report of run %d\n got %s\nwant %s, with open loans", run, got, want)
					}
				})
				checkNotices(t, notices, first)
			}
			checkReaders(t, log, l)
		})
	}
}

func TestNobodyIsRemindedIfNothingIsSaidOfHowLongALoanLasts(t *testing.T) {
	t.Parallel()
	log, notices := inMemory(t), notice.New("")
	onEngineWith(t, log, notices, func(engine *perdure.Engine) {
		if _, err := ledger.Import(t.Context(), engine, read(t, smallLedger), ledger.Options{}); err != nil {
			t.Fatal(err)
		}
		settle(t, engine)
	})
	checkNotices(t, notices, new(ledger.Report))
}

func TestEveryCommandIsSentUnderItsOwnKey(t *testing.T) {
	t.Parallel()
	log := inMemory(t)
	mustBring(t, log, read(t, smallLedger), ledger.Options{})
	var got []string
	for r, err := range log.(store.Receipts).Receipts(t.Context(), store.Key{Kind: library.Books.Name(), ID: "emma"}) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, fmt.Sprintf("%s %v %d", r.Name, r.Refusal != nil, r.Version))
	}
	want := []string{"1/lend false 2", "1/register false 1", "1/return false 3", "2/lend true 2", "2/return true 3"}
	if !slices.Equal(got, want) {
		t.Errorf("keys of emma, refused or not, and versions\n got %q\nwant %q", got, want)
	}
}

// Defaults of [perdure.KeepReceipts].
const (
	receiptsMax = 1000
	receiptsFor = 24 * time.Hour
)

func TestAnImportGoesOnWhenTheBookHasForgottenTheKeys(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		log := inMemory(t)
		l := chance(6, 2*receiptsMax, 1)
		for i := range l.Loans { // an open loan would make the book refuse all later ones
			loan := &l.Loans[i]
			loan.Returned, loan.ReturnedOn = true, loan.LentOn.AddDate(0, 0, 1)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := 0
		onEngine(t, log, func(engine *perdure.Engine) {
			_, err := ledger.Import(ctx, engine, l, ledger.Options{Done: func(n int, _ bool) {
				if done += n; done > l.Operations()*3/4 {
					cancel()
				}
			}})
			if !errors.Is(err, context.Canceled) {
				t.Errorf("an import that is stopped ends with %v, want %v", err, context.Canceled)
			}
		})
		<-time.After(2 * receiptsFor)
		r := mustBring(t, log, l, ledger.Options{})
		if got, want := figures(t, r), figures(t, replay(l)); got != want || r.Events < 2*receiptsMax || r.Resumed < l.Operations()/2 {
			t.Errorf("report\n got %s, resumed %d\nwant %s, with more events than keys are kept, and half of it resumed", got, r.Resumed, want)
		}
	})
}

func TestTooManyWorkersAreRefused(t *testing.T) {
	t.Parallel()
	for _, workers := range []int{-1, ledger.WorkersMax + 1} {
		if _, err := bring(t, inMemory(t), read(t, smallLedger), ledger.Options{Workers: workers}); !errors.Is(err, store.ErrInvalid) {
			t.Errorf("Import with %d workers = %v, want %v", workers, err, store.ErrInvalid)
		}
	}
}

func BenchmarkImport(b *testing.B) {
	l := chance(1, 20_000, 600)
	for _, name := range []string{"memory", "bbolt"} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				mustBring(b, stores[name](b), l, ledger.Options{})
			}
			b.ReportMetric(float64(b.N*l.Operations())/b.Elapsed().Seconds(), "commands/s")
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
