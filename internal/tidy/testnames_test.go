package tidy_test

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
)

// The name of a test begins with its subject, such as TestQueueRefusesABatchBehindAFailedOne or
// TestQueue with sub-tests, so that -run finds the tests of a subject.

var testFunction = regexp.MustCompile(`(?m)^func (Test\w+)\(`)

// noSubject is the beginning of a name that is an article or a pronoun instead of a subject.
var noSubject = regexp.MustCompile(`^Test(A|An|The|Every|Each|Any|No|It|What|Who|Whoever|Nothing|Nobody)[A-Z0-9]`)

func testNameFaults(f file) (faults []string) {
	for _, m := range testFunction.FindAllStringSubmatch(f.text, -1) {
		switch name := m[1]; {
		case noSubject.MatchString(name):
			faults = append(faults, fmt.Sprintf("%s: %s does not begin with its subject", f.path, name))
		case strings.Contains(name, "_"):
			faults = append(faults, fmt.Sprintf("%s: %s has an underscore (write one word, or use a sub-test)", f.path, name))
		}
	}
	return faults
}

func TestTestNamesBeginWithTheirSubject(t *testing.T) {
	t.Parallel()
	var faults []string
	for _, f := range files(t, func(name string) bool { return strings.HasSuffix(name, "_test.go") }) {
		faults = append(faults, testNameFaults(f)...)
	}
	report(t, faults)
}

func TestTestNamesWithoutASubjectAreFound(t *testing.T) {
	t.Parallel()
	const source = "package shelf\n\nfunc TestABookIsKept(t *testing.T) {}\nfunc TestBook_is_kept(t *testing.T) {}\n" +
		"func TestAll(t *testing.T) {}\nfunc TestAnnotation(t *testing.T) {}\n"
	wantFaults(t, source, testNameFaults(file{"shelf_test.go", source}), "TestABookIsKept", "TestBook_is_kept")
}
