package ledger

import (
	"bufio"
	"bytes"
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
)

// BytesMax bounds the text of a ledger after decompression. A ledger is kept in memory as a
// whole, because its rows are sorted before the first is imported.
const BytesMax = 1 << 30

// Errors about a file as a whole.
var (
	// ErrNotLedger: the file is not a CSV file, or it is empty.
	ErrNotLedger = errors.New("not a ledger")
	// ErrColumns: the header lacks a column. The error is a [*ColumnsError].
	ErrColumns = errors.New("missing columns")
	// ErrTooLarge: the file is above [BytesMax].
	ErrTooLarge = errors.New("too large")
)

// A ColumnsError lists the columns that a ledger lacks or has more than once, and the
// columns that it has. It matches [ErrColumns].
type ColumnsError struct {
	Missing, Repeated, Present []string
}

func (e *ColumnsError) Error() string {
	var wrong []string
	if len(e.Missing) > 0 {
		wrong = append(wrong, "no column "+quoted(e.Missing))
	}
	if len(e.Repeated) > 0 {
		wrong = append(wrong, "more than one column "+quoted(e.Repeated))
	}
	return strings.Join(wrong, " and ") + "; the header has " + quoted(e.Present)
}

// Unwrap returns [ErrColumns].
func (e *ColumnsError) Unwrap() error { return ErrColumns }

func quoted(names []string) string {
	var b strings.Builder
	for i, n := range names {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(strconv.Quote(n))
	}
	return b.String()
}

// Columns names the columns of a ledger. All but Title are required.
type Columns struct {
	Book, Loan, Borrower, Lent, Returned string
	// Title is the column with the titles of the books. If it is empty, or a row has no
	// title, the id of the book is used as the title.
	Title string
}

// A Loan is one valid row of a ledger.
type Loan struct {
	// Line is the number of the row's first line in the file, from 1.
	Line               int
	ID, Book, Borrower string
	Title              string
	LentOn             time.Time
	// ReturnedOn is not before LentOn. It is valid only if Returned is set.
	ReturnedOn time.Time
	Returned   bool
}

// A Reject is a row that makes no loan.
type Reject struct {
	// Line is the number of the row's first line in the file, from 1.
	Line   int
	Reason string
	// Fields are the fields of the row, or the whole line as one field if its quotes are
	// broken.
	Fields []string
}

// A Ledger is the content of a file, in the order of its rows.
type Ledger struct {
	Header  []string
	Loans   []Loan
	Rejects []Reject
}

// Read reads a CSV file in UTF-8, plain or compressed by gzip. The first row names the
// columns. A row that makes no loan is set aside with a reason, and reading continues. An
// error is about the file as a whole.
func Read(file io.Reader, columns Columns) (*Ledger, error) {
	text, err := readAll(file)
	if err != nil {
		return nil, fmt.Errorf("read ledger: %w", err)
	}
	r := reader{text: text, line: 1, words: make(map[string]string), seen: make(map[string]int)}
	if err := r.header(columns); err != nil {
		return nil, fmt.Errorf("read ledger: %w", err)
	}
	for len(r.text) > 0 {
		r.row()
	}
	l := r.ledger // the reader holds the text of the file
	l.Loans = slices.Clip(l.Loans)
	return &l, nil
}

// readAll returns the text of a file without its byte order mark.
func readAll(file io.Reader) ([]byte, error) {
	head := bufio.NewReader(file)
	file = head
	if magic, _ := head.Peek(2); bytes.Equal(magic, []byte{0x1f, 0x8b}) {
		z, err := gzip.NewReader(head)
		if err != nil {
			return nil, fmt.Errorf("gzip: %w", err)
		}
		file = z
	}
	text, err := io.ReadAll(io.LimitReader(file, BytesMax+1))
	switch {
	case err != nil:
		return nil, err
	case len(text) > BytesMax:
		return nil, fmt.Errorf("%w: more than %d bytes", ErrTooLarge, BytesMax)
	case bytes.HasPrefix(text, []byte{0xff, 0xfe}) || bytes.HasPrefix(text, []byte{0xfe, 0xff}):
		return nil, fmt.Errorf("%w: the file is UTF-16; save it as UTF-8", ErrNotLedger)
	}
	text = bytes.TrimPrefix(text, []byte("\ufeff"))
	if bytes.IndexByte(text[:min(len(text), sampleBytes)], 0) >= 0 {
		return nil, fmt.Errorf("%w: the file is binary, not CSV", ErrNotLedger)
	}
	return text, nil
}

// sampleBytes bounds the part of a file that is searched for signs that it is not text.
const sampleBytes = 64 << 10

// A reader splits a ledger into rows.
type reader struct {
	ledger  Ledger
	text    []byte // the unread rest of the text
	line    int    // number of the first line of the rest
	columns columnIndexes
	words   map[string]string // one copy of each word, to keep a ledger small
	seen    map[string]int    // loan ids and their lines
}

// columnIndexes are the indexes of the values in a row; title is -1 if there is no such
// column.
type columnIndexes struct{ book, loan, borrower, lent, returned, title int }

