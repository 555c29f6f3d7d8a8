package main

import (
	"bytes"
	"cmp"
	"context"
	"database/sql"
	"encoding/csv"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	libraryv1 "github.com/perdure/perdure/examples/library/proto/library/v1"
	"github.com/perdure/perdure/examples/library/readmodel"
	"github.com/perdure/perdure/projection"
	"github.com/perdure/perdure/projection/sqltarget"
	"github.com/perdure/perdure/store"
)

var projectionKills = flag.Int("projection.kills", 30, "how often a process that projects is killed")

func TestAReportTellsOfTheDemo(t *testing.T) {
	t.Parallel()
	uri, file := newStore(t)
	mustExecute(t, "--store", uri)
	golden(t, "report", mustExecute(t, "report", "--limit", "6", "--store", uri))
	golden(t, "report_json", mustExecute(t, "report", "--json", "--limit", "2", "--store", uri))
	golden(t, "projections", mustExecute(t, "projections", "--store", uri))
	golden(t, "projections_rebuilt", mustExecute(t, "projections", "rebuild", "months", "--store", uri))
	golden(t, "projections_json", mustExecute(t, "projections", "--json", "--store", uri))
	svg := filepath.Join(t.TempDir(), "months.svg")
	golden(t, "report_months", mustExecute(t, "report", "--section", "months", "--svg", svg, "--store", uri))
	text, err := os.ReadFile(svg)
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "report_svg", string(text))
	model := strings.TrimSuffix(file, ".db") + ".read.db"
	if info, err := os.Stat(model); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("read models are %v, %v; want them to be their owner's alone", info, err)
	}
	// The user may delete the file.
	before := mustExecute(t, "report", "--limit", "0", "--store", uri)
	for _, name := range []string{model, model + "-wal", model + "-shm"} {
		if err := os.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
	}
	if after := mustExecute(t, "report", "--limit", "0", "--store", uri); after != before {
		t.Errorf("report of new read models\n got:\n%s\nwant:\n%s", after, before)
	}
}

// fold builds the tables from the log alone, and returns the content of the read models as text.
func fold(t *testing.T, uri string) string {
	t.Helper()
	log, err := store.Open(t.Context(), uri, drivers()...)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := log.Close(); err != nil {
			t.Error(err)
		}
	}()
	type book struct {
		title, isbn, borrower, loan, on, due string
		lent                                 int
	}
	books, lent, out := map[string]*book{}, map[string]int{}, map[string]int{}
	begun, ended := map[string]int{}, map[string]int{}
	for e, err := range log.Scan(t.Context(), store.Query{}) {
		if err != nil {
			t.Fatal(err)
		}
		decode := func(m proto.Message) {
			if err := proto.Unmarshal(e.Payload, m); err != nil {
				t.Fatal(err)
			}
		}
		b := books[e.Key.ID]
		switch e.Type {
		case "library.v1.BookRegistered":
			m := new(libraryv1.BookRegistered)
			decode(m)
			books[e.Key.ID] = &book{title: m.GetTitle(), isbn: m.GetIsbn()}
		case "library.v1.BookLent":
			m := new(libraryv1.BookLent)
			decode(m)
			on := m.GetDate().AsTime()
			b.lent++
			b.borrower, b.loan, b.on, b.due = m.GetBorrower(), m.GetLoanId(), readmodel.Time(on), ""
			if m.GetExpected() != nil {
				b.due = readmodel.Time(on.Add(m.GetExpected().AsDuration()))
			}
			lent[b.borrower]++
			out[b.borrower]++
			begun[b.on[:7]]++
		case "library.v1.BookReturned":
			m := new(libraryv1.BookReturned)
			decode(m)
			out[b.borrower]--
			b.borrower, b.loan, b.on, b.due = "", "", "", ""
			ended[m.GetDate().AsTime().Format("2006-01")]++
		}
	}
	var s strings.Builder
	for _, id := range slices.Sorted(maps.Keys(books)) {
		b := books[id]
		fmt.Fprintf(&s, "book|%s|%s|%s|%d|%s|%s|%s|%s\n", id, b.title, b.isbn, b.lent, b.borrower, b.loan, b.on, b.due)
	}
	for _, name := range slices.Sorted(maps.Keys(lent)) {
		fmt.Fprintf(&s, "borrower|%s|%d|%d\n", name, lent[name], out[name])
	}
	months := maps.Clone(begun)
	maps.Copy(months, ended)
	for _, month := range slices.Sorted(maps.Keys(months)) {
		fmt.Fprintf(&s, "month|%s|%d|%d\n", month, begun[month], ended[month])
	}
	return s.String()
}

