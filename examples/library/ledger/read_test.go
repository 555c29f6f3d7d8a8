package ledger_test

import (
	"bytes"
	"compress/gzip"
	"encoding/csv"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/perdure/perdure/examples/library/ledger"
)

// columns are the columns of all ledgers in the tests.
var columns = ledger.Columns{
	Book: "book", Loan: "loan", Borrower: "borrower", Lent: "lent", Returned: "returned", Title: "title",
}

const header = "loan,book,title,borrower,lent,returned\n"

func read(t *testing.T, text string) *ledger.Ledger {
	t.Helper()
	l, err := ledger.Read(strings.NewReader(text), columns)
	if err != nil {
		t.Fatalf("Read(%q): %v", text, err)
	}
	return l
}

// outline describes the loans and the rejected rows of a ledger.
func outline(l *ledger.Ledger) []string {
	var lines []string
	for _, loan := range l.Loans {
		lines = append(lines, fmt.Sprintf("%d %s", loan.Line, loan.ID))
	}
	for _, r := range l.Rejects {
		lines = append(lines, fmt.Sprintf("%d rejected: %s", r.Line, r.Reason))
	}
	return lines
}

func TestBadRow(t *testing.T) {
	t.Parallel()
	const before, after = "1,emma,Emma,Ada,1891-01-05,1891-01-19\n", "9,emma,Emma,Ada,1892-01-05,\n"
	for _, c := range []struct{ name, row, reason string }{
		{"nothing at all", ",,,,,", "no loan id, no book, no borrower, no date of lending"},
		{"no loan id", " ,emma,Emma,Ada,1891-02-05,", "no loan id"},
		{"no book", "2,,Emma,Ada,1891-02-05,", "no book"},
		{"no borrower", "2,emma,Emma,,1891-02-05,", "no borrower"},
		{"no date", "2,emma,Emma,Ada,,1891-02-05", "no date of lending"},
		{"a date that is none", "2,emma,Emma,Ada,5 Feb 1891,", `date of lending "5 Feb 1891" is not a date`},
		{"a day that no month has", "2,emma,Emma,Ada,1891-02-29,", `date of lending "1891-02-29" is not a date`},
		{"a year that no timestamp has", "2,emma,Emma,Ada,0000-02-05,", `date of lending "0000-02-05" is not a date`},
		{"a return that is none", "2,emma,Emma,Ada,1891-02-05,soon", `date of return "soon" is not a date`},
		{
			"a return before the lending", "2,emma,Emma,Ada,1891-02-05,1891-02-04",
			"returned on 1891-02-04, before it was lent on 1891-02-05",
		},
		{"a loan id of an earlier row", "1,emma,Emma,Ada,1891-02-05,", `loan id "1" is that of line 2`},
		{"too few fields", "2,emma,Emma,Ada", "it has 4 fields, the header has 6"},
		{"too many fields", "2,emma,Emma,Ada,1891-02-05,,", "it has 7 fields, the header has 6"},
		{"not UTF-8", "2,emma,Emm\xe4,Ada,1891-02-05,", "it is not UTF-8"},
		{"a borrower without end", "2,emma,Emma," + strings.Repeat("a", 201) + ",1891-02-05,", "borrower of 201 bytes, at most 200 are allowed"},
		{"a loan id without end", strings.Repeat("2", 201) + ",emma,Emma,Ada,1891-02-05,", "loan id of 201 bytes, at most 200 are allowed"},
		{"a book without end", "2," + strings.Repeat("e", 1025) + ",Emma,Ada,1891-02-05,", "book of 1025 bytes, at most 1024 are allowed"},
		{"a quote in the open", `2,emma,Em"ma,Ada,1891-02-05,`, "a quote inside a field without quotes"},
		{"text behind a quote", `2,emma,"Em"ma,Ada,1891-02-05,`, "text after a closing quote"},
		{"a quote that never closes", `2,emma,"Emma,Ada,1891-02-05,`, "a quote that is not closed"},
		{"a row without end", "2,emma," + strings.Repeat("e", 70_000) + ",Ada,1891-02-05,", "a row of more than 65536 bytes"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			want := []string{"2 1", "4 9", "3 rejected: " + c.reason}
			for name, newline := range map[string]string{"LF": "\n", "CRLF": "\r\n"} {
				text := header + before + c.row + "\n" + after
				got := outline(read(t, strings.ReplaceAll(text, "\n", newline)))
				if !slices.Equal(got, want) {
					t.Errorf("%s: rows\n got %q\nwant %q\ninput %q", name, got, want, c.row)
				}
			}
		})
	}
}

