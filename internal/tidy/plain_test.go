package tidy_test

import (
	"bytes"
	"cmp"
	"flag"
	"fmt"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"
)

// lower makes TestProseIsPlain write the list of allowed sentences, if the tree has
// fewer of them than the list allows.
var lower = flag.Bool("lower", false, "lower the numbers of plain.txt to what the tree has")

const plainList = "internal/tidy/plain.txt"

// A marked sentence contains a word or a phrase that makes it hard to read for an
// engineer whose second language is English: a person without a name ("the one who calls"), a
// clause in the place of a noun ("that which is stored"), or an old-fashioned adverb.
var marked = regexp.MustCompile(`(?i)\b(nobody|somebody|whoever|anybody|everybody|whom|anew|for ever|at leisure|meanwhile|` +
	`(what|who) (is|are|was|were|has|have|had)|is (from )?how many)\b`)

var codePattern = regexp.MustCompile("`[^`]*`")

var sentenceEnd = regexp.MustCompile(`[.!?:;]+(\s|$)`)

// commentWidthMax is the width of a comment line, with a tab as one column.
const commentWidthMax = 100

// Comments and pages are written in plain English. plain.txt says how many marked
// sentences each file may have: those that were there before the rule. The numbers can
// only go down: a file with fewer sentences than its number is a fault as well, which
// go test ./internal/tidy -run Plain -lower mends.
func TestProseIsPlain(t *testing.T) {
	t.Parallel()
	found := map[string][]string{}
	var faults []string
	for _, f := range files(t, hasProse) {
		found[f.path] = markedSentences(prose(t, f))
		if isGo(f.path) {
			faults = append(faults, widthFaults(f)...)
		}
	}
	list := files(t, func(name string) bool { return name == plainList })[0]
	allowed, wrong := allowances(list)
	faults = append(faults, wrong...)
	if *lower && len(faults) == 0 {
		writeAllowances(t, found, allowed)
		return
	}
	report(t, append(faults, plainFaults(found, allowed)...))
}

func TestProseThatIsNotPlainIsFound(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		text string
		want int
	}{
		{"The caller gets the answer. The store keeps it.", 0},
		{"It stores what is left.", 1},
		{"The mutant `takes what is stored` is caught.", 0},
		{"Nobody knows. The store does.\nIt is read anew, and kept for\never.", 2},
		{"It returns what the caller wants: a state.", 0},
	} {
		if got := markedSentences(c.text); len(got) != c.want {
			t.Errorf("%q: marked sentences %q, want %d", c.text, got, c.want)
		}
	}
	found := map[string][]string{"a.go": {"What is it.", "Who has it."}, "b.go": {"Nobody."}, "c.go": nil}
	list := file{"plain.txt", "# a comment\n1 a.go\n2 b.go\n1 c.go\n1 d.go\nx e.go\n"}
	allowed, wrong := allowances(list)
	wantFaults(t, list.text, wrong, "plain.txt:6: ")
	wantFaults(t, list.text, plainFaults(found, allowed),
		"a.go has 2 marked sentences, allowed are 1", "b.go has 1", "c.go has 0", "there is no d.go")
	wide := file{"a.go", "package a\n\n// " + strings.Repeat("x ", commentWidthMax/2) + "\nvar x = 1 // short\n"}
	wantFaults(t, wide.text, widthFaults(wide), "a.go:3: ")
	printed := file{"a_test.go", "package a\n\n// Output:\n// " + strings.Repeat("x ", commentWidthMax) + "\n"}
	wantFaults(t, printed.text, widthFaults(printed))
}

// hasProse reports whether a file has text that people read: documentation, or a
// source with comments that no generator wrote.
func hasProse(name string) bool {
	return isMarkdown(name) || strings.HasSuffix(name, ".proto") || isGo(name) && !strings.HasSuffix(name, ".pb.go")
}

