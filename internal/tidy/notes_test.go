package tidy_test

import (
	"fmt"
	"path"
	"regexp"
	"strings"
	"testing"
)

var noteName = regexp.MustCompile(`^docs/design/(\d{4})-[a-z0-9-]+\.md$`)

// Each design note begins with its number and its title, and the index lists it.
func TestDesignNotes(t *testing.T) {
	t.Parallel()
	notes := files(t, func(name string) bool { return path.Dir(name) == "docs/design" && isMarkdown(name) })
	report(t, noteFaults(notes))
}

func TestDesignNotesThatAreNotListedAreFound(t *testing.T) {
	t.Parallel()
	index := "| [0001](0001-one.md) One | Why? |\n| [0002](0002-two.md) Two | Why? |\n"
	for _, c := range []struct {
		name, text string
		want       []string
	}{
		{name: "docs/design/0001-one.md", text: "# 0001: One\n"},
		{name: "docs/design/0001-one.md", text: "# 1. One\n", want: []string{`begins with "# 1. One"`}},
		{name: "docs/design/0002-two.md", text: "# 0002: Another\n", want: []string{"does not list"}},
		{name: "docs/design/0003-three.md", text: "# 0003: Three\n", want: []string{"does not list"}},
		{name: "docs/design/three.md", text: "# Three\n", want: []string{"has no number"}},
	} {
		faults := noteFaults([]file{{"docs/design/README.md", index}, {c.name, c.text}})
		wantFaults(t, c.name, faults, c.want...)
	}
}

// noteFaults returns the notes that have no number, do not begin with their number and
// title, or are missing in the index, README.md.
func noteFaults(notes []file) []string {
	var index string
	for _, f := range notes {
		if path.Base(f.path) == "README.md" {
			index = f.text
		}
	}
	var faults []string
	for _, f := range notes {
		if path.Base(f.path) == "README.md" {
			continue
		}
		number := noteName.FindStringSubmatch(f.path)
		if number == nil {
			faults = append(faults, fmt.Sprintf("%s: the file has no number, as in 0001-title.md", f.path))
			continue
		}
		first, _, _ := strings.Cut(f.text, "\n")
		title, ok := strings.CutPrefix(first, "# "+number[1]+": ")
		if !ok {
			faults = append(faults, fmt.Sprintf("%s: the note begins with %q, not with its number, as in %q", f.path, first, "# "+number[1]+": Title"))
			continue
		}
		if line := fmt.Sprintf("| [%s](%s) %s | ", number[1], path.Base(f.path), title); !strings.Contains(index, line) {
			faults = append(faults, fmt.Sprintf("%s: docs/design/README.md does not list it: want a line that begins with %q", f.path, line))
		}
	}
	return faults
}
