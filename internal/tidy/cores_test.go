package tidy_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"slices"
	"strconv"
	"testing"
)

// cores are the packages that implement a protocol as a state machine with inputs and
// outputs. A simulation replays them from a seed, so they start no goroutine, wait for
// nothing, and get the time and all random numbers from outside.
var cores = []string{"internal/core/commit", "internal/core/entity", "internal/core/outbox", "internal/core/projector"}

// worldly are the packages of the standard library that depend on more than their inputs.
var worldly = []string{
	"crypto/rand", "io/fs", "log", "log/slog", "math/rand", "net", "net/http", "os", "os/exec", "os/signal",
	"runtime", "sync/atomic", "syscall",
}

// worldlyNames are the names in other packages that read the clock, use the shared random
// source, or wait. A rand.Rand with a seed is allowed, and so is a sync.Pool, which never
// waits.
var worldlyNames = map[string][]string{
	"time": {"After", "AfterFunc", "NewTicker", "NewTimer", "Now", "Since", "Sleep", "Tick", "Until"},
	"sync": {"Cond", "Mutex", "NewCond", "RWMutex", "WaitGroup"},
	"rand": {
		"ExpFloat64", "Float32", "Float64", "Int", "Int32", "Int32N", "Int64", "Int64N", "IntN", "N",
		"NormFloat64", "Perm", "Shuffle", "Uint", "Uint32", "Uint32N", "Uint64", "Uint64N", "UintN",
	},
}

func TestProtocolCoresAreReplayable(t *testing.T) {
	t.Parallel()
	fset := token.NewFileSet()
	var faults []string
	for _, f := range files(t, func(name string) bool {
		return isGo(name) && !isTest(name) && slices.Contains(cores, goPackage(name))
	}) {
		faults = append(faults, replayFaults(fset, parse(t, fset, f, parser.SkipObjectResolution))...)
	}
	report(t, faults)
}

func TestReplayFindsCallsThatCannotBeReplayed(t *testing.T) {
	t.Parallel()
	const source = `package core

import (
	"math/rand/v2"
	"os"
	"sync"
	"time"
)

var (
	pool sync.Pool
	lock sync.Mutex
)

func step(in chan int, d time.Duration) {
	go step(in, d)
	select {}
	in <- 1
	<-in
	_ = time.Now()
	_ = time.Unix(0, 1)
	_ = rand.New(rand.NewPCG(1, 2)).IntN(3)
	_ = rand.IntN(3)
	_ = os.Args
}
`
	fset := token.NewFileSet()
	got := replayFaults(fset, parse(t, fset, file{"core.go", source}, parser.SkipObjectResolution))
	wantFaults(t, source, got,
		"core.go:5:2: imports os", "core.go:12:7: uses sync.Mutex", "core.go:16:2: starts a goroutine", "core.go:17:2: waits",
		"core.go:18:2: waits", "core.go:19:2: waits", "core.go:20:6: uses time.Now", "core.go:23:6: uses rand.IntN")
}

// replayFaults returns the uses in a file that depend on more than the inputs.
func replayFaults(fset *token.FileSet, syntax *ast.File) []string {
	var faults []string
	add := func(n ast.Node, what string) {
		faults = append(faults, fmt.Sprintf("%v: %s, which a protocol core may not", fset.Position(n.Pos()), what))
	}
	ast.Inspect(syntax, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.ImportSpec:
			if name, err := strconv.Unquote(n.Path.Value); err == nil && slices.Contains(worldly, name) {
				add(n, "imports "+name)
			}
		case *ast.GoStmt:
			add(n, "starts a goroutine")
		case *ast.SelectStmt, *ast.SendStmt:
			add(n, "waits for a channel")
		case *ast.UnaryExpr:
			if n.Op == token.ARROW {
				add(n, "waits for a channel")
			}
		case *ast.SelectorExpr:
			if x, ok := n.X.(*ast.Ident); ok && slices.Contains(worldlyNames[x.Name], n.Sel.Name) {
				add(n, "uses "+x.Name+"."+n.Sel.Name)
			}
		}
		return true
	})
	return faults
}
