// Package notice writes the reminders of a library to a file, each exactly once.
package notice

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"sync"
	"unicode"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/perdure/perdure"
	"github.com/perdure/perdure/examples/library/library"
	libraryv1 "github.com/perdure/perdure/examples/library/proto/library/v1"
	"github.com/perdure/perdure/store"
)

// ErrForeign says that a file is not a file of notices. Such a file is not changed.
var ErrForeign = errors.New("not a file of notices")

// A Notice is a reminder that was written.
type Notice struct {
	// ID is the id of the message that asked for the reminder.
	ID store.ID
	// Due and LentOn are days, as [library.Day] writes them.
	Due, LentOn string
	// Book is the id of the book, Loan the id of the loan.
	Book, Loan      string
	Borrower, Title string
}

// A File is a file of notices: one notice per line, with tabs between the fields, after a
// first line that names the columns. Several goroutines may use it at the same time.
//
//  1. The file is durable up to size, and that part consists of whole lines.
//  2. A line is written at size, and counts once it is durable. The remains of a line that
//     a crash or a full disk has cut short are behind size, and are overwritten.
//  3. written has the id of every line, so that a message that is performed again writes
//     nothing.
//
// The ids make it safe to perform a message twice. Reading the file before its first use
// makes that safe across a crash. All notices are kept in memory, about 300 bytes for each.
type File struct {
	name string

	mu      sync.Mutex
	file    *os.File // nil until it is needed, and after an error
	size    int64
	written map[store.ID]bool
	notices []Notice
}

// New returns the file of that name, which is created with the first notice. If the name is
// empty, notices are kept in memory only.
func New(name string) *File { return &File{name: name, written: make(map[store.ID]bool)} }

// columns is the first line of a file.
const columns = "message\tdue\tlent\tbook\tloan\tborrower\ttitle\n"

// Write writes a notice and returns once it is durable. It is the handler of a
// [libraryv1.WriteNotice], for [perdure.Perform]: for a message that was written before, by
// its id, it succeeds and writes nothing. An error that would occur again, such as
// [ErrForeign], parks the message.
func (f *File) Write(ctx context.Context, m *libraryv1.WriteNotice) error {
	d := perdure.EffectInfoFrom(ctx)
	n := Notice{
		ID: d.ID, Due: day(m.GetLoan().GetDue()), LentOn: day(m.GetLoan().GetLentOn()), Book: clean(d.Source.ID),
		Loan: clean(m.GetLoan().GetId()), Borrower: clean(m.GetLoan().GetBorrower()), Title: clean(m.GetTitle()),
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	err := f.write(&n)
	if errors.Is(err, ErrForeign) || errors.Is(err, fs.ErrPermission) {
		return perdure.Park(err)
	}
	return err
}

func (f *File) write(n *Notice) error {
	if err := f.load(true); err != nil {
		return err
	}
	if f.written[n.ID] {
		return nil
	}
	line := n.line()
	if f.name != "" {
		_, err := f.file.WriteAt([]byte(line), f.size)
		if err == nil {
			err = f.file.Sync()
		}
		if err != nil { // the file's content is unknown now: read it again
			err = errors.Join(fmt.Errorf("write a notice: %w", err), f.file.Close())
			f.file = nil
			return err
		}
	}
	f.keep(n, line)
	return nil
}

func (f *File) keep(n *Notice, line string) {
	f.size += int64(len(line))
	f.written[n.ID] = true
	f.notices = append(f.notices, *n)
}

// All returns the notices in the order in which they were written. A file that does not
// exist has none.
func (f *File) All() ([]Notice, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.load(false); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return slices.Clone(f.notices), nil
}

// Close closes the file. A later call reopens it.
func (f *File) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.file == nil {
		return nil
	}
	err := f.file.Close()
	f.file = nil
	return err
}

// load opens and reads the file, unless it is open.
func (f *File) load(create bool) (err error) {
	if f.name == "" || f.file != nil {
		return nil
	}
	flags := os.O_RDWR
	if create {
		flags |= os.O_CREATE
	}
	if info, err := os.Stat(f.name); err == nil && !info.Mode().IsRegular() {
		return fmt.Errorf("%s: %w", f.name, ErrForeign)
	}
	file, err := os.OpenFile(f.name, flags, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, file.Close())
		}
	}()
	text, err := io.ReadAll(file)
	if err != nil {
		return err
	}
	whole := text[:bytes.LastIndexByte(text, '\n')+1]
	if !strings.HasPrefix(string(text), columns) && !strings.HasPrefix(columns, string(text)) {
		return fmt.Errorf("%s: %w: its first line is not %q", f.name, ErrForeign, strings.TrimSpace(columns))
	}
	if len(whole) == 0 {
		if _, err := file.WriteAt([]byte(columns), 0); err != nil {
			return err
		}
		whole = []byte(columns)
	}
	if err := file.Truncate(int64(len(whole))); err != nil {
		return err
	}
	if err := file.Sync(); err != nil { // the data read may not have been durable
		return err
	}
	clear(f.written)
	f.file, f.size, f.notices = file, 0, nil
	for line := range strings.Lines(string(whole)) {
		n, ok := parse(line)
		if !ok { // the line with the columns, or a line added by hand
			f.size += int64(len(line))
			continue
		}
		f.keep(&n, line)
	}
	return nil
}

func (n *Notice) fields() []*string {
	return []*string{&n.Due, &n.LentOn, &n.Book, &n.Loan, &n.Borrower, &n.Title}
}

func (n *Notice) line() string {
	var b strings.Builder
	b.WriteString(n.ID.String())
	for _, f := range n.fields() {
		b.WriteString("\t" + *f)
	}
	b.WriteByte('\n')
	return b.String()
}

func parse(line string) (n Notice, ok bool) {
	cells := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
	fields := n.fields()
	if len(cells) != 1+len(fields) {
		return n, false
	}
	var err error
	if n.ID, err = store.ParseID(cells[0]); err != nil {
		return n, false
	}
	for i, f := range fields {
		*f = cells[1+i]
	}
	return n, true
}

// clean replaces control characters in a text, so that it fits between two tabs.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, s)
}

func day(t *timestamppb.Timestamp) string { return library.Day(t.AsTime()) }
