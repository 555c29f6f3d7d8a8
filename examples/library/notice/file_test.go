package notice_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/perdure/perdure"
	"github.com/perdure/perdure/examples/library/library"
	"github.com/perdure/perdure/examples/library/notice"
	libraryv1 "github.com/perdure/perdure/examples/library/proto/library/v1"
	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/memory"
)

// A lib runs books that write their reminders to a file.
type lib struct {
	log   *memory.Log
	file  *notice.File
	lost  int // for each message, the number of first answers of the file that are lost
	mu    sync.Mutex
	tries map[store.ID]int
}

// perform writes a notice, and reports a failure for the first attempts.
func (l *lib) perform(ctx context.Context, m *libraryv1.WriteNotice) error {
	if err := l.file.Write(ctx, m); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	id := perdure.EffectInfoFrom(ctx).ID
	if l.tries[id]++; l.tries[id] <= l.lost {
		return errors.New("the answer is lost")
	}
	return nil
}

// run opens an engine, calls do, and closes the engine when it has no more work.
func (l *lib) run(t *testing.T, do func(*perdure.Engine)) {
	t.Helper()
	engine, err := perdure.Open(t.Context(), perdure.Config{
		Store: l.log, Kinds: []perdure.AnyKind{library.Books, library.Readers},
		Effects: []perdure.EffectRule{perdure.Perform(l.perform, perdure.RetryPolicy{MaxAttempts: 5})},
	})
	if err != nil {
		t.Fatal(err)
	}
	do(engine)
	<-time.After(time.Hour) // longer than all attempts take
	synctest.Wait()
	if err := engine.Close(context.WithoutCancel(t.Context())); err != nil {
		t.Fatal(err)
	}
}

// title has characters that a file of lines and tabs cannot contain.
const title = "Moby-Dick;\tor,\nThe Whale"

// lend lends the given number of books, all of which are overdue at once.
func lend(t *testing.T, engine *perdure.Engine, books int) {
	t.Helper()
	lent := timestamppb.New(time.Date(1891, 1, 5, 0, 0, 0, 0, time.UTC))
	for i := range books {
		book := library.Books.Ref(engine, fmt.Sprint("book ", i))
		if _, err := book.Do(t.Context(), &libraryv1.RegisterBook{Title: title}); err != nil {
			t.Fatal(err)
		}
		if _, err := book.Do(t.Context(), &libraryv1.LendBook{
			LoanId: fmt.Sprint(i), Borrower: "Ada", Date: lent, Expected: durationpb.New(21 * 24 * time.Hour),
		}); err != nil {
			t.Fatal(err)
		}
	}
}

// check reads a file again and expects one notice of each book.
func check(t *testing.T, f *notice.File, books int) {
	t.Helper()
	all, err := f.All()
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[string]notice.Notice)
	for _, n := range all {
		got[n.Book] = n
	}
	if len(all) != books || len(got) != books {
		t.Errorf("%d notices of %d books, want one of each of %d", len(all), len(got), books)
	}
	for i := range books {
		name := fmt.Sprint("book ", i)
		want := notice.Notice{
			ID: got[name].ID, Due: "1891-01-26", LentOn: "1891-01-05", Book: name, Loan: fmt.Sprint(i),
			Borrower: "Ada", Title: "Moby-Dick; or, The Whale",
		}
		if got[name] != want || want.ID.IsZero() {
			t.Errorf("notice of %s\n got %+v\nwant %+v, with an id", name, got[name], want)
		}
	}
}

func fileName(t *testing.T) string { return filepath.Join(t.TempDir(), "notices.txt") }

func TestAMessageThatIsPerformedAgainWritesNothing(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"", fileName(t)} {
		synctest.Test(t, func(t *testing.T) {
			const books, lost = 20, 3
			l := &lib{log: memory.New(), file: notice.New(name), lost: lost, tries: make(map[store.ID]int)}
			l.run(t, func(engine *perdure.Engine) { lend(t, engine, books) })
			check(t, l.file, books)
			if err := l.file.Close(); err != nil {
				t.Error(err)
			}
			for id, n := range l.tries {
				if n != lost+1 {
					t.Errorf("message %v was performed %d times, want %d", id, n, lost+1)
				}
			}
			if name != "" {
				check(t, notice.New(name), books)
			}
		})
	}
}