func (r *reader) header(c Columns) error {
	rec, ok := r.next()
	switch {
	case !ok:
		return fmt.Errorf("%w: the file is empty", ErrNotLedger)
	case rec.broken != "":
		return fmt.Errorf("%w: line %d: %s", ErrNotLedger, rec.line, rec.broken)
	case !utf8.Valid(rec.text):
		return fmt.Errorf("%w: line %d: the header is not UTF-8", ErrNotLedger, rec.line)
	}
	for i, name := range rec.fields {
		rec.fields[i] = strings.TrimSpace(name)
	}
	r.ledger.Header = rec.fields
	wrong := ColumnsError{Present: rec.fields}
	find := func(name string) int {
		at := slices.Index(rec.fields, name)
		switch {
		case at < 0:
			wrong.Missing = append(wrong.Missing, name)
		case slices.Contains(rec.fields[at+1:], name):
			wrong.Repeated = append(wrong.Repeated, name)
		}
		return at
	}
	r.columns = columnIndexes{
		book: find(c.Book), loan: find(c.Loan), borrower: find(c.Borrower),
		lent: find(c.Lent), returned: find(c.Returned), title: -1,
	}
	if c.Title != "" {
		r.columns.title = find(c.Title)
	}
	if len(wrong.Missing)+len(wrong.Repeated) > 0 {
		return &wrong
	}
	return nil
}

// row reads one row and keeps it as a loan or as a reject.
func (r *reader) row() {
	rec, ok := r.next()
	if !ok {
		return
	}
	loan, reason := r.loan(&rec)
	if reason != "" {
		if rec.broken != "" {
			rec.fields = []string{strings.TrimRight(string(rec.text), "\r\n")}
		}
		r.ledger.Rejects = append(r.ledger.Rejects, Reject{Line: rec.line, Reason: reason, Fields: rec.fields})
		return
	}
	r.seen[loan.ID] = loan.Line
	r.ledger.Loans = append(r.ledger.Loans, loan)
}

// next reads the next record that is not an empty line.
func (r *reader) next() (record, bool) {
	for len(r.text) > 0 {
		rec := cut(r.text)
		if rec.several() && rec.broken == "" && r.ledger.Header != nil && len(rec.fields) != len(r.ledger.Header) {
			// A quote that was never closed was matched with a later one.
			rec = firstLine(r.text, "a quote that is not closed")
		}
		rec.line = r.line
		r.line += bytes.Count(rec.text, []byte{'\n'})
		r.text = r.text[len(rec.text):]
		if len(rec.fields) == 1 && rec.fields[0] == "" && rec.text[0] != '"' {
			continue
		}
		return rec, true
	}
	return record{}, false
}

// loan makes a loan of a record, or returns the reason why it cannot.
func (r *reader) loan(rec *record) (loan Loan, reason string) {
	switch {
	case rec.broken != "":
		return loan, rec.broken
	case !utf8.Valid(rec.text):
		return loan, "it is not UTF-8"
	case bytes.IndexByte(rec.text, 0) >= 0:
		return loan, "it holds a zero byte"
	case len(rec.fields) != len(r.ledger.Header):
		return loan, fmt.Sprintf("it has %d fields, the header has %d", len(rec.fields), len(r.ledger.Header))
	}
	field := func(i int) string { return strings.TrimSpace(rec.fields[i]) }
	c := r.columns
	loan = Loan{Line: rec.line, ID: field(c.loan), Book: field(c.book), Borrower: field(c.borrower)}
	lent, returned := field(c.lent), field(c.returned)
	if reason := missing(&loan, lent); reason != "" {
		return loan, reason
	}
	if reason := checkNames(&loan); reason != "" {
		return loan, reason
	}
	var ok bool
	if loan.LentOn, ok = parseTime(lent); !ok {
		return loan, fmt.Sprintf("date of lending %q is not a date", lent)
	}
	if loan.Returned = returned != ""; loan.Returned {
		if loan.ReturnedOn, ok = parseTime(returned); !ok {
			return loan, fmt.Sprintf("date of return %q is not a date", returned)
		}
		if loan.ReturnedOn.Before(loan.LentOn) {
			return loan, fmt.Sprintf("returned on %s, before it was lent on %s", returned, lent)
		}
	}
	if line, ok := r.seen[loan.ID]; ok {
		return loan, fmt.Sprintf("loan id %q is that of line %d", loan.ID, line)
	}
	if c.title >= 0 {
		loan.Title = field(c.title)
	}
	if loan.Title == "" {
		loan.Title = loan.Book
	}
	// Clone the fields: they point into the text of the whole file, which is not kept.
	loan.ID = strings.Clone(loan.ID)
	loan.Book, loan.Borrower, loan.Title = r.word(loan.Book), r.word(loan.Borrower), r.word(loan.Title)
	return loan, ""
}

// missing lists the required values that a row lacks.
func missing(l *Loan, lent string) string {
	var lacks []string
	for _, n := range []struct{ what, value string }{
		{"loan id", l.ID}, {"book", l.Book}, {"borrower", l.Borrower}, {"date of lending", lent},
	} {
		if n.value == "" {
			lacks = append(lacks, "no "+n.what)
		}
	}
	return strings.Join(lacks, ", ")
}

func (r *reader) word(s string) string {
	if w, ok := r.words[s]; ok {
		return w
	}
	s = strings.Clone(s)
	r.words[s] = s
	return s
}

// WriteRejects writes the rows that were set aside as a CSV file: line, reason, and the
// original fields.
func (l *Ledger) WriteRejects(w io.Writer) error {
	out := csv.NewWriter(w)
	rows := [][]string{append([]string{"line", "reason"}, l.Header...)}
	for _, r := range l.Rejects {
		rows = append(rows, append([]string{strconv.Itoa(r.Line), r.Reason}, r.Fields...))
	}
	if err := out.WriteAll(rows); err != nil {
		return fmt.Errorf("write rejects: %w", err)
	}
	return nil
}
