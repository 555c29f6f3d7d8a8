package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

const (
	dir    = "test/mutants" // directory of the patches, relative to the root of the repository
	suffix = ".patch"

	runsMax = 1000 // bound for the runs of a test that needs several
)

// A mutant is one patch with the fields of its header.
type mutant struct {
	name    string // the name of the file without its suffix
	says    string // text that says what the mutant breaks and what a user would lose
	promise string // G1 to G12
	tests   []test // each must fail with the mutant
	ends    bool   // a test may also fail by the end of its process
	runs    int    // bound for the runs of a test
	files   []string
	patch   string // the text of the file
}

// A test is one test function of one package.
type test struct{ pkg, name string }

func (t test) String() string { return t.pkg + " " + t.name }

var (
	promisePattern = regexp.MustCompile(`^G([1-9]|1[0-2])$`)
	namePattern    = regexp.MustCompile(`^(Test|Fuzz|Example)\w*$`)
)

// load reads all patches of a directory, sorted by name.
func load(dir string) ([]mutant, error) {
	names, err := filepath.Glob(filepath.Join(dir, "*"+suffix))
	if err != nil {
		return nil, err
	}
	all := make([]mutant, 0, len(names))
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		m, err := parse(string(text))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		m.name = strings.TrimSuffix(filepath.Base(name), suffix)
		all = append(all, m)
	}
	return all, nil
}

// parse reads a patch: the header up to the first line that begins with "--- "
// or "diff ", and the names of the files that the diff changes.
func parse(text string) (mutant, error) {
	m := mutant{patch: text}
	inDiff, number := false, 0
	for line := range strings.Lines(text) {
		number++
		line = strings.TrimRight(line, "\r\n")
		if strings.HasPrefix(line, "--- ") || strings.HasPrefix(line, "diff ") {
			inDiff = true
		}
		key, value, _ := strings.Cut(line, ": ")
		value = strings.TrimSpace(value)
		switch {
		case inDiff:
			if name, ok := strings.CutPrefix(line, "+++ b/"); ok {
				m.files = append(m.files, strings.TrimSpace(name))
			}
		case key == "Promise":
			if !promisePattern.MatchString(value) || m.promise != "" {
				return m, fmt.Errorf("line %d: want one promise, G1 to G12, got %q", number, value)
			}
			m.promise = value
		case key == "Test":
			f := strings.Fields(value)
			if len(f) != 2 || !namePattern.MatchString(f[1]) || f[0] != "." && !strings.HasPrefix(f[0], "./") {
				return m, fmt.Errorf("line %d: want a package and a test, such as \"./stream TestHub\", got %q", number, value)
			}
			m.tests = append(m.tests, test{f[0], f[1]})
		case key == "Ends":
			if value != "the process" {
				return m, fmt.Errorf("line %d: want \"Ends: the process\", got %q", number, value)
			}
			m.ends = true
		case key == "Runs":
			n, err := strconv.Atoi(value)
			if err != nil || n < 2 || n > runsMax {
				return m, fmt.Errorf("line %d: want a number of runs from 2 to %d, got %q", number, runsMax, value)
			}
			m.runs = n
		default:
			m.says = strings.TrimSpace(m.says + "\n" + line)
		}
	}
	switch {
	case m.says == "":
		return m, fmt.Errorf("the header does not say what the mutant breaks")
	case m.promise == "":
		return m, fmt.Errorf("the header has no line \"Promise: G…\"")
	case len(m.tests) == 0:
		return m, fmt.Errorf("the header has no line \"Test: PACKAGE NAME\"")
	case len(m.files) == 0:
		return m, fmt.Errorf("there is no diff: it begins with \"--- a/FILE\" and \"+++ b/FILE\"")
	}
	return m, nil
}
