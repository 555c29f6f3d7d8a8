package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
)

const (
	// testBound bounds the time of one test. If a mutant makes its test wait longer, the test
	// times out, which does not count as a failure.
	testBound = 2 * time.Minute
	// buildBound bounds a whole run of go test, including the compiling.
	buildBound = 10 * time.Minute
)

// A trial runs the tests of one checkout with and without mutants.
type trial struct {
	root   string
	passed map[test]error // result of each test without a mutant
}

// try returns nil if each test of the mutant passes without it and fails with it.
func (t *trial) try(ctx context.Context, m mutant) error {
	tmp, err := os.MkdirTemp("", "mutant-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(tmp) }()
	overlay, err := t.apply(ctx, m, tmp)
	if err != nil {
		return err
	}
	for _, x := range m.tests {
		if _, tried := t.passed[x]; !tried {
			t.passed[x] = t.passes(ctx, x)
		}
		if err := t.passed[x]; err != nil {
			return err
		}
		args := []string{"-overlay", overlay}
		if m.runs > 0 {
			args = append(args, "-failfast", "-count", strconv.Itoa(m.runs))
		}
		out, err := t.run(ctx, x, args...)
		switch {
		case err == nil:
			return fmt.Errorf("%v passes", x)
		case strings.Contains(out, "[build failed]") || strings.Contains(out, "[setup failed]"):
			return fmt.Errorf("it does not compile:\n%s", tail(out))
		case m.ends && endsProcess(out):
		case !strings.Contains(out, "--- FAIL: "):
			return fmt.Errorf("%v ends in another way than by failing: %w\n%s", x, err, tail(out))
		}
	}
	return nil
}

var (
	endedPattern = regexp.MustCompile(`(?m)^FAIL\t\S+\t[0-9.]+s$`)
	panicPattern = regexp.MustCompile(`(?m)^(panic: |fatal error: )`)
)

// endsProcess reports whether a run of go test shows that the test program has run and was ended
// by a panic or by a fault that Go cannot recover. A program that does not compile has not run. A
// test that has timed out does not count: a test that waits must have a bound of its own.
func endsProcess(out string) bool {
	return endedPattern.MatchString(out) && panicPattern.MatchString(out) && !strings.Contains(out, "panic: test timed out")
}

// apply applies the patch to copies of its files below tmp. It returns the name of a file for go
// test -overlay that replaces the real files by the copies.
func (t *trial) apply(ctx context.Context, m mutant, tmp string) (string, error) {
	replace := make(map[string]string)
	copies := filepath.Join(tmp, "tree")
	for _, name := range m.files {
		real := filepath.Join(t.root, filepath.FromSlash(name))
		text, err := os.ReadFile(real)
		if err != nil {
			return "", fmt.Errorf("the patch names a file that is not there: %w", err)
		}
		copied := filepath.Join(copies, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(copied), 0o700); err != nil {
			return "", err
		}
		if err := os.WriteFile(copied, text, 0o600); err != nil {
			return "", err
		}
		replace[real] = copied
	}
	// Outside of a repository, git apply changes the files below its directory.
	c := exec.CommandContext(ctx, "git", "apply", "--recount", "-C1", "--whitespace=nowarn", "-")
	c.Dir = copies
	c.Env = append(os.Environ(), "GIT_CEILING_DIRECTORIES="+tmp, "GIT_DIR="+filepath.Join(tmp, "none"))
	c.Stdin = strings.NewReader(m.patch)
	if out, err := c.CombinedOutput(); err != nil {
		return "", fmt.Errorf("the patch does not apply: %s", bytes.TrimSpace(out))
	}
	text, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", err
	}
	overlay := filepath.Join(tmp, "overlay.json")
	return overlay, os.WriteFile(overlay, text, 0o600)
}

// passes returns nil if a test exists and passes without a mutant.
func (t *trial) passes(ctx context.Context, x test) error {
	out, err := t.run(ctx, x, "-v")
	switch {
	case err != nil:
		return fmt.Errorf("%v fails without the mutant: %w\n%s", x, err, tail(out))
	case strings.Contains(out, "no tests to run"):
		return fmt.Errorf("there is no %v", x)
	case strings.Contains(out, "--- SKIP: "+x.name+" "):
		return fmt.Errorf("%v is skipped here", x)
	}
	return nil
}

// run runs one test and returns its output.
func (t *trial) run(ctx context.Context, x test, more ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, buildBound)
	defer cancel()
	args := append([]string{"test", "-vet=off", "-run", "^" + x.name + "$", "-timeout", testBound.String()}, more...)
	c := exec.CommandContext(ctx, "go", append(args, x.pkg)...)
	c.Dir = t.root
	// With more processors there are more possible orders of the goroutines.
	c.Env = append(os.Environ(), "GOMAXPROCS=8")
	c.Cancel = func() error { return c.Process.Signal(os.Interrupt) }
	c.WaitDelay = 10 * time.Second
	out, err := c.CombinedOutput()
	if ctx.Err() != nil {
		err = errors.Join(ctx.Err(), err)
	}
	return string(out), err
}

// tail returns the last lines of an output, indented.
func tail(out string) string {
	const linesMax = 30
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if len(lines) > linesMax {
		lines = lines[len(lines)-linesMax:]
	}
	return "\t" + strings.Join(lines, "\n\t")
}
