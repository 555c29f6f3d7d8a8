package notice_test

import (
	"context"
	"errors"
	"fmt"
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
	"github.com/perdure/perdure/store/memory"
)

// remind lends overdue books, whose effects fail after their first write: the engine performs each
// of them twice.
func remind(t *testing.T, f *notice.File, titles ...string) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		tries := make(map[string]int)
		engine, err := perdure.Open(t.Context(), perdure.Config{
			Store: memory.New(), Kinds: []perdure.AnyKind{library.Books, library.Readers},
			Effects: []perdure.EffectRule{perdure.Perform(func(ctx context.Context, m *libraryv1.WriteNotice) error {
				if err := f.Write(ctx, m); err != nil {
					t.Error(err)
				}
				mu.Lock()
				defer mu.Unlock()
				if tries[m.GetTitle()]++; tries[m.GetTitle()] == 1 {
					return errors.New("the answer is lost")
				}
				return nil
			})},
		})
		if err != nil {
			t.Fatal(err)
		}
		lent := timestamppb.New(time.Date(1891, 1, 5, 0, 0, 0, 0, time.UTC))
		for i, title := range titles {
			book := library.Books.Ref(engine, fmt.Sprint("book ", i))
			if _, err := book.Do(t.Context(), &libraryv1.RegisterBook{Title: title}); err != nil {
				t.Fatal(err)
			}
			lend := &libraryv1.LendBook{LoanId: fmt.Sprint(i), Borrower: "Ada", Date: lent, Expected: durationpb.New(24 * time.Hour)}
			if _, err := book.Do(t.Context(), lend); err != nil {
				t.Fatal(err)
			}
		}
		<-time.After(time.Minute)
		if err := engine.Close(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func open(t *testing.T, name string) *notice.File {
	t.Helper()
	f, err := notice.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestFile(t *testing.T) {
	t.Parallel()
	t.Run("has_each_notice_once_also_after_a_crash", func(t *testing.T) {
		t.Parallel()
		name := filepath.Join(t.TempDir(), "notices.txt")
		f := open(t, name)
		remind(t, f, "Emma", "War\tand\nPeace")
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(name)
		if err != nil || strings.Count(string(text), "\n") != 3 || !strings.Contains(string(text), "\t1891-01-06\t1891-01-05\tbook 1\t1\tAda\tWar and Peace\n") {
			t.Errorf("the file is\n%s%v\nwant the names of the columns and two notices", text, err)
		}
		// A crash has cut a line short, and the effects of another library follow.
		if err := os.WriteFile(name, append(text, "01a22f97-848f"...), 0o600); err != nil {
			t.Fatal(err)
		}
		f = open(t, name)
		remind(t, f, "Walden")
		if got := f.Notices(); len(got) != 3 {
			t.Errorf("notices %q, want three", got)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		if text, err := os.ReadFile(name); err != nil || strings.Count(string(text), "\n") != 4 || strings.Contains(string(text), "01a22f97-848f0") {
			t.Errorf("the file is\n%s%v\nwant the names of the columns and three notices", text, err)
		}
	})
	t.Run("of_another_program_is_left_alone", func(t *testing.T) {
		t.Parallel()
		name := filepath.Join(t.TempDir(), "loans.csv")
		if err := os.WriteFile(name, []byte("loan,book\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := notice.Open(name); err == nil || !strings.Contains(err.Error(), "is not a file of notices") {
			t.Errorf("Open = %v, want an error", err)
		}
		if text, err := os.ReadFile(name); err != nil || string(text) != "loan,book\n" {
			t.Errorf("the file is %q, %v; want it as it was", text, err)
		}
	})
	t.Run("without_a_name_is_in_memory", func(t *testing.T) {
		t.Parallel()
		f := open(t, "")
		remind(t, f, "Emma")
		if got := f.Notices(); len(got) != 1 || got[0][6] != "Emma" {
			t.Errorf("notices %q, want one of Emma", got)
		}
	})
}
