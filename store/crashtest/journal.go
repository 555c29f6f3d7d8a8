package crashtest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
)

// A journal is what a process tells about its work, line by line, while it is
// alive: each command before it is committed, and its outcome after Commit has
// returned. A line without its end was never written.
type journal struct{ w io.Writer }

// A line is one entry of a journal; one of its fields is set.
type line struct {
	Ready   bool     `json:",omitempty"` // the log is open
	Begin   *command `json:",omitempty"`
	End     *outcome `json:",omitempty"`
	Saw     *sight   `json:",omitempty"`
	Reading *reading `json:",omitempty"`
	Failure string   `json:",omitempty"` // why the process cannot go on
}

// A sight is what a process has read of a command whose outcome it did not know.
type sight struct {
	Life, Client, Number int
	Stored               bool
}

func (j *journal) begin(c *command) error { return j.write(&line{Begin: c}) }
func (j *journal) end(o *outcome) error   { return j.write(&line{End: o}) }

// write writes a line by one call, so that lines of many clients do not mix.
func (j *journal) write(l *line) error {
	b, err := json.Marshal(l)
	if err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	_, err = j.w.Write(append(b, '\n'))
	return err
}

// parseLine reads one line without its end.
func parseLine(b []byte) (*line, error) {
	l := new(line)
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(l); err != nil {
		return nil, fmt.Errorf("journal: %w in %q", err, b)
	}
	return l, nil
}
