package tidy_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// User code is called through functions and interfaces that users hand over. Each place
// where a package calls user code is a row of the table named hooks in its tests, which
// makes the code fail (see package hooktest), or a line of usercode.txt, which says why it
// has no row. A place has one of these names:
//
//   - Perform(fn): a parameter that is a function, of an exported function or method.
//   - Engine.Events(yield): the loop over an iterator that the method returns.
//   - Backoff.Random: an exported field that is a function.
//   - Func: an exported function type.
//   - store.Log.Commit: a method of an interface that users can implement, where the
//     package calls it; without the name of the package if the interface is the package's
//     own.
//   - error.Is: package errors calls that method; slog.Handler.Handle: a logger does.
//
// A row may say more after a comma: "error.Is, of a handler".

// hookTables maps a package to the package whose table covers it.
var hookTables = map[string]string{
	"internal/core/commit":    ".",
	"internal/core/entity":    ".",
	"internal/fingerprint":    ".",
	"internal/core/outbox":    ".",
	"internal/core/projector": "projection",
	"internal/damage":         "projection",
	"internal/wheel":          "actor",
}

// withoutUsers are packages that call no user code: programs, and packages that only tests
// use, where a fault of the user's test may end the test.
var withoutUsers = []string{
	"bench/...", "cmd/...", "examples/...", "test/...", "proto/...",
	"actor/actortest", "perduretest", "projection/projectiontest", "stream/streamtest",
	"store/crashtest/...", "store/storetest/...", "store/postgres/pgtest",
	"internal/guard", "internal/hooktest", "internal/progress", "internal/scribble", "internal/storecore",
	"internal/testlog", "internal/testproto/...",
}

// theirs are the packages whose interfaces users do not implement in the places where our
// code calls them: the values come from the standard library, from protobuf, or from the
// driver that a package opens itself.
var theirs = []string{"hash", "net", "os", "pebble", "pgx", "protoreflect", "runtime", "sync", "syscall", "uuid", "vfs"}

func TestCodeOfUsersIsInATable(t *testing.T) {
	t.Parallel()
	reasons := files(t, func(name string) bool { return name == "internal/tidy/usercode.txt" })[0]
	tables := map[string]map[string]bool{}
	for _, f := range files(t, func(name string) bool { return path.Base(name) == "hooks_test.go" }) {
		tables[goPackage(f.path)] = hookRows(parse(t, token.NewFileSet(), f, parser.SkipObjectResolution))
	}
	found := map[string]map[string]bool{}
	for pkg, places := range placesOf(t) {
		if home, ok := hookTables[pkg]; ok {
			pkg = home
		} else if slices.ContainsFunc(withoutUsers, func(r room) bool { _, ok := match(r, pkg); return ok }) {
			continue
		}
		if found[pkg] == nil {
			found[pkg] = map[string]bool{}
		}
		maps.Copy(found[pkg], places)
	}
	report(t, userCodeFaults(reasons, found, tables))
}

