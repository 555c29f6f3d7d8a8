// Mutants breaks promises on purpose, one at a time, and reports whether the tests of these
// promises fail. A mutant is a patch in this directory:
//
//	The committer takes an unknown outcome for "not stored", so that a retry
//	applies the command a second time.
//	Promise: G4
//	Test: . TestUnknownOutcomeIsResolved
//	Test: ./test/sim TestSimulationKeepsEveryPromise
//
//	--- a/internal/core/entity/entity.go
//	+++ b/internal/core/entity/entity.go
//	@@ …
//
// A line "Ends: the process" says that the mutant ends the process of its tests by
// a panic, which counts as a failure of the test that was running:
//
//	A panic of the function Random of a Backoff ends the process.
//	Promise: G12
//	Ends: the process
//	Test: ./actor TestHooks
//
// A line "Runs: 100" is for a test that finds its mutant only with some probability, such as a
// stress test: with the mutant the runner repeats it up to 100 times, until it fails.
//
// In a patch of several files, each file begins with a line "diff --git a/FILE b/FILE". The
// runner applies the patch to copies of the files that it names, and builds the tests with the
// copies by go test -overlay. So the tree itself does not change, and the code that ships knows
// nothing of its mutants. Each test must pass without the mutant and fail with it. It is an error
// if a patch no longer applies, a test does not exist or a mutant does not compile.
//
//	go run ./test/mutants             # all of them
//	go run ./test/mutants -n 5        # five, beginning with another one every day
//	go run ./test/mutants crc-off     # those named
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "mutants:", err)
		os.Exit(1)
	}
}

// errSurvived says that at least one mutant was not caught, or could not be tested.
var errSurvived = errors.New("not every mutant is caught")

func run(ctx context.Context, args []string, out io.Writer) error {
	say := func(format string, args ...any) { _, _ = fmt.Fprintf(out, format, args...) }
	flags := flag.NewFlagSet("mutants", flag.ContinueOnError)
	n := flags.Int("n", 0, "try this many mutants, beginning with another one every day; 0 tries all")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return nil
		}
		return err
	}
	root, err := findRoot()
	if err != nil {
		return err
	}
	all, err := load(filepath.Join(root, dir))
	if err != nil {
		return err
	}
	chosen, err := choose(all, flags.Args(), *n, time.Now())
	if err != nil {
		return err
	}
	t := trial{root: root, passed: make(map[test]error)}
	caught := 0
	for _, m := range chosen {
		begun := time.Now()
		if err := t.try(ctx, m); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			say("BAD  %s %s: %v\n", m.promise, m.name, err)
			continue
		}
		caught++
		say("ok   %s %s is caught (%.0f s)\n", m.promise, m.name, time.Since(begun).Seconds())
	}
	say("%d of %d mutants are caught; there are %d\n", caught, len(chosen), len(all))
	if caught < len(chosen) {
		return errSurvived
	}
	return nil
}

// choose returns the named mutants, or n of all mutants, or all.
func choose(all []mutant, names []string, n int, now time.Time) ([]mutant, error) {
	if len(names) > 0 && n > 0 {
		return nil, errors.New("-n does not go with names: give one of them")
	}
	if n < 0 {
		return nil, fmt.Errorf("-n is %d: it cannot be negative", n)
	}
	if len(names) > 0 {
		var chosen []mutant
		for _, name := range names {
			at := slices.IndexFunc(all, func(m mutant) bool { return m.name == strings.TrimSuffix(filepath.Base(name), suffix) })
			if at < 0 {
				return nil, fmt.Errorf("there is no mutant %q in %s", name, dir)
			}
			chosen = append(chosen, all[at])
		}
		return chosen, nil
	}
	if n == 0 || n >= len(all) {
		return all, nil
	}
	day := int(now.Unix() / (24 * 60 * 60))
	chosen := make([]mutant, n)
	for i := range chosen {
		chosen[i] = all[(day*n+i)%len(all)]
	}
	return chosen, nil
}

// findRoot returns the root of the repository: the nearest directory at or above
// the working directory that has a go.work.
func findRoot() (string, error) {
	at, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(at, "go.work")); err == nil {
			return at, nil
		}
		up := filepath.Dir(at)
		if up == at {
			return "", errors.New("no go.work at or above the working directory: run this inside of the repository")
		}
		at = up
	}
}
