package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// Each patch must apply to the tree and name tests that exist. make mutants shows that the tests
// fail.
func TestMutants(t *testing.T) { //nolint:tparallel // the parts share what they have read, and are short
	t.Parallel()
	root, err := findRoot()
	if err != nil {
		t.Fatal(err)
	}
	all, err := load(filepath.Join(root, dir))
	if err != nil {
		t.Fatal(err)
	}
	if len(all) == 0 {
		t.Fatalf("there is no patch in %s", dir)
	}
	functions := make(map[string]string) // by package: the text of all its test files
	for _, m := range all {
		t.Run(m.name, func(t *testing.T) {
			tr := trial{root: root}
			if _, err := tr.apply(t.Context(), m, t.TempDir()); err != nil {
				t.Error(err)
			}
			for _, x := range m.tests {
				if _, read := functions[x.pkg]; !read {
					functions[x.pkg] = testFiles(t, filepath.Join(root, x.pkg))
				}
				if !regexp.MustCompile(`(?m)^func ` + x.name + `\(`).MatchString(functions[x.pkg]) {
					t.Errorf("there is no %v", x)
				}
			}
		})
	}
}

func testFiles(t *testing.T, pkg string) string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(pkg, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		all.Write(text)
	}
	return all.String()
}

func TestMutantWithAMistakeInItsHeaderIsRefused(t *testing.T) {
	t.Parallel()
	const diff = "--- a/x.go\n+++ b/x.go\n@@ -1 +1 @@\n-a\n+b\n"
	for text, want := range map[string]string{
		"Promise: G1\nTest: . TestX\n" + diff:                     "does not say what",
		"It breaks.\nTest: . TestX\n" + diff:                      "no line \"Promise",
		"It breaks.\nPromise: G13\nTest: . TestX\n" + diff:        `line 2: want one promise, G1 to G12, got "G13"`,
		"It breaks.\nPromise: G1\nPromise: G2\n" + diff:           "line 3: want one promise",
		"It breaks.\nPromise: G1\nRuns: 1\n" + diff:               `line 3: want a number of runs from 2 to 1000, got "1"`,
		"It breaks.\nPromise: G1\nEnds: it\n" + diff:              `line 3: want "Ends: the process", got "it"`,
		"It breaks.\nPromise: G1\n" + diff:                        "no line \"Test",
		"It breaks.\nPromise: G1\nTest: store TestX\n" + diff:     "line 3: want a package and a test",
		"It breaks.\nPromise: G1\nTest: ./store Benchmark\n":      "line 3: want a package and a test",
		"It breaks.\nPromise: G1\nTest: ./store TestX\nno diff\n": "there is no diff",
	} {
		if _, err := parse(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want an error with %q, of:\n%s", err, want, text)
		}
	}
	m, err := parse("It breaks\na rule.\nPromise: G1\nTest: . TestX\nTest: ./store TestY\n\n" + diff)
	if err != nil || m.says != "It breaks\na rule." || len(m.tests) != 2 || len(m.files) != 1 || m.files[0] != "x.go" {
		t.Errorf("got %+v, %v", m, err)
	}
}

func TestMutantThatEndsTheProcessIsToldFromOneThatDoesNotCompile(t *testing.T) {
	t.Parallel()
	m, err := parse("It breaks.\nPromise: G1\nEnds: the process\nTest: . TestX\n\n--- a/x.go\n+++ b/x.go\n")
	if err != nil || !m.ends {
		t.Errorf("got %+v, %v, want a mutant that ends the process", m, err)
	}
	const end = "FAIL\texample.com/x\t0.053s\nFAIL\n"
	for out, want := range map[string]bool{
		"panic: fault\n\ngoroutine 7 [running]:\n" + end:                                   true,
		"fatal error: all goroutines are asleep - deadlock!\n" + end:                       true,
		"panic: test timed out after 2m0s\n\trunning tests:\n" + end:                       false,
		"--- FAIL: TestX (0.00s)\n    x_test.go:3: want no panic: got one\n" + end:         false,
		"# example.com/x\npanic: the compiler\nFAIL\texample.com/x [build failed]\nFAIL\n": false,
		"panic: fault\nexit status 2\n":                                                    false,
		"ok  \texample.com/x\t0.053s\n":                                                    false,
	} {
		if got := endsProcess(out); got != want {
			t.Errorf("got %t, want %t, of:\n%s", got, want, out)
		}
	}
}

func TestMutantThatDoesNotApplyIsRefused(t *testing.T) {
	t.Parallel()
	tr := trial{root: t.TempDir()}
	if err := os.WriteFile(filepath.Join(tr.root, "x.go"), []byte("package x\n\nconst A = 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for patch, want := range map[string]string{
		"--- a/x.go\n+++ b/x.go\n@@ -2,2 +2,2 @@\n \n-const A = 1\n+const A = 2\n": "",
		"--- a/x.go\n+++ b/x.go\n@@ -2,2 +2,2 @@\n \n-const B = 1\n+const B = 2\n": "does not apply",
		"--- a/y.go\n+++ b/y.go\n@@ -2,2 +2,2 @@\n \n-const B = 1\n+const B = 2\n": "a file that is not there",
	} {
		m, err := parse("It breaks.\nPromise: G1\nTest: . TestX\n\n" + patch)
		if err != nil {
			t.Fatal(err)
		}
		_, err = tr.apply(t.Context(), m, t.TempDir())
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("got %v, want %q, of:\n%s", err, want, patch)
		}
	}
}

func TestChooseTakesAnotherPartEveryDay(t *testing.T) {
	t.Parallel()
	all := []mutant{{name: "a"}, {name: "b"}, {name: "c"}}
	seen := make(map[string]int)
	for day := range 3 {
		chosen, err := choose(all, nil, 2, time.Unix(int64(day)*24*60*60, 0))
		if err != nil || len(chosen) != 2 {
			t.Fatalf("got %v, %v", chosen, err)
		}
		for _, m := range chosen {
			seen[m.name]++
		}
	}
	if seen["a"] != 2 || seen["b"] != 2 || seen["c"] != 2 {
		t.Errorf("in three days each of three is chosen twice: %v", seen)
	}
	if chosen, err := choose(all, []string{"test/mutants/c.patch", "a"}, 0, time.Time{}); err != nil || len(chosen) != 2 || chosen[0].name != "c" {
		t.Errorf("by name: got %v, %v", chosen, err)
	}
	for _, c := range []struct {
		names []string
		n     int
	}{{[]string{"d"}, 0}, {[]string{"a"}, 1}, {nil, -1}} {
		if _, err := choose(all, c.names, c.n, time.Time{}); err == nil {
			t.Errorf("names %v with -n %d are accepted", c.names, c.n)
		}
	}
}