// tables returns the content of the read models in their file, as text.
func tables(t *testing.T, uri string) string {
	t.Helper()
	db, err := sql.Open("sqlite", (&app{store: uri}).modelFile())
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	}()
	target, err := sqltarget.Open(t.Context(), db, sqltarget.SQLite)
	if err != nil {
		t.Fatal(err)
	}
	version := func(name string) (table string) {
		if err := target.View(t.Context(), func(tx *sql.Tx) error {
			table, err = projection.ServingTable(t.Context(), tx, target, name, name)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		return table
	}
	return queried(t, db, "SELECT 'book', book, title, isbn, lent, coalesce(borrower, ''), coalesce(loan, ''), coalesce(lent_on, ''), coalesce(due, '') FROM "+version("books")+" ORDER BY book") +
		queried(t, db, "SELECT 'borrower', borrower, lent, out FROM "+version("borrowers")+" ORDER BY borrower") +
		queried(t, db, "SELECT 'month', month, lent, returned FROM "+version("months")+" ORDER BY month")
}

// queried returns the rows of a query, one per line.
func queried(t *testing.T, db *sql.DB, query string) string {
	t.Helper()
	rows, err := db.QueryContext(t.Context(), query)
	if err != nil {
		t.Fatal(err)
	}
	columns, err := rows.Columns()
	if err != nil {
		t.Fatal(err)
	}
	var s strings.Builder
	cells, into := make([]string, len(columns)), make([]any, len(columns))
	for i := range cells {
		into[i] = &cells[i]
	}
	for rows.Next() {
		if err := rows.Scan(into...); err != nil {
			t.Fatal(err)
		}
		s.WriteString(strings.Join(cells, "|") + "\n")
	}
	if err := errors.Join(rows.Err(), rows.Close()); err != nil {
		t.Fatal(err)
	}
	return s.String()
}

// sameText compares two texts and shows the first line that differs.
func sameText(t *testing.T, what, got, want string) {
	t.Helper()
	if got == want {
		return
	}
	a, b := strings.Split(got, "\n"), strings.Split(want, "\n")
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			t.Errorf("%s: line %d of %d and %d\n got %s\nwant %s", what, i, len(a), len(b), a[i], b[i])
			return
		}
	}
	t.Errorf("%s: got %d lines, want %d", what, len(a), len(b))
}

func TestTheFiguresOfTheStrashunLibraryAreThoseOfItsLedger(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("-short: it is long, and other imports do the same")
	}
	file := strashun()
	if file == "" {
		t.Skip("SKIPPED: the ledger of the Strashun library is not there; set PERDURE_STRASHUN to its directory")
	}
	uri, _ := newStore(t)
	mustExecute(t, "import", file, "--store", uri, "--quiet", "--title", "title_as_written", "--days", "30")
	var r readmodel.Report
	if err := json.Unmarshal([]byte(mustExecute(t, "report", "--json", "--limit", "0", "--store", uri)), &r); err != nil {
		t.Fatal(err)
	}
	want := fold(t, uri)
	sameText(t, "tables and a fold of the log", tables(t, uri), want)
	if len(r.Overdue) == 0 || len(r.Catalogue) != strings.Count("\n"+want, "\nbook|") {
		t.Errorf("report has %d overdue and %d books, want some and %d", len(r.Overdue), len(r.Catalogue), strings.Count("\n"+want, "\nbook|"))
	}
	db := ledgerTable(t, file)
	var got [4]strings.Builder
	for _, b := range r.Borrowers {
		fmt.Fprintf(&got[0], "%s|%d|%d\n", b.Borrower, b.Lent, b.Out)
	}
	for _, b := range r.MostLent {
		fmt.Fprintf(&got[1], "%s|%d\n", b.Book, b.Lent)
	}
	for _, m := range r.Months {
		fmt.Fprintf(&got[2], "%s|%d|%d\n", m.Month, m.Lent, m.Returned)
	}
	for _, b := range r.Overdue {
		fmt.Fprintf(&got[3], "%s|%s|%s|%s\n", b.Book, b.Borrower, b.LentOn[:10], b.Due[:10])
	}
	for i, query := range []string{
		"SELECT borrower, count(*), sum(returned_on = '') FROM loans GROUP BY borrower ORDER BY count(*) DESC, borrower",
		"SELECT book, count(*) FROM loans GROUP BY book ORDER BY count(*) DESC, book",
		`SELECT month, sum(lent), sum(returned) FROM (
			SELECT substr(lent_on, 1, 7) AS month, 1 AS lent, 0 AS returned FROM loans
			UNION ALL SELECT substr(returned_on, 1, 7), 0, 1 FROM loans WHERE returned_on <> '') GROUP BY month ORDER BY month`,
		"SELECT book, borrower, lent_on, date(lent_on, '+30 days') AS due FROM loans WHERE returned_on = '' ORDER BY due, book",
	} {
		sameText(t, query, got[i].String(), queried(t, db, query))
	}
}

