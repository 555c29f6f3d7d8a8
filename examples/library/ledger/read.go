// Package ledger imports a library's ledger, a CSV file of loans, into its books.
//
// [Read] reads the file and sets aside the rows that make no loan. [Import] turns the loans into
// commands, in the order in which they happened, and sends them to the entities of
// [library.Books]. An import that was stopped or killed at any time continues where it was.
package ledger

import (
	"bufio"
	"bytes"
	"cmp"
	"compress/gzip"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/perdure/perdure/examples/library/library"
	"github.com/perdure/perdure/store"
)

// Bounds of a file: of all its text after decompression, and of one row, which also bounds the
// search for the end of a quote that is not closed.
const (
	BytesMax    = 1 << 30
	rowBytesMax = 64 << 10
)

// Columns names the columns of a ledger. All but Title are required.
type Columns struct {
	Book, Loan, Borrower, Lent, Returned string
	// Title is the column with the titles of the books. If it is empty, or a row has no title,
	// the id of the book is used as the title.
	Title string
}

// A Loan is one valid row of a ledger.
type Loan struct {
	Line                      int // number of the row's first line in the file, from 1
	ID, Book, Borrower, Title string
	LentOn                    time.Time
	ReturnedOn                time.Time // not before LentOn; valid only if Returned is set
	Returned                  bool
}

// A Reject is a row that makes no loan.
type Reject struct {
	Line   int
	Reason string
	Fields []string // the whole line as one field if its quotes are broken
}

// A Ledger is the content of a file, in the order of its rows.
type Ledger struct {
	Header  []string
	Loans   []Loan
	Rejects []Reject
}

// Commands returns the number of commands that the ledger makes: one to register each book, one for
// each lending and one for each return.
func (l *Ledger) Commands() int {
	books, n := make(map[string]bool), len(l.Loans)
	for i := range l.Loans {
		books[l.Loans[i].Book] = true
		if l.Loans[i].Returned {
			n++
		}
	}
	return n + len(books)
}

// Read reads a CSV file in UTF-8, plain or compressed by gzip. The first row names the columns. A
// row that makes no loan is set aside with a reason, and reading continues. An error is about the
// file as a whole.
func Read(file io.Reader, columns Columns) (*Ledger, error) {
	in := bufio.NewReaderSize(file, rowBytesMax)
	if magic, _ := in.Peek(2); bytes.Equal(magic, []byte{0x1f, 0x8b}) {
		z, err := gzip.NewReader(in)
		if err != nil {
			return nil, fmt.Errorf("gzip: %w (compress the file again)", err)
		}
		in = bufio.NewReaderSize(z, rowBytesMax)
	}
	r := reader{in: in, line: 1, words: make(map[string]string), seen: make(map[string]int)}
	if err := r.header(columns); err != nil {
		return nil, fmt.Errorf("line %d: %w", r.line, err)
	}
	for r.next() {
		if loan, reason := r.loan(); reason == "" {
			r.seen[loan.ID] = loan.Line
			r.ledger.Loans = append(r.ledger.Loans, loan)
		} else {
			r.ledger.Rejects = append(r.ledger.Rejects, Reject{r.line, reason, slices.Clone(r.fields)})
		}
	}
	if r.err != nil {
		return nil, fmt.Errorf("line %d: %w", r.line, r.err)
	}
	return &r.ledger, nil
}

// A reader splits a file into rows. It keeps no text of the file but the words of the loans.
type reader struct {
	in      *bufio.Reader
	ahead   []string // lines that were read ahead
	bytes   int      // size of all lines so far
	err     error    // the error that ends the file, if it is not the end itself
	ledger  Ledger
	columns [len(names)]int   // index of each column of names, or -1
	words   map[string]string // one copy of each word
	seen    map[string]int    // the lines of the loan ids

	row    string // the row with its line end
	line   int    // number of its first line
	fields []string
	broken string // the error in its quotes, or empty
}

// names are the values of a row, in the order of [reader.columns].
var names = [...]string{"loan id", "book", "borrower", "date of lending", "date of return", "title"}

