package tidy_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"slices"
	"strings"
	"testing"
)

// errorMethods are the methods that package errors calls. Their documentation is there; a
// method with more to say has it at its type.
var errorMethods = []string{"Error", "Is", "As", "Unwrap"}

func TestExportedNamesAreDocumented(t *testing.T) {
	t.Parallel()
	fset := token.NewFileSet()
	packages := map[string]bool{} // by package, whether the package has a comment
	var faults []string
	for _, f := range files(t, func(name string) bool {
		return isGo(name) && !isTest(name) && !slices.Contains(strings.Split(name, "/"), "internal")
	}) {
		syntax := parse(t, fset, f, parser.ParseComments)
		if ast.IsGenerated(syntax) || syntax.Name.Name == "main" {
			continue
		}
		pkg := goPackage(f.path)
		packages[pkg] = packages[pkg] || syntax.Doc != nil
		faults = append(faults, docFaults(fset, syntax)...)
	}
	for pkg, commented := range packages {
		if !commented {
			faults = append(faults, fmt.Sprintf("%s has no package comment", title(pkg)))
		}
	}
	report(t, faults)
}

func TestDocCommentThatIsMissingIsFound(t *testing.T) {
	t.Parallel()
	const source = `// Some words about it.
package shelf

// Bounds of a shelf.
const (
	BooksMax = 3
	// The weight it bears.
	WeightMax = 4
)

const Loose = 1

// A Shelf holds books.
type Shelf struct{ Width int }

// Puts a book there.
func (s *Shelf) Put() {}

func (s *Shelf) Error() string { return "" }

func (s *Shelf) clear() {}

type row struct{}

func (row) Exported() {}

// A Reader reads.
type Reader interface {
	Read()
}

// A Finder finds.
type Finder interface {
	Reader
	// Find finds one.
	Find()
	FindAll()
}

// Generic[T] is one.
type Generic[T any] struct{}

func (g *Generic[T]) Get() {}

//go:noinline
func Directive() {}

// Putty is not about Put.
func Put() {}

// Deprecated: use nothing.
func Old() {}
`
	fset := token.NewFileSet()
	got := docFaults(fset, parse(t, fset, file{"shelf.go", source}, parser.ParseComments))
	wantFaults(t, source, got,
		"shelf.go:2:9: package comment",
		"shelf.go:8:2: WeightMax",
		"shelf.go:11:7: Loose",
		"shelf.go:17:17: Put",
		"shelf.go:37:2: FindAll",
		"shelf.go:43:22: Get",
		"shelf.go:46:6: Directive",
		"shelf.go:49:6: Put",
		"shelf.go:52:6: Old",
	)
}

// docFaults returns the exported names of a file without a comment that begins with the
// name, after an article if there is one. Constants and variables of a group need no
// comment of their own if the group has one; nor does the only method of an interface.
func docFaults(fset *token.FileSet, syntax *ast.File) []string {
	var faults []string
	check := func(name *ast.Ident, doc *ast.CommentGroup, covered bool) {
		text := doc.Text() // the text has no directives
		if !name.IsExported() || covered && text == "" || begins(text, name.Name) {
			return
		}
		faults = append(faults, fmt.Sprintf("%v: %s has no comment that begins with %q", fset.Position(name.Pos()), name.Name, name.Name))
	}

	if doc := syntax.Doc.Text(); doc != "" && !strings.HasPrefix(doc, "Package "+syntax.Name.Name+" ") {
		faults = append(faults, fmt.Sprintf("%v: package comment does not begin with \"Package %s\"", fset.Position(syntax.Name.Pos()), syntax.Name.Name))
	}
	for _, decl := range syntax.Decls {
		switch decl := decl.(type) {
		case *ast.FuncDecl:
			if decl.Recv == nil {
				check(decl.Name, decl.Doc, false)
			} else if ast.IsExported(receiver(decl)) && !slices.Contains(errorMethods, decl.Name.Name) {
				check(decl.Name, decl.Doc, false)
			}
		case *ast.GenDecl:
			for _, spec := range decl.Specs {
				switch spec := spec.(type) {
				case *ast.TypeSpec:
					check(spec.Name, either(spec.Doc, decl.Doc), false)
					if port, ok := spec.Type.(*ast.InterfaceType); ok && spec.Name.IsExported() {
						for _, method := range port.Methods.List {
							for _, name := range method.Names {
								check(name, method.Doc, len(port.Methods.List) == 1)
							}
						}
					}
				case *ast.ValueSpec:
					grouped := decl.Lparen.IsValid()
					for _, name := range spec.Names {
						if grouped {
							check(name, spec.Doc, decl.Doc.Text() != "")
						} else {
							check(name, decl.Doc, false)
						}
					}
				}
			}
		}
	}
	return faults
}

// begins reports whether a comment begins with a name, as a word of its own.
func begins(comment, name string) bool {
	for _, article := range []string{"", "A ", "An ", "The "} {
		rest, ok := strings.CutPrefix(comment, article+name)
		if ok && (rest == "" || !token.IsIdentifier("x"+rest[:1])) {
			return true
		}
	}
	return false
}

// receiver returns the name of the type of a method.
func receiver(decl *ast.FuncDecl) string {
	name := ""
	ast.Inspect(decl.Recv.List[0].Type, func(n ast.Node) bool {
		if id, ok := n.(*ast.Ident); ok && name == "" {
			name = id.Name
		}
		return name == ""
	})
	return name
}

func either(a, b *ast.CommentGroup) *ast.CommentGroup {
	if a != nil {
		return a
	}
	return b
}
