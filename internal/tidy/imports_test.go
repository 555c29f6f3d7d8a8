package tidy_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"path"
	"strconv"
	"strings"
	"testing"
)

// A room is a set of packages that the import rule treats as one: a package, or a package
// with all packages below it. Its name is a path from the root of the repository, in which
// * stands for one segment, and a last ... for any number of segments, including none.
type room = string

// floors lists the rooms from the top layer to the bottom layer. A package imports only
// packages on a floor below its own, and packages of its own room. Packages on one floor do
// not import each other. Tests are free: they may import everything that their module
// requires.
var floors = [][]room{
	{"bench/...", "cmd/*/...", "examples/*/...", "test/*/...", "tools/..."},
	{"store/open/...", "projection/projectiontest"},
	{"dashboard/...", "otel/...", "cluster/*/...", "store/memory", "store/storetest/...", "store/crashtest/...", "store/bbolt/...", "store/pebble/...", "store/postgres/..."},
	{"projection/...", "perduretest", "actor/actortest", "stream/streamtest"},
	{"."},
	{"internal/kindrules", "internal/intercept"},
	{"internal/core/entity"},
	{"internal/core/commit", "internal/core/outbox", "internal/core/projector"},
	{"stream", "cluster", "internal/storecore", "internal/testlog"},
	{"internal/damage"},
	{"store/admin"},
	{"actor", "store"},
	{"internal/*/..."},
	{"proto/..."},
}

// outside names the modules that the core module may require, and the rooms that may import
// them. All other packages import only the standard library.
var outside = map[string][]room{
	"google.golang.org/protobuf": {".", "store", "store/memory", "perduretest", "projection/...", "stream", "cluster", "internal/*/...", "proto/..."},
	"github.com/gofrs/uuid/v5":   {".", "store", "store/memory", "perduretest", "internal/*/..."},
	// For the differences that a failed test prints.
	"github.com/google/go-cmp": {"perduretest"},
	// For random sequences, and shorter ones that fail in the same way.
	"pgregory.net/rapid": {"store/storetest"},
}

func TestImportsPointDown(t *testing.T) {
	t.Parallel()
	fset := token.NewFileSet()
	var faults []string
	for _, f := range files(t, func(name string) bool { return isGo(name) && !isTest(name) }) {
		faults = append(faults, importFaults(f.path, parse(t, fset, f, parser.ImportsOnly))...)
	}
	report(t, faults)
}

func TestImportThatPointsUpIsFound(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		from, imports string
		want          []string
	}{
		{from: "store/log.go", imports: corePath + "/proto/perdure/v1"},
		{from: "engine.go", imports: corePath + "/internal/core/entity"},
		{from: "examples/library/main.go", imports: corePath + "/examples/library/proto/library/v1"},
		{from: "store/bbolt/log.go", imports: "go.etcd.io/bbolt"},
		{from: "perduretest/given.go", imports: "github.com/google/go-cmp/cmp"},
		{from: "actor/system.go", imports: "log/slog"},
		{from: "store/log.go", imports: corePath + "/store/memory", want: []string{"store imports store/memory, which is not below it"}},
		{from: "store/log.go", imports: corePath, want: []string{"store imports the root package, which is not below it"}},
		{from: "store/memory/log.go", imports: corePath + "/store/bbolt", want: []string{"which is not below it"}},
		{from: "examples/library/main.go", imports: corePath + "/examples/bank", want: []string{"which is not below it"}},
		{from: "util/util.go", imports: "fmt", want: []string{"util has no place on any floor"}},
		{from: "store/log.go", imports: corePath + "/store/new", want: []string{"store/new has no place on any floor"}},
		{from: "actor/system.go", imports: "google.golang.org/protobuf/proto", want: []string{"actor imports google.golang.org/protobuf/proto, which it may not"}},
		{from: "engine.go", imports: "github.com/google/go-cmp/cmp", want: []string{"which it may not"}},
		{from: "store/log.go", imports: "google.golang.org/protobufs", want: []string{"which it may not"}},
	} {
		source := fmt.Sprintf("package x\nimport %q\n", c.imports)
		syntax := parse(t, token.NewFileSet(), file{c.from, source}, parser.ImportsOnly)
		wantFaults(t, c.from+": "+source, importFaults(c.from, syntax), c.want...)
	}
}

// importFaults returns the forbidden imports of one Go file.
func importFaults(name string, syntax *ast.File) []string {
	from := goPackage(name)
	high, home := floorOf(from)
	if high < 0 {
		return []string{fmt.Sprintf("%s has no place on any floor; give it one in internal/tidy", title(from))}
	}
	var faults []string
	for _, spec := range syntax.Imports {
		imported, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			panic(err) // the parser has accepted it
		}
		to, ours := within(imported, corePath)
		if !ours {
			if inCore(from) && !mayImport(from, imported) {
				faults = append(faults, fmt.Sprintf("%s imports %s, which it may not", title(from), imported))
			}
			continue
		}
		low, there := floorOf(to)
		switch {
		case low < 0:
			faults = append(faults, fmt.Sprintf("%s has no place on any floor; give it one in internal/tidy", title(to)))
		case low <= high && there != home:
			faults = append(faults, fmt.Sprintf("%s imports %s, which is not below it", title(from), title(to)))
		}
	}
	return faults
}

// mayImport reports whether a package of the core module may import a package of another
// project.
func mayImport(from, imported string) bool {
	first, _, _ := strings.Cut(imported, "/")
	if !strings.Contains(first, ".") {
		return true // the standard library
	}
	for module, rooms := range outside {
		if _, ok := within(imported, module); !ok {
			continue
		}
		for _, r := range rooms {
			if _, ok := match(r, from); ok {
				return true
			}
		}
	}
	return false
}

// inCore reports whether a package belongs to the core module. For other packages their own
// go.mod says which modules they may import.
func inCore(pkg string) bool {
	for _, dir := range append([]string{toolsDir}, moduleDirs...) {
		if _, ok := within(pkg, dir); ok && dir != "." {
			return false
		}
	}
	return true
}

// floorOf returns the number of a package's floor, 0 for the top one, and the package or
// directory at which its room begins; -1 if no floor has it. A more exact name of a room
// takes precedence over one with a star.
func floorOf(pkg string) (floor int, home string) {
	floor = -1
	stars := 0
	for i, rooms := range floors {
		for _, r := range rooms {
			at, ok := match(r, pkg)
			if n := strings.Count(r, "*"); ok && (floor < 0 || n < stars) {
				floor, home, stars = i, at, n
			}
		}
	}
	return floor, home
}

// match reports whether a package is in a room, and where the room begins.
func match(r room, pkg string) (home string, ok bool) {
	deep := strings.HasSuffix(r, "/...")
	r = strings.TrimSuffix(r, "/...")
	segments := strings.Split(pkg, "/")
	n := strings.Count(r, "/") + 1
	if len(segments) < n || len(segments) > n && !deep {
		return "", false
	}
	home = strings.Join(segments[:n], "/")
	ok, err := path.Match(r, home)
	if err != nil {
		panic(err) // a pattern in the tables above is wrong
	}
	return home, ok
}

// within returns the path below a parent, "." for the parent itself.
func within(p, parent string) (below string, ok bool) {
	if p == parent {
		return ".", true
	}
	return strings.CutPrefix(p, parent+"/")
}

func title(pkg string) string {
	if pkg == "." {
		return "the root package"
	}
	return pkg
}