func (r *reader) header(c Columns) error {
	start, _ := r.in.Peek(rowBytesMax)
	switch {
	case bytes.HasPrefix(start, []byte{0xff, 0xfe}) || bytes.HasPrefix(start, []byte{0xfe, 0xff}):
		return errors.New("the file is UTF-16 (save it as UTF-8)")
	case bytes.IndexByte(start, 0) >= 0:
		return errors.New("the file is binary, not CSV (export the table as CSV)")
	case bytes.HasPrefix(start, []byte("\ufeff")):
		_, _ = r.in.Discard(len("\ufeff")) // it is in the buffer
	}
	switch more := r.next(); {
	case r.err != nil:
		return r.err
	case !more:
		return errors.New("the file is empty (its first row must name the columns)")
	case r.broken != "":
		return fmt.Errorf("%s (write the names of the columns as CSV)", r.broken)
	case !utf8.ValidString(r.row):
		return errors.New("the header is not UTF-8 (save the file as UTF-8)")
	}
	for _, f := range r.fields {
		r.ledger.Header = append(r.ledger.Header, strings.TrimSpace(f))
	}
	var missing []string
	for i, name := range []string{c.Loan, c.Book, c.Borrower, c.Lent, c.Returned, c.Title} {
		r.columns[i] = slices.Index(r.ledger.Header, name)
		switch at := r.columns[i]; {
		case name == "" && names[i] == "title":
			r.columns[i] = -1
		case at < 0:
			missing = append(missing, strconv.Quote(name))
		case slices.Contains(r.ledger.Header[at+1:], name):
			return fmt.Errorf("more than one column %q (rename the others)", name)
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("no column %s; the header has \"%s\" (name the columns with --loan, --item, --borrower, --lent, --returned and --title; commas separate them)",
			strings.Join(missing, ", "), strings.Join(r.ledger.Header, `", "`))
	}
	return nil
}

// peek returns the line that is n lines ahead, or "" if there is none.
func (r *reader) peek(n int) string {
	for len(r.ahead) <= n {
		line, err := r.in.ReadString('\n')
		if r.bytes += len(line); r.bytes > BytesMax && err == nil {
			err = fmt.Errorf("the file has more than %d bytes (split it)", BytesMax)
		}
		if err != nil && !errors.Is(err, io.EOF) {
			r.err = err
			return ""
		}
		if line == "" {
			return ""
		}
		r.ahead = append(r.ahead, line)
	}
	return r.ahead[n]
}

// next reads the next row that is not an empty line. It returns false at the end.
func (r *reader) next() bool {
	for {
		r.line += strings.Count(r.row, "\n")
		if r.row = r.peek(0); r.row == "" {
			return false
		}
		r.ahead = slices.Delete(r.ahead, 0, 1)
		if r.split(); r.broken != "" {
			r.fields = append(r.fields[:0], strings.TrimRight(r.row, "\r\n"))
			return true
		}
		if len(r.fields) > 1 || r.fields[0] != "" || r.row[0] == '"' {
			return true
		}
	}
}

// split splits the row into fields. A field in quotes may hold line breaks: then the row takes the
// lines up to the closing quote. If there is none, the row is its first line alone.
func (r *reader) split() {
	const unclosed = "a quote that is not closed"
	r.fields, r.broken = r.fields[:0], ""
	switch {
	case len(r.row) > rowBytesMax:
		r.broken = fmt.Sprintf("a row of more than %d bytes", rowBytesMax)
		return
	case strings.IndexByte(r.row, '"') < 0:
		line := strings.TrimSuffix(strings.TrimSuffix(r.row, "\n"), "\r")
		for field := range strings.SplitSeq(line, ",") {
			r.fields = append(r.fields, field)
		}
		return
	}
	text, more := r.row, 0
	odd := strings.Count(text, `"`)%2 == 1
	for odd && len(text) <= rowBytesMax && r.peek(more) != "" {
		line := r.peek(more)
		text, more = text+line, more+1
		odd = odd != (strings.Count(line, `"`)%2 == 1)
	}
	c := csv.NewReader(strings.NewReader(text))
	c.FieldsPerRecord = -1
	fields, err := c.Read()
	switch {
	case errors.Is(err, csv.ErrBareQuote):
		r.broken = "a quote inside a field without quotes"
	case err != nil && odd, more > 0 && r.ledger.Header != nil && len(fields) != len(r.ledger.Header):
		r.broken = unclosed // perhaps it was matched with a quote of a later row
	case err != nil:
		r.broken = "text after a closing quote"
	default:
		r.row, r.fields, r.ahead = text, fields, slices.Delete(r.ahead, 0, more)
	}
}

// loan makes a loan of the row, or returns the reason why it cannot.
func (r *reader) loan() (loan Loan, reason string) {
	switch {
	case r.broken != "":
		return loan, r.broken
	case !utf8.ValidString(r.row):
		return loan, "it is not UTF-8"
	case strings.IndexByte(r.row, 0) >= 0:
		return loan, "it holds a zero byte"
	case len(r.fields) != len(r.ledger.Header):
		return loan, fmt.Sprintf("it has %d fields, the header has %d", len(r.fields), len(r.ledger.Header))
	}
	var cells [len(names)]string
	var lacks []string
	for i, at := range r.columns {
		if at >= 0 {
			cells[i] = strings.TrimSpace(r.fields[at])
		}
		if cells[i] == "" && i < 4 {
			lacks = append(lacks, "no "+names[i])
		}
	}
	if len(lacks) > 0 {
		return loan, strings.Join(lacks, ", ")
	}
	for i, bytesMax := range []int{library.NameBytesMax, store.IDBytesMax, library.NameBytesMax} {
		if len(cells[i]) > bytesMax {
			return loan, fmt.Sprintf("%s of %d bytes, at most %d are allowed", names[i], len(cells[i]), bytesMax)
		}
	}
	id, lent, returned := cells[0], cells[3], cells[4]
	loan = Loan{Line: r.line, Returned: returned != ""}
	var ok bool
	if loan.LentOn, ok = parseTime(lent); !ok {
		return loan, fmt.Sprintf("date of lending %q is not a date", lent)
	}
	if loan.Returned {
		if loan.ReturnedOn, ok = parseTime(returned); !ok {
			return loan, fmt.Sprintf("date of return %q is not a date", returned)
		}
		if loan.ReturnedOn.Before(loan.LentOn) {
			return loan, fmt.Sprintf("returned on %s, before it was lent on %s", returned, lent)
		}
	}
	if line, ok := r.seen[id]; ok {
		return loan, fmt.Sprintf("loan id %q is that of line %d", id, line)
	}
	loan.ID = strings.Clone(id) // the row is not kept
	loan.Book, loan.Borrower = r.word(cells[1]), r.word(cells[2])
	loan.Title = r.word(cmp.Or(cells[5], cells[1]))
	return loan, ""
}

func (r *reader) word(s string) string {
	w, ok := r.words[s]
	if !ok {
		w = strings.Clone(s)
		r.words[w] = w
	}
	return w
}

// parseTime parses a date, or a date and a time, which is in UTC if it has no zone. The length of
// the text selects the layout.
func parseTime(s string) (time.Time, bool) {
	s = strings.Replace(s, " ", "T", 1)
	layout := time.RFC3339
	for _, l := range []string{time.DateOnly, "2006-01-02T15:04", "2006-01-02T15:04:05"} {
		if len(s) == len(l) {
			layout = l
		}
	}
	t, err := time.Parse(layout, s)
	t = t.UTC()
	return t, err == nil && 1 <= t.Year() && t.Year() <= 9999
}

// WriteRejects writes the rows that were set aside as a CSV file: line, reason, and their fields.
func (l *Ledger) WriteRejects(w io.Writer) error {
	rows := [][]string{append([]string{"line", "reason"}, l.Header...)}
	for _, r := range l.Rejects {
		rows = append(rows, append([]string{strconv.Itoa(r.Line), r.Reason}, r.Fields...))
	}
	return csv.NewWriter(w).WriteAll(rows)
}