// TestAFileThatWasCutShortIsMadeWhole tries every length at which a crash may cut the file,
// with the messages still in the outbox.
func TestAFileThatWasCutShortIsMadeWhole(t *testing.T) {
	t.Parallel()
	name := fileName(t)
	synctest.Test(t, func(t *testing.T) {
		const books = 2
		kept := memory.New()
		first := &lib{log: kept, file: notice.New(name), tries: make(map[store.ID]int), lost: 100}
		first.run(t, func(engine *perdure.Engine) { lend(t, engine, books) })
		if err := first.file.Close(); err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for size := range len(text) {
			torn := text[:size]
			if size > len(text)/2 { // the remains are longer than the line that replaces them
				torn = append(torn[:size:size], strings.Repeat("x", len(text))...)
			}
			if err := os.WriteFile(name, torn, 0o600); err != nil {
				t.Fatal(err)
			}
			l := &lib{log: kept, file: notice.New(name), tries: make(map[store.ID]int), lost: 100}
			l.run(t, func(engine *perdure.Engine) {
				for m, err := range engine.Parked(t.Context()) {
					if err != nil {
						t.Fatal(err)
					}
					if err := engine.Unpark(t.Context(), m.Sequence, nil); err != nil {
						t.Fatal(err)
					}
				}
			})
			check(t, l.file, books)
			if err := l.file.Close(); err != nil {
				t.Fatal(err)
			}
			if again, err := os.ReadFile(name); err != nil || len(again) != len(text) {
				t.Errorf("file holds %q, %v; want the same lines as %q", again, err, text)
			}
			if t.Failed() {
				t.Fatalf("after %d of %d bytes: %q", size, len(text), torn)
			}
		}
	})
}

func TestAFileOfSomethingElseIsLeftAloneAndTheMessageParked(t *testing.T) {
	t.Parallel()
	const text = "loan_id,book_id\n1,emma"
	foreign := fileName(t)
	if err := os.WriteFile(foreign, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{foreign, t.TempDir()} {
		synctest.Test(t, func(t *testing.T) {
			l := &lib{log: memory.New(), file: notice.New(name)}
			l.run(t, func(engine *perdure.Engine) {
				lend(t, engine, 1)
				synctest.Wait() // do not wait for further attempts
				var errs []string
				for m, err := range engine.Parked(t.Context()) {
					if err != nil {
						t.Fatal(err)
					}
					errs = append(errs, m.LastError)
				}
				if len(errs) != 1 || !strings.Contains(errs[0], notice.ErrForeign.Error()) {
					t.Errorf("%s: parked with %q, want one message with %v", name, errs, notice.ErrForeign)
				}
			})
			if _, err := l.file.All(); !errors.Is(err, notice.ErrForeign) {
				t.Errorf("%s: All: %v, want %v", name, err, notice.ErrForeign)
			}
		})
	}
	if got, err := os.ReadFile(foreign); err != nil || string(got) != text {
		t.Errorf("file holds %q, %v; want it as it was, %q", got, err, text)
	}
}

func TestLinesThatSomebodyHasPutInAreKept(t *testing.T) {
	t.Parallel()
	name := fileName(t)
	synctest.Test(t, func(t *testing.T) {
		l := &lib{log: memory.New(), file: notice.New(name), tries: make(map[store.ID]int)}
		l.run(t, func(engine *perdure.Engine) { lend(t, engine, 1) })
		if err := l.file.Close(); err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		const note = "Ada has said that she will bring it on Monday.\n"
		if err := os.WriteFile(name, append(text, note...), 0o600); err != nil {
			t.Fatal(err)
		}
		again := &lib{log: memory.New(), file: notice.New(name), tries: make(map[store.ID]int)}
		again.run(t, func(engine *perdure.Engine) { lend(t, engine, 1) })
		all, err := again.file.All()
		if err != nil || len(all) != 2 {
			t.Errorf("All = %v, %v; want two notices", all, err)
		}
		if err := again.file.Close(); err != nil {
			t.Error(err)
		}
		if got, err := os.ReadFile(name); err != nil || !strings.HasPrefix(string(got), string(text)+note) {
			t.Errorf("file holds %q, %v; want it to begin with %q", got, err, string(text)+note)
		}
	})
}

func TestAFileIsMadeWithTheFirstNotice(t *testing.T) {
	t.Parallel()
	name := fileName(t)
	f := notice.New(name)
	if all, err := f.All(); err != nil || len(all) != 0 {
		t.Errorf("All = %v, %v; want none", all, err)
	}
	if _, err := os.Stat(name); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Stat: %v; want %v", err, fs.ErrNotExist)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
}