// ledgerTable loads a ledger into a table of SQLite, without the loans that a library with one
// copy of each book refuses. It shares no code with the sample.
func ledgerTable(t *testing.T, file string) *sql.DB {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	rows, err := csv.NewReader(bytes.NewReader(text)).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	column := map[string]int{}
	for i, name := range rows[0] {
		column[name] = i
	}
	db, err := sql.Open("sqlite", filepath.Join(t.TempDir(), "ledger.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() }) // it is not used any more
	tx, err := db.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.ExecContext(t.Context(), "CREATE TABLE loans (book TEXT, borrower TEXT, lent_on TEXT, returned_on TEXT)"); err != nil {
		t.Fatal(err)
	}
	// The steps in the documented order: by day; returns of earlier loans before lendings; by
	// row; a return on the day of its lending right after that lending.
	type step struct {
		day       string
		turn, row int
		back      bool
	}
	var steps []step
	for i, row := range rows[1:] {
		lent, returned := row[column["lent_on"]], row[column["returned_on"]]
		steps = append(steps, step{lent, 1, i, false})
		if returned == lent {
			steps = append(steps, step{returned, 1, i, true})
		} else if returned != "" {
			steps = append(steps, step{returned, 0, i, true})
		}
	}
	slices.SortStableFunc(steps, func(a, b step) int {
		return cmp.Or(cmp.Compare(a.day, b.day), cmp.Compare(a.turn, b.turn), cmp.Compare(a.row, b.row))
	})
	out := map[string]int{} // book to the row of its open loan, plus one
	for _, s := range steps {
		row := rows[1+s.row]
		book := row[column["book_id"]]
		switch {
		case s.back && out[book] == s.row+1:
			delete(out, book)
		case !s.back && out[book] == 0:
			out[book] = s.row + 1
			if _, err := tx.ExecContext(t.Context(), "INSERT INTO loans VALUES (?, ?, ?, ?)",
				book, row[column["borrower_id"]], row[column["lent_on"]], row[column["returned_on"]]); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := tx.Commit(); err != nil {
		t.Fatal(err)
	}
	return db
}

// killAfter starts the program and kills it after a duration, unless it ends first.
func killAfter(ctx context.Context, t *testing.T, d time.Duration, args ...string) (killed bool) {
	t.Helper()
	cmd, _, _ := process(ctx, t, args...)
	cmd.Stdout, cmd.Stderr = io.Discard, io.Discard
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	timer := time.AfterFunc(d, func() { _ = cmd.Process.Kill() }) // the process may have ended
	defer timer.Stop()
	return cmd.Wait() != nil
}

func TestReadModelsOfAProcessThatIsKilledAreThoseOfTheLog(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("it kills processes")
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience+time.Duration(*projectionKills)*time.Second)
	defer cancel()
	random := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 1))
	file := ledgerFile(t, manyRows(3_000))
	uri, _ := newStore(t)
	model := (&app{store: uri}).modelFile()
	// Compare before a command builds the tables again and removes their faults.
	compare := func(when string) {
		t.Helper()
		mustExecute(t, "report", "--store", uri)
		sameText(t, "tables "+when, tables(t, uri), fold(t, uri))
	}
	args := []string{"import", file, "--store", uri, "--days", "21", "--quiet", "--workers", "16"}
	killed := 0
	for i := range *projectionKills {
		longest := 400 * time.Millisecond
		if i == *projectionKills/2 {
			compare("after imports that were killed")
		}
		if i >= *projectionKills/2 {
			// The log is long now: sometimes build the tables again.
			args = []string{"report", "--json", "--store", uri}
			switch random.IntN(4) {
			case 0:
				compare("before they are removed")
				for _, name := range []string{model, model + "-wal", model + "-shm"} {
					if err := os.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
						t.Fatal(err)
					}
				}
			case 1:
				compare("before one is built anew")
				args = []string{"projections", "rebuild", readmodel.Names[random.IntN(len(readmodel.Names))], "--store", uri}
			}
			longest = 250 * time.Millisecond
		}
		if killAfter(ctx, t, time.Duration(1+random.Int64N(int64(longest))), args...) {
			killed++
		}
	}
	if t.Logf("%d of %d processes were killed", killed, *projectionKills); killed < *projectionKills/3 {
		t.Errorf("%d of %d processes were killed, want at least a third of them", killed, *projectionKills)
	}
	mustExecute(t, "import", file, "--store", uri, "--days", "21", "--quiet")
	mustExecute(t, "report", "--store", uri)
	want := fold(t, uri)
	sameText(t, "tables after all kills", tables(t, uri), want)
	for _, name := range readmodel.Names { // finishes a rebuild that was killed
		mustExecute(t, "projections", "rebuild", name, "--store", uri)
	}
	sameText(t, "tables that were built anew", tables(t, uri), want)
	if !strings.Contains(want, "month|") {
		t.Error("there are no loans: the test tests nothing")
	}
}
