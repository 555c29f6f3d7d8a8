package tidy_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	"slices"
	"strings"
	"testing"
)

// unreleased lists the directories whose packages no other module imports.
var unreleased = []string{"bench", "cmd", "examples", "test"}

func TestExportedSignatures(t *testing.T) {
	t.Parallel()
	t.Run("name_no_type_of_an_internal_package", func(t *testing.T) {
		t.Parallel()
		packages, err := workspace()
		if err != nil {
			t.Fatal(err)
		}
		var faults []string
		for _, p := range packages {
			first, _, _ := strings.Cut(p.below, "/")
			if isInternal(p.below) || p.types.Name() == "main" || slices.Contains(unreleased, first) {
				continue
			}
			faults = append(faults, signatureFaults(p.types)...)
		}
		slices.Sort(faults)
		report(t, faults)
	})
	t.Run("with_such_a_type_are_found", func(t *testing.T) {
		t.Parallel()
		const hidden = `package hidden
type Row struct{}
type Of[T any] struct{}
func (Row) Put(Row) {}
`
		const source = `package shelf

import "shelf/internal/hidden"

// The faults.
func Takes(n int, r *hidden.Row)        {}
func Returns() (map[string]hidden.Row, error) { return nil, nil }
func Calls(func([]hidden.Row))          {}
func Bounds[T interface{ Put(hidden.Row) }]() {}
var Global hidden.Of[int]
type Alias = hidden.Row
type Shelf struct {
	Rows []hidden.Row
	own  hidden.Row
	hidden.Of[int]
}
func (Shelf) Row() hidden.Row { return hidden.Row{} }
type Putter interface{ Put(hidden.Row); get() hidden.Row }
type Rows []hidden.Row
type Wraps[T any] struct{ Rows Box[hidden.Row] }

// No faults.
type Box[T any] struct{ own hidden.Row; Value T }
func (Box[T]) Value1() T { panic(0) }
func (Box[T]) row() hidden.Row { return hidden.Row{} }
type closed struct{ Row hidden.Row }
func unexported(hidden.Row) {}
func Fine(n int, b Box[int]) (*Box[string], error) { return nil, nil }
`
		fset := token.NewFileSet()
		inner := parse(t, fset, file{"hidden.go", hidden}, parser.SkipObjectResolution)
		pkg, _, err := checked(fset, "shelf/internal/hidden", []*ast.File{inner}, nil)
		if err != nil {
			t.Fatal(err)
		}
		syntax := parse(t, fset, file{"shelf.go", source}, parser.SkipObjectResolution)
		pkg, _, err = checked(fset, "shelf", []*ast.File{syntax}, only{pkg})
		if err != nil {
			t.Fatal(err)
		}
		got := signatureFaults(pkg)
		slices.Sort(got)
		wantFaults(t, source, got,
			"shelf.Alias names hidden.Row", "shelf.Bounds names hidden.Row", "shelf.Calls names hidden.Row", "shelf.Global names hidden.Of",
			"shelf.Putter.Put names hidden.Row", "shelf.Returns names hidden.Row", "shelf.Rows names hidden.Row", "shelf.Shelf.Of names hidden.Of",
			"shelf.Shelf.Row names hidden.Row", "shelf.Shelf.Rows names hidden.Row", "shelf.Takes names hidden.Row", "shelf.Wraps.Rows names hidden.Row")
	})
}

// only is an importer of one package.
type only struct{ pkg *types.Package }

func (o only) Import(string) (*types.Package, error) { return o.pkg, nil }

// signatureFaults returns the exported names of a package whose declarations name a type of an
// internal package. A user cannot name such a type.
func signatureFaults(pkg *types.Package) []string {
	var faults []string
	check := func(name string, t types.Type) {
		if hidden := hiddenType(t, map[types.Type]bool{}); hidden != "" {
			faults = append(faults, fmt.Sprintf("%s.%s names %s, a type of an internal package", pkg.Name(), name, hidden))
		}
	}
	for _, name := range pkg.Scope().Names() {
		o := pkg.Scope().Lookup(name)
		if !o.Exported() {
			continue
		}
		declared, isType := o.(*types.TypeName)
		if !isType {
			check(name, o.Type())
			continue
		}
		if alias, ok := o.Type().(*types.Alias); ok {
			check(name, alias.Rhs())
			continue
		}
		named := declared.Type().(*types.Named)
		for p := range named.TypeParams().TypeParams() {
			check(name, p.Constraint())
		}
		for m := range named.Methods() {
			if m.Exported() {
				check(name+"."+m.Name(), m.Signature())
			}
		}
		switch u := named.Underlying().(type) {
		case *types.Struct:
			for f := range u.Fields() {
				if f.Exported() {
					check(name+"."+f.Name(), f.Type())
				}
			}
		case *types.Interface:
			for m := range u.ExplicitMethods() {
				if m.Exported() {
					check(name+"."+m.Name(), m.Signature())
				}
			}
			for e := range u.EmbeddedTypes() {
				check(name, e)
			}
		default:
			check(name, u)
		}
	}
	return faults
}

// hiddenType returns the name of the first type of an internal package in t, or an empty text.
func hiddenType(t types.Type, seen map[types.Type]bool) string {
	if seen[t] {
		return ""
	}
	seen[t] = true
	first := func(list ...types.Type) string {
		for _, t := range list {
			if name := hiddenType(t, seen); name != "" {
				return name
			}
		}
		return ""
	}
	switch t := t.(type) {
	case *types.Alias:
		return hiddenObject(t.Obj())
	case *types.Named:
		if name := hiddenObject(t.Obj()); name != "" {
			return name
		}
		return first(slices.Collect(t.TypeArgs().Types())...)
	case *types.TypeParam:
		return first(t.Constraint())
	case *types.Pointer:
		return first(t.Elem())
	case *types.Slice:
		return first(t.Elem())
	case *types.Array:
		return first(t.Elem())
	case *types.Chan:
		return first(t.Elem())
	case *types.Map:
		return first(t.Key(), t.Elem())
	case *types.Signature:
		for p := range t.TypeParams().TypeParams() {
			if name := first(p.Constraint()); name != "" {
				return name
			}
		}
		for v := range t.Params().Variables() {
			if name := first(v.Type()); name != "" {
				return name
			}
		}
		for v := range t.Results().Variables() {
			if name := first(v.Type()); name != "" {
				return name
			}
		}
	case *types.Struct:
		for f := range t.Fields() {
			if name := first(f.Type()); f.Exported() && name != "" {
				return name
			}
		}
	case *types.Interface:
		for m := range t.ExplicitMethods() {
			if name := first(m.Type()); m.Exported() && name != "" {
				return name
			}
		}
		return first(slices.Collect(t.EmbeddedTypes())...)
	}
	return ""
}

// hiddenObject returns the name of a type if it belongs to an internal package.
func hiddenObject(o *types.TypeName) string {
	if o.Pkg() == nil || !isInternal(o.Pkg().Path()) {
		return ""
	}
	return o.Pkg().Name() + "." + o.Name()
}
