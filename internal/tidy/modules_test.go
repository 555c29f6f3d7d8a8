package tidy_test

import (
	"fmt"
	"path"
	"slices"
	"strings"
	"testing"
)

// moduleDirs are the directories of the workspace's modules. A heavy dependency gets a
// module of its own, so that users who do not need it do not download it.
var moduleDirs = []string{
	".",
	"bench",
	"cmd/perdure",
	"examples",
	"examples/hello",
	"projection/bolttarget",
	"projection/pgxtarget",
	"store/bbolt",
	"store/crashtest",
	"store/open",
	"store/pebble",
	"store/postgres",
	"test",
}

// toolsDir is the module that only pins the programs of the Makefile. It is not part of the
// workspace, so that the requirements of those programs do not affect the other modules.
const toolsDir = "tools"

func TestWorkspaceHoldsEveryModule(t *testing.T) {
	t.Parallel()
	want := slices.Clone(moduleDirs)

	var found []string
	for _, f := range files(t, func(name string) bool { return path.Base(name) == "go.mod" }) {
		if dir := path.Dir(f.path); dir != toolsDir {
			found = append(found, dir)
		}
	}
	if slices.Sort(found); !slices.Equal(found, want) {
		t.Errorf("modules of the tree\n got: %q\nwant: %q", found, want)
	}

	work := files(t, func(name string) bool { return name == "go.work" })[0]
	var used []string
	for _, line := range directives(work.text, "use") {
		used = append(used, path.Clean(line))
	}
	if slices.Sort(used); !slices.Equal(used, want) {
		t.Errorf("modules that go.work uses\n got: %q\nwant: %q", used, want)
	}
}

func TestModuleIsNamedAfterItsDirectory(t *testing.T) {
	t.Parallel()
	versions := map[string]string{}
	for _, f := range files(t, func(name string) bool { return path.Base(name) == "go.mod" || name == "go.work" }) {
		dir := path.Dir(f.path)
		if dir == toolsDir {
			continue
		}
		versions[f.path] = strings.Join(directives(f.text, "go"), " ")
		if f.path == "go.work" {
			continue
		}
		want := []string{path.Join(corePath, dir)}
		if got := directives(f.text, "module"); !slices.Equal(got, want) {
			t.Errorf("%s: module is %q, want %q", f.path, got, want)
		}
	}
	for name, version := range versions {
		if version != versions["go.work"] {
			t.Errorf("%s says go %s, go.work says go %s; they are one", name, version, versions["go.work"])
		}
	}
}

func TestCoreModuleRequiresLittle(t *testing.T) {
	t.Parallel()
	core := files(t, func(name string) bool { return name == "go.mod" })[0]
	report(t, coreFaults(core.text))
}

func TestRequirementOfTheCoreIsFound(t *testing.T) {
	t.Parallel()
	const mod = `module github.com/perdure/perdure

go 1.26

require google.golang.org/protobuf v1.36.12 // fine

require (
	github.com/gofrs/uuid/v5 v5.5.1
	go.etcd.io/bbolt v1.5.0
	golang.org/x/sys v0.49.0 // indirect
)

replace github.com/gofrs/uuid/v5 => ../uuid
`
	wantFaults(t, mod, coreFaults(mod), "requires go.etcd.io/bbolt", "requires golang.org/x/sys", "replaces github.com/gofrs/uuid/v5")
}

// coreFaults returns the forbidden lines in the core module's go.mod: a requirement, even
// an indirect one, of a module that is not in outside, or a replacement, which would hold
// in this repository and not where the module is used.
func coreFaults(mod string) []string {
	var faults []string
	for _, line := range directives(mod, "require") {
		module, _, _ := strings.Cut(line, " ")
		if outside[module] == nil {
			faults = append(faults, fmt.Sprintf("go.mod requires %s, which the core module may not", module))
		}
	}
	for _, line := range directives(mod, "replace") {
		module, _, _ := strings.Cut(line, " ")
		faults = append(faults, fmt.Sprintf("go.mod replaces %s, which no user of the core module would notice", module))
	}
	return faults
}

// directives returns the arguments of a keyword in a go.mod or go.work file, in a line or
// in a block, without comments.
func directives(text, keyword string) []string {
	var found []string
	block := ""
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "//")
		line = strings.TrimSpace(line)
		word, rest, _ := strings.Cut(line, " ")
		switch {
		case line == "":
		case line == ")":
			block = ""
		case block == keyword:
			found = append(found, line)
		case block != "":
		case rest == "(":
			block = word
		case word == keyword:
			found = append(found, rest)
		}
	}
	return found
}
