package tidy_test

import (
	"fmt"
	"path"
	"regexp"
	"strings"
	"testing"
)

var (
	brokenPattern = regexp.MustCompile(`canary\.Broken\("([^"]*)"\)`)
	twinsPattern  = regexp.MustCompile("(?m)^(?:Twins|Mutants): ((?:.|\n.)+)$")
	quotedPattern = regexp.MustCompile("`([^`]*)`")
)

// A twin is a line of internal/canary/twins.txt: a mutant in the code, and a test for it.
type twin struct{ promise, name, pkg, test string }

// twins reads the list of the mutants that are in the code itself.
func twins(list file) (found []twin, faults []string) {
	number := 0
	for line := range strings.Lines(list.text) {
		number++
		words := strings.Fields(line)
		switch {
		case len(words) == 0 || words[0][0] == '#':
		case len(words) != 4:
			faults = append(faults, fmt.Sprintf("%s:%d: want a promise, a twin, a package and a test", list.path, number))
		default:
			found = append(found, twin{words[0], words[1], path.Clean(words[2]), words[3]})
		}
	}
	return found, faults
}

// twinFaults compares the list with the code: the code asks about each mutant in the list,
// each mutant that it asks about is in the list, and the tests exist.
func twinFaults(list file, sources []file) []string {
	found, faults := twins(list)
	asked := make(map[string]bool)
	tests := make(map[string]bool) // by package and name
	for _, f := range sources {
		if isTest(f.path) {
			for _, m := range funcPattern.FindAllStringSubmatch(f.text, -1) {
				tests[goPackage(f.path)+" "+m[1]] = true
			}
			continue
		}
		for _, m := range brokenPattern.FindAllStringSubmatch(f.text, -1) {
			if goPackage(f.path) != "internal/canary" {
				asked[m[1]] = true
			}
		}
	}
	listed := make(map[string]bool)
	for _, w := range found {
		listed[w.name] = true
		if !asked[w.name] {
			faults = append(faults, fmt.Sprintf("%s: no code asks about %s", list.path, w.name))
		}
		if !tests[w.pkg+" "+w.test] {
			faults = append(faults, fmt.Sprintf("%s: %s has no %s", list.path, w.pkg, w.test))
		}
	}
	for name := range asked {
		if !listed[name] {
			faults = append(faults, fmt.Sprintf("%s: %s is not in it", list.path, name))
		}
	}
	return faults
}

// twinNameFaults returns the mutants that a page mentions, in paragraphs that begin with
// "Twins:" or "Mutants:", and that are neither in the list, nor named by a test, nor a
// patch.
func twinNameFaults(page, list file, tests []file, mutants []string) []string {
	known := make(map[string]bool)
	for _, name := range mutants {
		known[name] = true
	}
	found, _ := twins(list)
	for _, w := range found {
		known[w.name] = true
	}
	var faults []string
	for _, p := range twinsPattern.FindAllStringSubmatch(page.text, -1) {
		for _, m := range quotedPattern.FindAllStringSubmatch(p[1], -1) {
			name := strings.Join(strings.Fields(m[1]), " ")
			if !known[name] && !anyQuotes(tests, name) {
				faults = append(faults, fmt.Sprintf("%s: there is no twin or mutant %q", page.path, name))
			}
		}
	}
	return faults
}

func anyQuotes(sources []file, name string) bool {
	for _, f := range sources {
		if strings.Contains(f.text, `"`+name+`"`) {
			return true
		}
	}
	return false
}

func twinList(t *testing.T) file {
	t.Helper()
	return files(t, func(name string) bool { return name == "internal/canary/twins.txt" })[0]
}

func TestEveryTwinHasATestThatMustFail(t *testing.T) {
	t.Parallel()
	report(t, twinFaults(twinList(t), files(t, isGo)))
}

func TestPagesNameTwinsThatExist(t *testing.T) {
	t.Parallel()
	list, tests := twinList(t), files(t, func(name string) bool {
		return isTest(name) && !strings.HasPrefix(name, "internal/tidy/")
	})
	var mutants []string
	for _, f := range files(t, func(name string) bool { return path.Dir(name) == "test/mutants" && path.Ext(name) == ".patch" }) {
		mutants = append(mutants, strings.TrimSuffix(path.Base(f.path), ".patch"))
	}
	var faults []string
	for _, f := range files(t, isMarkdown) {
		faults = append(faults, twinNameFaults(f, list, tests, mutants)...)
	}
	report(t, faults)
}

func TestAWrongTwinIsFound(t *testing.T) {
	t.Parallel()
	list := file{"twins.txt", "# a comment\nG1 one . TestOne\nG2 two ./b TestTwo\nG3 three\nG4 four . TestOne\n"}
	sources := []file{
		{"a.go", `if canary.Broken("one") || canary.Broken("five") {}`},
		{"a_test.go", "func TestOne(t *testing.T) {}\n"},
		{"b/b.go", `if canary.Broken("two") {}`},
	}
	wantFaults(t, list.text, twinFaults(list, sources),
		"twins.txt:4: want", "b has no TestTwo", "no code asks about four", "five is not in it")
	page := file{"p.md", "Text `x`.\n\nTwins: `one`, `two\nthree`, `six`.\n\n`seven`\n\nMutants: `eight`, `nine`.\n"}
	tests := []file{{"a_test.go", `name: "two three"`}}
	wantFaults(t, page.text, twinNameFaults(page, list, tests, []string{"eight"}), `there is no twin or mutant "six"`, `"nine"`)
}
