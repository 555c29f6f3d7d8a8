package tidy_test

import (
	"fmt"
	"path"
	"regexp"
	"strings"
	"testing"
)

var (
	mutantsPattern = regexp.MustCompile("(?m)^Mutants: ((?:.|\n.)+)$")
	quotedPattern  = regexp.MustCompile("`([^`]*)`")
	testPattern    = regexp.MustCompile(`(?m)^Test: (\S+) (\S+)$`)
)

// Each test that must fail with a mutant exists, and each mutant that a page names
// exists too, as a patch or as a broken version inside of a test.
func TestMutantsAndTheirTestsExist(t *testing.T) {
	t.Parallel()
	patches := files(t, func(name string) bool { return path.Dir(name) == "test/mutants" && path.Ext(name) == ".patch" })
	tests := files(t, func(name string) bool { return isTest(name) && !strings.HasPrefix(name, "internal/tidy/") })
	faults := patchFaults(patches, tests)
	for _, f := range files(t, isMarkdown) {
		faults = append(faults, mutantFaults(f, tests, patches)...)
	}
	report(t, faults)
}

func TestMutantsThatDoNotExistAreFound(t *testing.T) {
	t.Parallel()
	tests := []file{{"a_test.go", "func TestOne(t *testing.T) { run(\"two three\") }\n"}, {"b/b_test.go", "func TestTwo(t *testing.T) {}\n"}}
	patches := []file{
		{"test/mutants/eight.patch", "It breaks.\nPromise: G1\nTest: . TestOne\nTest: ./b TestTwo\n"},
		{"test/mutants/ten.patch", "It breaks.\nPromise: G1\nTest: ./b TestOne\n"},
	}
	wantFaults(t, patches[1].text, patchFaults(patches, tests), "test/mutants/ten.patch: ./b has no TestOne")
	page := file{"p.md", "Text `x`.\n\nMutants: `eight`, `two\nthree`, `six`.\n\n`seven`\n\nMutants: `ten`, `nine`.\n"}
	wantFaults(t, page.text, mutantFaults(page, tests, patches), `there is no mutant "six"`, `"nine"`)
}

// patchFaults returns the tests that patches name and that do not exist.
func patchFaults(patches, tests []file) (faults []string) {
	known := make(map[string]bool) // by package and name
	for _, f := range tests {
		for _, m := range funcPattern.FindAllStringSubmatch(f.text, -1) {
			known[goPackage(f.path)+" "+m[1]] = true
		}
	}
	for _, p := range patches {
		for _, m := range testPattern.FindAllStringSubmatch(p.text, -1) {
			if !known[path.Clean(m[1])+" "+m[2]] {
				faults = append(faults, fmt.Sprintf("%s: %s has no %s", p.path, m[1], m[2]))
			}
		}
	}
	return faults
}

// mutantFaults returns the mutants that a page names, in paragraphs that begin with
// "Mutants:", and that are neither a patch nor named by a test.
func mutantFaults(page file, tests, patches []file) (faults []string) {
	known := make(map[string]bool)
	for _, p := range patches {
		known[strings.TrimSuffix(path.Base(p.path), ".patch")] = true
	}
	for _, p := range mutantsPattern.FindAllStringSubmatch(page.text, -1) {
		for _, m := range quotedPattern.FindAllStringSubmatch(p[1], -1) {
			name := strings.Join(strings.Fields(m[1]), " ")
			if !known[name] && !anyQuotes(tests, name) {
				faults = append(faults, fmt.Sprintf("%s: there is no mutant %q", page.path, name))
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