func TestCodeOfUsersWithoutARowIsFound(t *testing.T) {
	t.Parallel()
	const source = `package shelf

import (
	"context"
	"errors"
	"iter"
	"log/slog"
)

type Sorter interface{ Less(a, b int) bool }

type sealed interface{ sort() }

type Config struct {
	Label func(int) string
	Logger *slog.Logger
	label func()
}

type Rule func()

func (c *Config) All() iter.Seq[int] { return nil }

func Sort(s Sorter, x sealed, each func(), rest ...Rule) { s.Less(1, 2); x.sort() }

func wait(ctx context.Context, c Config) bool { c.Logger.Info("x"); return errors.Is(ctx.Err(), nil) }
`
	fset := token.NewFileSet()
	syntax, err := parser.ParseFile(fset, "shelf.go", source, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	places := map[string]bool{}
	pkg, info, err := checked(fset, "shelf", []*ast.File{syntax}, importer.ForCompiler(fset, "source", nil))
	if err != nil {
		t.Fatal(err)
	}
	offers(pkg, places)
	calls(pkg, info, syntax, places)
	want := []string{
		"Config.All(yield)", "Config.Label", "Rule", "Sort(each)", "Sort(rest)", "Sorter.Less",
		"context.Context.Err", "error.Is", "slog.Handler.Handle",
	}
	if got := slices.Sorted(maps.Keys(places)); !slices.Equal(got, want) {
		t.Errorf("places\n got: %q\nwant: %q", got, want)
	}
	reasons := file{"usercode.txt", "# words\nshelf Sort(*) runs on the goroutine of the caller\nshelf Gone is no more\nshelf Rule\n"}
	rows := map[string]map[string]bool{"shelf": {"Rule": true, "error.Is, of a rule": true, "Lost": true, "Config.Label": true}}
	got := userCodeFaults(reasons, map[string]map[string]bool{"shelf": places}, rows)
	wantFaults(t, source, slices.Sorted(slices.Values(got)),
		"shelf calls code of users at Config.All(yield), which has no row", "at Sorter.Less", "at context.Context.Err", "at slog.Handler.Handle",
		"shelf has a row for Lost, where it calls no code of users",
		"usercode.txt:3: shelf does not call Gone", "usercode.txt:4: want a package, a place and a reason")
}

// userCodeFaults compares the places with the tables and the reasons.
func userCodeFaults(reasons file, found, tables map[string]map[string]bool) (faults []string) {
	excused := map[string]map[string]bool{}
	number := 0
	for line := range strings.Lines(reasons.text) {
		number++
		words := strings.Fields(line)
		if len(words) == 0 || words[0] == "#" {
			continue
		}
		if len(words) < 3 {
			faults = append(faults, fmt.Sprintf("%s:%d: want a package, a place and a reason", reasons.path, number))
			continue
		}
		used := false
		for place := range found[words[0]] {
			prefix, wild := strings.CutSuffix(words[1], "*")
			if prefixed, open := strings.CutSuffix(words[1], "*)"); open {
				prefix, wild = prefixed, true
			}
			if place == words[1] || wild && strings.HasPrefix(place, prefix) {
				used = true
				if excused[words[0]] == nil {
					excused[words[0]] = map[string]bool{}
				}
				excused[words[0]][place] = true
			}
		}
		if !used {
			faults = append(faults, fmt.Sprintf("%s:%d: %s does not call %s", reasons.path, number, title(words[0]), words[1]))
		}
	}
	for pkg, places := range found {
		for place := range places {
			row := func(row string) bool { return row == place || strings.HasPrefix(row, place+", ") }
			if !excused[pkg][place] && !slices.ContainsFunc(slices.Collect(maps.Keys(tables[pkg])), row) {
				faults = append(faults, fmt.Sprintf("%s calls code of users at %s, which has no row in the table hooks of its hooks_test.go, "+
					"and no reason in %s", title(pkg), place, reasons.path))
			}
		}
		for row := range tables[pkg] {
			if place, _, _ := strings.Cut(row, ", "); !places[place] && strings.ToLower(place[:1]) != place[:1] {
				faults = append(faults, fmt.Sprintf("%s has a row for %s, where it calls no code of users", title(pkg), row))
			}
		}
	}
	return faults
}

// hookRows returns the keys of the table hooks.
func hookRows(syntax *ast.File) map[string]bool {
	rows := map[string]bool{}
	for _, d := range syntax.Decls {
		g, ok := d.(*ast.GenDecl)
		if !ok {
			continue
		}
		for _, s := range g.Specs {
			v, ok := s.(*ast.ValueSpec)
			if !ok || v.Names[0].Name != "hooks" || len(v.Values) != 1 {
				continue
			}
			if table, ok := v.Values[0].(*ast.CompositeLit); ok {
				for _, e := range table.Elts {
					if kv, ok := e.(*ast.KeyValueExpr); ok {
						if key, ok := kv.Key.(*ast.BasicLit); ok {
							text, _ := strconv.Unquote(key.Value)
							rows[text] = true
						}
					}
				}
			}
		}
	}
	return rows
}

// A listed package is an entry in the output of go list.
type listed struct {
	ImportPath, Dir, Export string
	GoFiles                 []string
	DepOnly                 bool
}

// placesOf returns the places of all packages of the workspace.
func placesOf(t *testing.T) map[string]map[string]bool {
	t.Helper()
	packages, err := workspace()
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]map[string]bool{}
	for _, p := range packages {
		places := map[string]bool{}
		if !isInternal(p.below) {
			offers(p.types, places)
		}
		for _, f := range p.syntax {
			calls(p.types, p.info, f, places)
		}
		found[p.below] = places
	}
	return found
}

// A checkedPackage is a package of the workspace with its types.
type checkedPackage struct {
	below  string // path below corePath, "." for the root package
	syntax []*ast.File
	types  *types.Package
	info   *types.Info
}

// workspace returns all packages of the workspace, without tests.
var workspace = sync.OnceValues(func() ([]checkedPackage, error) {
	args := []string{"list", "-deps", "-export", "-json=ImportPath,Dir,Export,GoFiles,DepOnly"}
	for _, dir := range moduleDirs {
		args = append(args, "./"+dir+"/...")
	}
	cmd := exec.Command("go", args...)
	cmd.Dir, cmd.Stderr = filepath.Join("..", ".."), os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go list: %w", err)
	}
	all := map[string]*listed{}
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		p := new(listed)
		if err := d.Decode(p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, err
		}
		all[p.ImportPath] = p
	}
	fset := token.NewFileSet()
	exports := importer.ForCompiler(fset, "gc", func(path string) (io.ReadCloser, error) { return os.Open(all[path].Export) })
	var packages []checkedPackage
	for name, p := range all {
		below, ours := within(name, corePath)
		if p.DepOnly || !ours {
			continue
		}
		var syntax []*ast.File
		for _, name := range p.GoFiles {
			f, err := parser.ParseFile(fset, filepath.Join(p.Dir, name), nil, parser.SkipObjectResolution)
			if err != nil {
				return nil, err
			}
			syntax = append(syntax, f)
		}
		pkg, info, err := checked(fset, name, syntax, exports)
		if err != nil {
			return nil, err
		}
		packages = append(packages, checkedPackage{below, syntax, pkg, info})
	}
	return packages, nil
})

