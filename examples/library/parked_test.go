package main

import (
	"database/sql"
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/perdure/perdure/projection"
)

// shelf is a library with a growing ledger.
type shelf struct {
	uri, ledger string
}

// lend adds rows to the ledger and imports them.
func (s *shelf) lend(t *testing.T, rows string) {
	t.Helper()
	file, err := os.OpenFile(s.ledger, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = file.WriteString(rows)
	if err := errors.Join(err, file.Close()); err != nil {
		t.Fatal(err)
	}
	mustExecute(t, "import", s.ledger, "--store", s.uri, "--quiet")
}

// run runs a command on the library.
func (s *shelf) run(t *testing.T, args ...string) string {
	t.Helper()
	return mustExecute(t, append(args, "--store", s.uri)...)
}

// edit changes the file of the read models from outside of the program.
func (s *shelf) edit(t *testing.T, statement string) {
	t.Helper()
	db, err := sql.Open("sqlite", (&app{store: s.uri}).modelFile())
	if err != nil {
		t.Fatal(err)
	}
	_, err = db.ExecContext(t.Context(), statement)
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
}

// refuse makes the table of books reject a loan, until allow.
func (s *shelf) refuse(t *testing.T, loan string) {
	t.Helper()
	s.edit(t, `CREATE TRIGGER refusal BEFORE UPDATE ON books_v1 WHEN new.loan = '`+loan+`'
		BEGIN SELECT raise(ABORT, 'the card is torn'); END`)
}

func (s *shelf) allow(t *testing.T) {
	t.Helper()
	s.edit(t, "DROP TRIGGER refusal")
}

// row returns the row of a book in the catalogue.
func (s *shelf) row(t *testing.T, book string) string {
	t.Helper()
	for line := range strings.Lines(tables(t, s.uri)) {
		if strings.HasPrefix(line, "book|"+book+"|") {
			return strings.TrimSpace(line)
		}
	}
	t.Fatalf("book %s is not in the catalogue", book)
	return ""
}

// wantState checks the number of parked books in a projection, and the number of their events
// that were left out.
func (s *shelf) wantState(t *testing.T, name string, parked, dead int) {
	t.Helper()
	for line := range strings.Lines(s.run(t, "projections", "--json")) {
		var got struct {
			Name         string
			State        projection.RunnerState
			Lag          uint64
			Parked, Dead int
		}
		if err := json.Unmarshal([]byte(line), &got); err != nil {
			t.Fatalf("projection %q: %v", line, err)
		}
		wantParked, wantDead := 0, 0
		if got.Name == name {
			wantParked, wantDead = parked, dead
		}
		if got.Parked != wantParked || got.Dead != wantDead || got.State != projection.StateLive || got.Lag != 0 {
			t.Errorf("projection %+v; want %d parked, %d dead, live and at the head", got, wantParked, wantDead)
		}
	}
}

// newShelf returns a library with two books. Its table of books rejects a loan of dracula.
func newShelf(t *testing.T) *shelf {
	t.Helper()
	uri, _ := newStore(t)
	s := &shelf{uri, ledgerFile(t, "")}
	s.lend(t, "L1,dracula,ada,1891-01-05,1891-01-19\nL2,emma,basil,1891-01-06,1891-01-08\n")
	s.run(t, "report") // creates the tables
	s.refuse(t, "L3")
	s.lend(t, "L3,dracula,cora,1891-02-01,1891-02-10\nL4,emma,cora,1891-02-02,\nL5,dracula,basil,1891-02-11,\n")
	return s
}

func TestABookThatIsParkedIsListedAndTheOthersGoOn(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	golden(t, "projections_parked", s.run(t, "projections"))
	s.wantState(t, "books", 1, 0)
	if got, want := s.row(t, "dracula"), "book|dracula|dracula||1||||"; got != want {
		t.Errorf("row of a book that is parked\n got %s\nwant %s", got, want)
	}
	if got, want := s.row(t, "emma"), "book|emma|emma||2|cora|L4|1891-02-02T00:00:00.000000000Z|"; got != want {
		t.Errorf("row of another book\n got %s\nwant %s", got, want)
	}
	// The other tables have no fault.
	sameText(t, "tables but that of books", withoutBooks(tables(t, s.uri)), withoutBooks(fold(t, s.uri)))
	if got := s.run(t, "report"); strings.Contains(got, "torn") {
		t.Errorf("a report is\n%s\nwant it without errors", got)
	}
}

func withoutBooks(tables string) string { return tables[strings.Index(tables, "borrower|"):] }

func TestABookThatIsParkedIsRetried(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	for range 2 {
		e := execute(t, "projections", "retry", "books", "dracula", "--store", s.uri)
		if e.failure == nil || !strings.Contains(e.failure.Error(), "the card is torn") || e.out != "" {
			t.Errorf("a retry in vain: %v, stdout %q; want the error alone", e.failure, e.out)
		}
		s.wantState(t, "books", 1, 0)
	}
	s.allow(t)
	s.wantState(t, "books", 1, 0) // one book is parked until a retry
	golden(t, "projections_retried", s.run(t, "projections", "retry", "books", "dracula"))
	sameText(t, "tables after the retry", tables(t, s.uri), fold(t, s.uri))
	s.lend(t, "L6,emma,dora,1891-03-01,\nL7,dracula,dora,1891-03-02,\n")
	s.run(t, "report")
	sameText(t, "tables of later loans", tables(t, s.uri), fold(t, s.uri))
	s.wantState(t, "books", 0, 0)
}

func TestAnEventOfABookThatIsParkedIsSkipped(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	golden(t, "projections_skipped", s.run(t, "projections", "skip", "books", "dracula"))
	s.wantState(t, "books", 0, 1)
	// The loan L3 is not counted; its return and the loan after it are there.
	if got, want := s.row(t, "dracula"), "book|dracula|dracula||2|basil|L5|1891-02-11T00:00:00.000000000Z|"; got != want {
		t.Errorf("row after the skip\n got %s\nwant %s", got, want)
	}
}

func TestAllThatABookMissesIsDropped(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	golden(t, "projections_dropped", s.run(t, "projections", "drop", "books", "dracula"))
	s.wantState(t, "books", 0, 1)
	if got, want := s.row(t, "dracula"), "book|dracula|dracula||1||||"; got != want {
		t.Errorf("row after the drop\n got %s\nwant %s", got, want)
	}
	s.lend(t, "L6,emma,dora,1891-03-01,\n")
	s.run(t, "report")
	// The events that were left out are in a table that is built again.
	s.run(t, "projections", "rebuild", "books")
	sameText(t, "tables after the rebuild", tables(t, s.uri), fold(t, s.uri))
	s.wantState(t, "books", 0, 0)
}

func TestABookThatIsNotParkedIsTold(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	for _, verb := range []string{"retry", "skip", "drop"} {
		for _, c := range []struct{ projection, book, want string }{
			{"books", "emma", "not parked"},
			{"borrowers", "dracula", "not parked"},
			{"books", "ulysses", "not parked"},
			{"shelves", "dracula", "no projection"},
		} {
			e := execute(t, "projections", verb, c.projection, c.book, "--store", s.uri)
			if e.failure == nil || !strings.Contains(e.failure.Error(), c.want) || e.out != "" {
				t.Errorf("%s of %s in %s: %v, stdout %q; want an error with %q", verb, c.book, c.projection, e.failure, e.out, c.want)
			}
		}
	}
	s.wantState(t, "books", 1, 0)
}