func TestUnclosedQuoteTakesNoOtherRowWithIt(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, text string
		want       []string
	}{
		{
			"it meets the quotes of a later row",
			"1,emma,\"Emma,Ada,1891-01-05,\n2,walden,\"Walden\",Ada,1891-01-05,\n",
			[]string{"3 2", "2 rejected: a quote that is not closed"},
		},
		{
			"a later quote happens to fit",
			"1,emma,\"Emma,Ada,1891-01-05,\n2,walden,Walden,Ada,1891-01-05,\n3,emma,Emma,Ada,1891-01-06,\"\n",
			[]string{"3 2", "2 rejected: a quote that is not closed", "4 rejected: a quote that is not closed"},
		},
		{
			"every row has one",
			"1,emma,\"Emma,Ada,1891-01-05,\n2,emma,\"Emma,Ada,1891-01-05,\n",
			[]string{"2 rejected: a quote that is not closed", "3 rejected: a quote that is not closed"},
		},
	} {
		if got := outline(read(t, header+c.text)); !slices.Equal(got, c.want) {
			t.Errorf("%s: rows\n got %q\nwant %q\ninput %q", c.name, got, c.want, c.text)
		}
	}
}

func TestRowsInEveryForm(t *testing.T) {
	t.Parallel()
	const text = "\n" + header +
		"1,emma,Emma,Ada,1891-01-05,1891-01-19\n" +
		"\n" +
		`2,moby-dick,"Moby-Dick; or, ""The Whale"",` + "\n" + `a novel"," Basil ","1891-01-05","` + "\"\n" +
		"3,לקסיקון,,Cora,1891-01-05 09:30,1891-01-05T10:00:00+01:00"
	day := time.Date(1891, 1, 5, 0, 0, 0, 0, time.UTC)
	want := []ledger.Loan{
		{Line: 3, ID: "1", Book: "emma", Title: "Emma", Borrower: "Ada", LentOn: day, ReturnedOn: day.AddDate(0, 0, 14), Returned: true},
		{Line: 5, ID: "2", Book: "moby-dick", Title: "Moby-Dick; or, \"The Whale\",\na novel", Borrower: "Basil", LentOn: day},
	}
	for name, form := range map[string]string{
		"as it is":          text,
		"byte order mark":   "\ufeff" + text,
		"gzip":              compress(t, text),
		"gzip in two parts": compress(t, text[:50]) + compress(t, text[50:]),
	} {
		l := read(t, form)
		if len(l.Loans) != 2 || !slices.Equal(l.Loans, want) {
			t.Errorf("%s: loans\n got %v\nwant %v", name, l.Loans, want)
		}
		if got := outline(l)[2:]; len(got) != 1 || !strings.Contains(got[0], `7 rejected: returned on`) {
			t.Errorf("%s: rejects %q, want line 7, which returns before it lends", name, got)
		}
	}
}

func compress(t *testing.T, text string) string {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if _, err := io.WriteString(z, text); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestTimesInEveryForm(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"1902-11-14":                     "1902-11-14T00:00:00Z",
		"1902-11-14 09:30":               "1902-11-14T09:30:00Z",
		"1902-11-14 09:30:15":            "1902-11-14T09:30:15Z",
		"1902-11-14T09:30":               "1902-11-14T09:30:00Z",
		"1902-11-14T09:30:15":            "1902-11-14T09:30:15Z",
		"1902-11-14T09:30:15+02:00":      "1902-11-14T07:30:15Z",
		"1902-11-14T09:30:15.123456789Z": "1902-11-14T09:30:15.123456789Z",
		"1902-11-14 09:30:15Z":           "1902-11-14T09:30:15Z",
		"0001-01-01":                     "0001-01-01T00:00:00Z",
		"9999-12-31T23:59:59-01:00":      "",
		"14.11.1902":                     "",
		"1902-11":                        "",
		"1902-11-14 25:00":               "",
	} {
		l := read(t, header+"1,emma,Emma,Ada,"+text+",\n")
		got := ""
		if len(l.Loans) == 1 {
			got = l.Loans[0].LentOn.Format(time.RFC3339Nano)
		}
		if got != want {
			t.Errorf("date %q is read as %q, want %q", text, got, want)
		}
	}
}