// isInternal reports whether only packages of the workspace can import a package.
func isInternal(pkg string) bool { return slices.Contains(strings.Split(pkg, "/"), "internal") }

// checked type-checks a package.
func checked(fset *token.FileSet, name string, syntax []*ast.File, imports types.Importer) (*types.Package, *types.Info, error) {
	info := &types.Info{Selections: map[*ast.SelectorExpr]*types.Selection{}, Types: map[ast.Expr]types.TypeAndValue{}, Uses: map[*ast.Ident]types.Object{}}
	pkg, err := (&types.Config{Importer: imports}).Check(name, fset, syntax, info)
	return pkg, info, err
}

// offers records the places where exported names of a package take functions of users.
func offers(pkg *types.Package, places map[string]bool) {
	for _, name := range pkg.Scope().Names() {
		o := pkg.Scope().Lookup(name)
		if !o.Exported() {
			continue
		}
		if f, ok := o.(*types.Func); ok {
			functions(name, f.Signature(), places)
		}
		named, ok := o.Type().(*types.Named)
		if _, isType := o.(*types.TypeName); !ok || !isType || named.Obj() != o {
			continue
		}
		switch u := named.Underlying().(type) {
		case *types.Signature:
			places[name] = true
		case *types.Struct:
			for f := range u.Fields() {
				if f.Exported() && isFunction(f.Type()) {
					places[name+"."+f.Name()] = true
				}
			}
		}
		for m := range named.Methods() {
			if m.Exported() {
				functions(name+"."+m.Name(), m.Signature(), places)
			}
		}
	}
}

// functions records the parameters of a function that are functions, and its iterators.
func functions(name string, s *types.Signature, places map[string]bool) {
	for p := range s.Params().Variables() {
		if isFunction(p.Type()) {
			places[name+"("+p.Name()+")"] = true
		}
	}
	for r := range s.Results().Variables() {
		f, ok := r.Type().Underlying().(*types.Signature)
		if ok && f.Params().Len() == 1 && isFunction(f.Params().At(0).Type()) {
			places[name+"(yield)"] = true
		}
	}
}

func isFunction(t types.Type) bool {
	if s, ok := t.Underlying().(*types.Slice); ok {
		t = s.Elem()
	}
	_, ok := t.Underlying().(*types.Signature)
	return ok
}

// calls records the interface methods that a file calls and users can implement.
func calls(pkg *types.Package, info *types.Info, f *ast.File, places map[string]bool) {
	ast.Inspect(f, func(n ast.Node) bool {
		s, ok := n.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		method := s.Sel.Name
		if o, ok := info.Uses[s.Sel].(*types.Func); ok && o.Pkg() != nil && o.Pkg().Path() == "errors" {
			switch method {
			case "Is", "As", "Unwrap":
				places["error."+method] = true
			case "AsType":
				places["error.As"] = true
			}
			return true
		}
		selected := info.Selections[s]
		if selected == nil || selected.Kind() != types.MethodVal {
			return true
		}
		receiver := selected.Recv()
		if types.TypeString(receiver, nil) == "*log/slog.Logger" {
			places["slog.Handler.Handle"] = true
			return true
		}
		if p, ok := receiver.(*types.TypeParam); ok {
			receiver = p.Constraint()
		}
		i, ok := receiver.Underlying().(*types.Interface)
		if !ok || !implementable(i) || internal(receiver) {
			return true
		}
		name := interfaceName(pkg, receiver)
		if from, _, _ := strings.Cut(name, "."); !slices.Contains(theirs, from) {
			places[name+"."+method] = true
		}
		return true
	})
}

// implementable reports whether a user can implement an interface.
func implementable(i *types.Interface) bool {
	for m := range i.Methods() {
		if !m.Exported() {
			return false
		}
	}
	return true
}

// internal reports whether a type is declared in a package that users cannot import.
func internal(t types.Type) bool {
	named, ok := t.(*types.Named)
	return ok && named.Obj().Pkg() != nil && slices.Contains(strings.Split(named.Obj().Pkg().Path(), "/"), "internal")
}

func interfaceName(pkg *types.Package, t types.Type) string {
	name := types.TypeString(t, func(p *types.Package) string {
		if p == pkg {
			return ""
		}
		return p.Name()
	})
	name, _, _ = strings.Cut(name, "[")
	return name
}
