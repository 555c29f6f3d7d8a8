// Package tidy_test checks rules for the repository as a whole: which package may import
// which, which modules each module may require, that every exported name is documented, and
// that the pages agree with the code.
//
// A check is a function from sources to the faults in them. It runs over the tree, and over
// a small source with planted faults, which shows that the check still finds faults.
package tidy_test

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

// corePath is the path of the core module. Every other module is below it, in the directory
// that its path names.
const corePath = "github.com/perdure/perdure"

// A file is one text file of the tree.
type file struct {
	path string // relative to the root of the tree, with slashes
	text string
}

// tree returns the text files of the repository, sorted by path, without ignored files and
// the files of version control.
var tree = sync.OnceValues(func() ([]file, error) {
	root := filepath.Join("..", "..")
	var files []file
	err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, name)
		if err != nil {
			return err
		}
		rel = filepath.ToSlash(rel)
		if d.IsDir() {
			if rel == ".git" || rel == "bin" {
				return filepath.SkipDir
			}
			return nil
		}
		if !d.Type().IsRegular() || ignored(rel) {
			return nil
		}
		text, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		if bytes.IndexByte(text, 0) < 0 {
			files = append(files, file{rel, string(text)})
		}
		return nil
	})
	return files, err
})

// ignored reports whether a file is the output of a tool, as .gitignore says.
func ignored(name string) bool {
	if name == ".git" { // a linked work tree has a file of that name
		return true
	}
	switch path.Ext(name) {
	case ".test", ".prof", ".out", ".db":
		return true
	}
	return name == "notices.txt"
}

// files returns the files of the tree for which keep returns true.
func files(t *testing.T, keep func(name string) bool) []file {
	t.Helper()
	if testing.Short() {
		t.Skip("-short: it only looks at files")
	}
	all, err := tree()
	if err != nil {
		t.Fatalf("read the tree: %v", err)
	}
	var kept []file
	for _, f := range all {
		if keep(f.path) {
			kept = append(kept, f)
		}
	}
	if len(kept) == 0 {
		t.Fatal("no file to check: the tree is not where this test looks for it")
	}
	return kept
}

func isGo(name string) bool       { return strings.HasSuffix(name, ".go") }
func isTest(name string) bool     { return strings.HasSuffix(name, "_test.go") }
func isMarkdown(name string) bool { return strings.HasSuffix(name, ".md") }

// goPackage returns the directory of a file, relative to the root; the root itself is ".".
func goPackage(name string) string { return path.Dir(name) }

func parse(t *testing.T, fset *token.FileSet, f file, mode parser.Mode) *ast.File {
	t.Helper()
	syntax, err := parser.ParseFile(fset, f.path, f.text, mode)
	if err != nil {
		t.Fatal(err)
	}
	return syntax
}

// report fails the test with each fault once, in order.
func report(t *testing.T, faults []string) {
	t.Helper()
	slices.Sort(faults)
	for _, fault := range slices.Compact(faults) {
		t.Error(fault)
	}
}

// wantFaults compares the faults that a check found in a source with the planted ones:
// there must be as many as in want, in order, each containing the wanted text.
func wantFaults(t *testing.T, input string, got []string, want ...string) {
	t.Helper()
	if !slices.EqualFunc(got, want, strings.Contains) {
		t.Errorf("faults\n got: %q\nwant: %q (or more words)\ninput:\n%s", got, want, input)
	}
}