// prose returns the comments of a source, or all of another file.
func prose(t *testing.T, f file) string {
	t.Helper()
	if !isGo(f.path) {
		return f.text
	}
	var b strings.Builder
	for _, c := range parse(t, token.NewFileSet(), f, parser.ParseComments|parser.SkipObjectResolution).Comments {
		b.WriteString(c.Text())
		b.WriteString("\n\n")
	}
	return b.String()
}

// markedSentences returns the marked sentences of a text. A paragraph ends a sentence.
func markedSentences(text string) (found []string) {
	for paragraph := range strings.SplitSeq(text, "\n\n") {
		line := strings.Join(strings.Fields(paragraph), " ")
		for from := 0; from < len(line); {
			to := len(line)
			if end := sentenceEnd.FindStringIndex(line[from:]); end != nil {
				to = from + end[1]
			}
			if marked.MatchString(codePattern.ReplaceAllString(line[from:to], "")) {
				found = append(found, strings.TrimSpace(line[from:to]))
			}
			from = to
		}
	}
	return found
}

// widthFaults returns the comment lines of a source that are too wide.
func widthFaults(f file) (faults []string) {
	number, output := 0, false // output: in the comment that says what an example prints
	for line := range strings.Lines(f.text) {
		number++
		line = strings.TrimRight(line, "\n")
		text := strings.TrimSpace(line)
		output = strings.HasPrefix(text, "//") && (output || text == "// Output:")
		if !output && strings.HasPrefix(text, "// ") && !strings.HasPrefix(text, "//  ") && utf8.RuneCountInString(line) > commentWidthMax && strings.Contains(text[3:], " ") {
			faults = append(faults, fmt.Sprintf("%s:%d: the comment is wider than %d columns", f.path, number, commentWidthMax))
		}
	}
	return faults
}

// allowances reads how many marked sentences each file may have.
func allowances(list file) (allowed map[string]int, faults []string) {
	allowed = map[string]int{}
	number := 0
	for line := range strings.Lines(list.text) {
		number++
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		count, name, _ := strings.Cut(line, " ")
		n, err := strconv.Atoi(count)
		if err != nil || n < 1 || name == "" || allowed[name] > 0 {
			faults = append(faults, fmt.Sprintf("%s:%d: want a number and a file that has no other line, got %q", list.path, number, line))
			continue
		}
		allowed[name] = n
	}
	return allowed, faults
}

// plainFaults compares the marked sentences of each file with those that it may have.
func plainFaults(found map[string][]string, allowed map[string]int) (faults []string) {
	for name, sentences := range found {
		n := len(sentences)
		switch {
		case n > allowed[name]:
			faults = append(faults, fmt.Sprintf("%s has %d marked sentences, allowed are %d: say them in plain English, see CONTRIBUTING.md: %q", name, n, allowed[name], sentences))
		case n < allowed[name]:
			faults = append(faults, fmt.Sprintf("%s has %d marked sentences, and %s still allows %d: run go test ./internal/tidy -run Plain -lower", name, n, plainList, allowed[name]))
		}
	}
	for name := range allowed {
		if _, ok := found[name]; !ok {
			faults = append(faults, fmt.Sprintf("%s: there is no %s", plainList, name))
		}
	}
	slices.Sort(faults)
	return faults
}

// writeAllowances writes the list with the numbers that the tree has, where they are
// lower than those of the list.
func writeAllowances(t *testing.T, found map[string][]string, allowed map[string]int) {
	t.Helper()
	type line struct {
		name string
		n    int
	}
	var lines []line
	total := 0
	for name, n := range allowed {
		if n = min(n, len(found[name])); n > 0 {
			lines = append(lines, line{name, n})
			total += n
		}
	}
	slices.SortFunc(lines, func(a, b line) int { return cmp.Compare(a.name, b.name) })
	var b bytes.Buffer
	fmt.Fprintf(&b, "# How many marked sentences each file may have, see plain_test.go; the numbers only go down.\n# In all: %d.\n\n", total)
	for _, l := range lines {
		fmt.Fprintf(&b, "%d %s\n", l.n, l.name)
	}
	if err := os.WriteFile(filepath.Join("..", "..", filepath.FromSlash(plainList)), b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
}
