package ledger_test

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/perdure/perdure"
	"github.com/perdure/perdure/examples/library/ledger"
)

// strashun opens a file of the borrowing ledgers of the Strashun library in Vilna: real
// loans of the years 1902 to 1940. The files are not part of the repository. The function
// looks for them in the directory that PERDURE_STRASHUN names, and in the shared data
// beside the repository, and skips the test if they are missing.
func strashun(t *testing.T, name string) *os.File {
	t.Helper()
	dir := os.Getenv("PERDURE_STRASHUN")
	if dir == "" {
		dir = filepath.Join("..", "..", "..", "..", "shared", "data", "strashun")
	}
	file, err := os.Open(filepath.Join(dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		t.Skipf("SKIPPED: the ledgers of the Strashun library are not there (%v); set PERDURE_STRASHUN to their directory", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = file.Close() }) // it was only read
	return file
}

var strashunColumns = ledger.Columns{
	Book: "book_id", Loan: "loan_id", Borrower: "borrower_id", Lent: "lent_on", Returned: "returned_on", Title: "title_as_written",
}

func TestTheLedgerOfTheStrashunLibraryGivesWhatIsExpected(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("-short: it is long, and imports of less do the same")
	}
	l, err := ledger.Read(strashun(t, "loans.csv"), strashunColumns)
	if err != nil {
		t.Fatal(err)
	}
	var want map[string]any
	if err := json.NewDecoder(strashun(t, "expected.json")).Decode(&want); err != nil {
		t.Fatal(err)
	}
	for name, open := range stores {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			log := open(t)
			for _, run := range []string{"first", "second"} {
				r := mustBring(t, log, l, ledger.Options{})
				b, err := json.Marshal(r)
				if err != nil {
					t.Fatal(err)
				}
				var got map[string]any
				if err := json.Unmarshal(b, &got); err != nil {
					t.Fatal(err)
				}
				for name, value := range want {
					if got[name] != value {
						t.Errorf("%s run: %s is %v, want %v", run, name, got[name], value)
					}
				}
				if got["rejected_rows"] != 0.0 || len(got) != len(want)+2 {
					t.Errorf("%s run: report %s; want no rejected rows, and no figures but the expected ones, rejected_rows and seconds", run, b)
				}
			}
		})
	}
}

func TestTheRowsThatTheStrashunLedgerSkipsAreRejected(t *testing.T) {
	t.Parallel()
	l, err := ledger.Read(strashun(t, "skipped_rows.csv"), strashunColumns)
	if err != nil {
		t.Fatal(err)
	}
	const rows = 369
	if len(l.Loans) != 0 || len(l.Rejects) != rows {
		t.Errorf("%d loans, %d rejected rows; want 0 and %d", len(l.Loans), len(l.Rejects), rows)
	}
	reason := regexp.MustCompile(`^no (loan id|book|borrower|date of lending)(, no (book|borrower|date of lending))*$`)
	for _, r := range l.Rejects {
		if !reason.MatchString(r.Reason) {
			t.Errorf("line %d is rejected because of %q; want what it lacks", r.Line, r.Reason)
		}
	}
	onEngine(t, inMemory(t), func(engine *perdure.Engine) {
		if r, err := ledger.Import(t.Context(), engine, l, ledger.Options{}); err != nil || r.Commands() != 0 || r.Rejected != rows {
			t.Errorf("Import = %+v, %v; want a report of %d rejected rows and nothing else", r, err, rows)
		}
	})
}
