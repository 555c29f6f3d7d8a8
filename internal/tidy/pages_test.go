package tidy_test

import (
	"fmt"
	"go/build"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var (
	linkPattern = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	namePattern = regexp.MustCompile(`\b(Test|Fuzz|Benchmark|Example)_?[A-Z]\w*`)
	funcPattern = regexp.MustCompile(`(?m)^func ((Test|Fuzz|Benchmark|Example)\w*)\(`)
)

// The code on a page must be in a file that is compiled, line by line; only the indentation
// may differ. Design notes are exempt: they also show rejected code.
func TestCodeOnPagesIsCompiled(t *testing.T) {
	t.Parallel()
	var sources []string
	for _, f := range files(t, isGo) {
		if compiled(t, f.path) {
			sources = append(sources, normal(f.text))
		}
	}
	readme := false
	var faults []string
	for _, f := range files(t, isMarkdown) {
		readme = readme || f.path == "README.md"
		if !strings.HasPrefix(f.path, "docs/design/") {
			faults = append(faults, codeFaults(f, sources)...)
		}
	}
	report(t, faults)
	if !readme {
		t.Skip("there is no README.md yet; the other pages are checked")
	}
}

func TestCodeThatIsNotCompiledIsFound(t *testing.T) {
	t.Parallel()
	sources := []string{normal("package x\n\nfunc f() {\n\tif true {\n\t\tg(1)\n\t}\n}\n")}
	for _, c := range []struct {
		page string
		want []string
	}{
		{page: "No code.\n```sh\ngo test\n```\n"},
		{page: "```go\nif true {\n    g(1)\n}\n```\n"},
		{page: "1. Text:\n   ```go\n   g(1)\n   ```\n"},
		{page: "text\n```go\ng(2)\n```\n", want: []string{"p.md:2: "}},
		{page: "```go\nif true {\n}\n```\n", want: []string{"p.md:1: "}},
		{page: "```go\n1)\n```\n", want: []string{"p.md:1: "}},
		{page: "```go\n\n```\n", want: []string{"p.md:1: "}},
		{page: "```sh\n```\n```go\ng(1)\n", want: []string{"p.md:3: code block does not end"}},
	} {
		wantFaults(t, c.page, codeFaults(file{"p.md", c.page}, sources), c.want...)
	}
}

func TestPagesNameWhatExists(t *testing.T) {
	t.Parallel()
	names := map[string]bool{}
	for _, f := range files(t, isTest) {
		for _, m := range funcPattern.FindAllStringSubmatch(f.text, -1) {
			names[m[1]] = true
		}
	}
	exists := func(name string) bool {
		_, err := os.Stat(filepath.Join("..", "..", filepath.FromSlash(name)))
		return err == nil
	}
	var faults []string
	for _, f := range files(t, isMarkdown) {
		faults = append(faults, nameFaults(f, names, exists)...)
	}
	report(t, faults)
}

func TestPageThatNamesNothingIsFound(t *testing.T) {
	t.Parallel()
	names := map[string]bool{"TestOne": true}
	exists := func(name string) bool { return name == "docs/a.md" || name == "b.md" || name == "." }
	for _, c := range []struct {
		page string
		want []string
	}{
		{page: "`TestOne/sub` and [a](a.md), [b](../b.md#part), [top](#top), [root](..), [go](https://go.dev/x)"},
		{page: "Testing, ExampleFooter and Tests", want: []string{"ExampleFooter"}},
		{page: "`TestTwo` tries", want: []string{"docs/p.md: there is no TestTwo"}},
		{page: "see [b](b.md)", want: []string{"docs/p.md: there is no docs/b.md"}},
	} {
		wantFaults(t, c.page, nameFaults(file{"docs/p.md", c.page}, names, exists), c.want...)
	}
}

// codeFaults returns the Go code blocks of a page that are in no source.
func codeFaults(page file, sources []string) []string {
	var faults []string
	fence, start, number := "", 0, 0
	var block strings.Builder
	for line := range strings.Lines(page.text) {
		number++
		trimmed := strings.TrimSpace(line)
		switch {
		case fence == "" && strings.HasPrefix(trimmed, "```"):
			fence, start = trimmed, number
			block.Reset()
		case fence != "" && trimmed == "```":
			if fence == "```go" && !anyContains(sources, normal(block.String())) {
				faults = append(faults, fmt.Sprintf("%s:%d: code block is in no compiled file:\n%s", page.path, start, block.String()))
			}
			fence = ""
		case fence != "":
			block.WriteString(line)
		}
	}
	if fence != "" {
		faults = append(faults, fmt.Sprintf("%s:%d: code block does not end", page.path, start))
	}
	return faults
}

// nameFaults returns the tests and files that a page mentions and that do not exist.
func nameFaults(page file, tests map[string]bool, exists func(name string) bool) []string {
	var faults []string
	for _, name := range namePattern.FindAllString(page.text, -1) {
		if !tests[name] {
			faults = append(faults, fmt.Sprintf("%s: there is no %s", page.path, name))
		}
	}
	for _, m := range linkPattern.FindAllStringSubmatch(page.text, -1) {
		link, err := url.Parse(m[1])
		if err != nil {
			faults = append(faults, fmt.Sprintf("%s: link %q: %v", page.path, m[1], err))
			continue
		}
		if target := path.Join(path.Dir(page.path), link.Path); link.Scheme == "" && link.Path != "" && !exists(target) {
			faults = append(faults, fmt.Sprintf("%s: there is no %s", page.path, target))
		}
	}
	return faults
}

// compiled reports whether the go command compiles a file on this machine.
func compiled(t *testing.T, name string) bool {
	t.Helper()
	for segment := range strings.SplitSeq(name, "/") {
		if segment == "testdata" || segment[0] == '_' || segment[0] == '.' {
			return false
		}
	}
	dir := filepath.Join("..", "..", filepath.FromSlash(path.Dir(name)))
	ok, err := build.Default.MatchFile(dir, path.Base(name))
	if err != nil {
		t.Fatalf("read the constraints of %s: %v", name, err)
	}
	return ok
}

// normal returns a text with a newline at both ends, each line without its indentation, and
// without empty lines at the beginning and the end.
func normal(text string) string {
	var b strings.Builder
	b.WriteByte('\n')
	for line := range strings.Lines(strings.TrimSpace(text)) {
		b.WriteString(strings.TrimSpace(line))
		b.WriteByte('\n')
	}
	return b.String()
}

// anyContains reports whether one of the sources contains the block. An empty block is in
// none.
func anyContains(sources []string, block string) bool {
	if strings.TrimSpace(block) == "" {
		return false
	}
	for _, s := range sources {
		if strings.Contains(s, block) {
			return true
		}
	}
	return false
}