func TestFileThatIsNoLedger(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, text, message string }{
		{"empty", "", "line 1: the file is empty"},
		{"empty lines", "\r\n\n", "line 3: the file is empty"},
		{"a picture", "\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR", "binary, not CSV"},
		{"UTF-16", "\xff\xfel\x00o\x00", "save it as UTF-8"},
		{"a header in Latin-1", "loan,b\xfccher\n", "the header is not UTF-8"},
		{"a header with broken quotes", "loan,\"book\n1,2\n", "line 1: a quote that is not closed"},
		{"missing columns", "loan,item,title,lent\n", `no column "book", "borrower", "returned"; the header has "loan", "item", "title", "lent"`},
		{"another separator", "loan;book;title;borrower;lent;returned\n", `the header has "loan;book;title;borrower;lent;returned"`},
		{"a column twice", "loan,book,title,borrower,lent,returned,book\n", `more than one column "book"`},
		{"half a gzip file", compress(t, header)[:20], "unexpected EOF"},
		{"text after the magic bytes of gzip", "\x1f\x8bloan,book,borrower,lent", "gzip: invalid header"},
	} {
		l, err := ledger.Read(strings.NewReader(c.text), columns)
		if l != nil || !strings.Contains(fmt.Sprint(err), c.message) {
			t.Errorf("%s: Read = %v, %v; want an error that says %q", c.name, l, err, c.message)
		}
	}
}

func FuzzReadLedger(f *testing.F) {
	for _, text := range []string{
		"", header, "\ufeff" + header + "1,emma,Emma,Ada,1891-01-05,1891-01-19\r\n",
		header + "1,emma,\"Em\"\"ma\n\",Ada,1891-01-05,1891-01-19\n2,emma,\"Emma,Ada,1891-01-05,\n3,walden,,Ada,1891-01-05 10:00,",
		header + "1,emma,Emma,Ada,1891-01-05,1890-01-19\n\n,,,,,\n1\n\"\n\"\"\n,\"\",\r,\n",
		header + "1,em\x00ma,Emm\xff,Ada,1891-01-05T10:00:00+02:00,\n1,emma,Emma,Ada,1891-01-05,\n1,emma,Emma,Ada,1891-01-06,\n",
		"\x1f\x8b\x08\x00", "\xff\xfe",
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		l, err := ledger.Read(bytes.NewReader(text), columns)
		if err != nil {
			if l != nil {
				t.Fatalf("Read(%q) returns a ledger with the error %v", text, err)
			}
			return
		}
		lines := map[int]bool{}
		line := func(n int) {
			if n < 2 || n > 1+bytes.Count(text, []byte{'\n'}) && !bytes.HasPrefix(text, []byte{0x1f, 0x8b}) || lines[n] {
				t.Fatalf("line %d is taken twice or does not exist; input %q", n, text)
			}
			lines[n] = true
		}
		for _, r := range l.Rejects {
			if line(r.Line); r.Reason == "" {
				t.Fatalf("line %d is rejected without a reason; input %q", r.Line, text)
			}
		}
		ids := map[string]bool{}
		for _, loan := range l.Loans {
			line(loan.Line)
			for _, s := range []string{loan.ID, loan.Book, loan.Borrower, loan.Title} {
				if s == "" || !utf8.ValidString(s) || strings.Contains(s, "\x00") {
					t.Fatalf("loan %+v has a bad text; input %q", loan, text)
				}
			}
			if ids[loan.ID] || loan.Returned && loan.ReturnedOn.Before(loan.LentOn) {
				t.Fatalf("loan %+v is there twice or ends before it begins; input %q", loan, text)
			}
			ids[loan.ID] = true
		}
		again := read(t, write(t, l.Loans))
		for i := range again.Loans {
			again.Loans[i].Line = l.Loans[i].Line
		}
		if len(again.Rejects) > 0 || !slices.Equal(again.Loans, l.Loans) {
			t.Fatalf("loans written and read again\n got %v, rejects %v\nwant %v\ninput %q", again.Loans, again.Rejects, l.Loans, text)
		}
	})
}

// write formats loans as a ledger.
func write(t testing.TB, loans []ledger.Loan) string {
	t.Helper()
	var b strings.Builder
	w := csv.NewWriter(&b)
	rows := [][]string{strings.Split(strings.TrimSpace(header), ",")}
	for _, l := range loans {
		returned := ""
		if l.Returned {
			returned = l.ReturnedOn.Format(time.RFC3339Nano)
		}
		rows = append(rows, []string{l.ID, l.Book, l.Title, l.Borrower, l.LentOn.Format(time.RFC3339Nano), returned})
	}
	if err := w.WriteAll(rows); err != nil {
		t.Fatal(err)
	}
	return b.String()
}
