package crashtest

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// childVariable holds the orders of a child process.
const childVariable = "PERDURE_CRASH_CHILD"

// codeFailure is the exit code of a child that has written why it cannot continue.
const codeFailure = 3

// Orders tell a child process what to do.
type orders struct {
	Mode    string // "load", "script", "look" or "janitor"
	Subject string
	Place   string
	Life    int
	Clients int
	Seed    uint64
	// Steps bounds the commands of a script.
	Steps int
	// Rest ends a script after it has read the outcome of a failed command.
	Rest bool
}

// A process is a running child.
type process struct {
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	out    *bufio.Reader
	stderr *strings.Builder
	done   bool
}

// start starts the test binary as a child. The child ends with this process, because it
// then reads the end of its input.
func (k *kit) start(o *orders) (*process, error) {
	b, err := json.Marshal(o)
	if err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	p := &process{cmd: exec.Command(self), stderr: new(strings.Builder)}
	p.cmd.Env = append(os.Environ(), childVariable+"="+string(b), "GOTRACEBACK=single")
	p.cmd.Stderr = p.stderr
	p.cmd.Dir = os.TempDir() // never in a file system that is to be unmounted
	endWithParent(p.cmd, o.Mode == "janitor")
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	p.out = bufio.NewReaderSize(out, 1<<16)
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start a process: %w", err)
	}
	return p, nil
}

// next returns the next line of the journal, or io.EOF after the last complete one.
func (p *process) next() (*line, error) {
	b, err := p.out.ReadBytes('\n')
	if err != nil {
		if errors.Is(err, os.ErrClosed) {
			err = io.EOF
		}
		return nil, err // a line without its newline does not count
	}
	return parseLine(b[:len(b)-1])
}

// kill ends the process at once.
func (p *process) kill() { _ = p.cmd.Process.Kill() } // it may have ended already

// wait waits until the process has ended, after its output was read. It returns an error
// that says how it ended, unless it was killed or has written why it cannot continue.
func (p *process) wait() error {
	if p.done {
		return nil
	}
	p.done = true
	limit := time.AfterFunc(waitMax, p.kill)
	defer limit.Stop()
	err := p.cmd.Wait()
	_ = p.stdin.Close()
	exit, ok := errors.AsType[*exec.ExitError](err)
	if ok && (exit.ExitCode() == codeFailure || killed(exit) && p.stderr.Len() == 0) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("process: %w: %s", err, firstLines(p.stderr.String()))
	}
	return nil
}

// firstLines returns the first lines of s.
func firstLines(s string) string {
	const linesMax = 30
	lines := strings.SplitN(s, "\n", linesMax+1)
	return strings.Join(lines[:min(len(lines), linesMax)], "\n")
}

// launch starts a child that is killed at the end of the test.
func (k *kit) launch(t testing.TB, o *orders) *process {
	t.Helper()
	p, err := k.start(o)
	if err != nil {
		t.Fatalf("crashtest: %v", err)
	}
	t.Cleanup(func() {
		p.kill()
		_ = p.wait()
	})
	return p
}

// drain reads the journal to its end and adds it to the history. Failure is the reason why
// the process could not continue, if it wrote one.
func (p *process) drain(h *history) (failure string, err error) {
	limit := time.AfterFunc(waitMax, p.kill)
	defer limit.Stop()
	for {
		l, err := p.next()
		if errors.Is(err, io.EOF) {
			return failure, nil
		}
		if err != nil {
			return failure, err
		}
		if l.Failure != "" {
			failure = l.Failure
		}
		if err := h.add(l); err != nil {
			return failure, err
		}
	}
}
