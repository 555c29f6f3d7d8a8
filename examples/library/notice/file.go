// Package notice writes the reminders of a library to a file, each exactly once.
package notice

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/perdure/perdure"
	"github.com/perdure/perdure/examples/library/library"
	libraryv1 "github.com/perdure/perdure/examples/library/proto/library/v1"
)

const columns = "message\tdue\tlent\tbook\tloan\tborrower\ttitle\n" // line 1 of a file

// A File is a file of notices, one in a line. The engine performs an effect at least once, so a
// line begins with the id of its message, and a message that has a line gets no second one.
type File struct {
	mu    sync.Mutex
	file  *os.File // nil if the notices are in memory only
	size  int64    // length of the durable lines; a write that failed may have left more
	lines map[string]string
}

// Open opens or creates a file. If name is empty, the notices are in memory only.
func Open(name string) (*File, error) {
	f := &File{size: int64(len(columns)), lines: make(map[string]string)}
	if name == "" {
		return f, nil
	}
	file, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the notices: %w (name another file with --notices)", err)
	}
	f.file = file
	text, err := io.ReadAll(file)
	switch {
	case err != nil:
	case bytes.HasPrefix(text, []byte(columns)):
		f.size = int64(bytes.LastIndexByte(text, '\n') + 1)
		for line := range strings.Lines(string(text[len(columns):f.size])) {
			id, _, _ := strings.Cut(line, "\t")
			f.lines[id] = line
		}
	case bytes.HasPrefix([]byte(columns), text): // new, or a crash has cut the line short
		_, err = file.WriteAt([]byte(columns), 0)
	default:
		err = fmt.Errorf("%s is not a file of notices: line 1 is not %q (name another file with --notices)", name, columns)
	}
	if err == nil {
		err = file.Sync() // of what an earlier process has written
	}
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return f, nil
}

// Write writes a notice and returns when it is durable. It is a handler for [perdure.Perform].
func (f *File) Write(ctx context.Context, m *libraryv1.WriteNotice) error {
	info, loan := perdure.EffectInfoFrom(ctx), m.GetLoan()
	cells := []string{
		info.ID.String(), library.Day(loan.GetDue().AsTime()), library.Day(loan.GetLentOn().AsTime()),
		info.Source.ID, loan.GetId(), loan.GetBorrower(), m.GetTitle(),
	}
	for i := range cells {
		cells[i] = strings.Join(strings.Fields(cells[i]), " ") // no tab and no line break
	}
	line := strings.Join(cells, "\t") + "\n"
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.lines[cells[0]] != "" {
		return nil
	}
	if f.file != nil {
		err := f.file.Truncate(f.size) // removes what a failed write or a crash has left
		if err == nil {
			_, err = f.file.WriteAt([]byte(line), f.size)
		}
		if err == nil {
			err = f.file.Sync()
		}
		if err != nil {
			return fmt.Errorf("write a notice: %w", err)
		}
	}
	f.size += int64(len(line))
	f.lines[cells[0]] = line
	return nil
}

// Notices returns the cells of all lines, in the order of the days on which the loans were due.
func (f *File) Notices() [][]string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var all [][]string
	for _, line := range f.lines {
		all = append(all, strings.Split(strings.TrimSuffix(line, "\n"), "\t"))
	}
	slices.SortFunc(all, func(a, b []string) int { return slices.Compare(a[1:], b[1:]) })
	return all
}

// Close closes the file.
func (f *File) Close() error {
	if f.file == nil {
		return nil
	}
	return f.file.Close()
}
