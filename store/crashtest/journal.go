package crashtest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
)

// A journal is a child process's report of its work, one line at a time: each command
// before it is committed, and its outcome after Commit has returned. A line that lacks its
// newline does not count.
type journal struct{ w io.Writer }

// A line is one entry of a journal. Exactly one of its fields is set.
type line struct {
	Ready   bool     `json:",omitempty"` // the log is open
	Begin   *command `json:",omitempty"`
	End     *outcome `json:",omitempty"`
	Saw     *sight   `json:",omitempty"`
	Reading *reading `json:",omitempty"`
	Failure string   `json:",omitempty"` // the reason why the process cannot continue
}

// A sight is the answer of a log about a command whose outcome was not known.
type sight struct {
	Life, Client, Number int
	Stored               bool
}

func (j *journal) begin(c *command) error { return j.write(&line{Begin: c}) }
func (j *journal) end(o *outcome) error   { return j.write(&line{End: o}) }

// write writes a line by one call, so that lines of several clients do not mix.
func (j *journal) write(l *line) error {
	b, err := json.Marshal(l)
	if err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	_, err = j.w.Write(append(b, '\n'))
	return err
}

// parseLine reads one line without its newline.
func parseLine(b []byte) (*line, error) {
	l := new(line)
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(l); err != nil {
		return nil, fmt.Errorf("journal: %w in %q", err, b)
	}
	return l, nil
}
