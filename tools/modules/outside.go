package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/mod/module"
)

// programsDir has the programs that use the modules from outside, one per directory. The file
// get.txt beside the code names the modules to get, one per line. A directory without code has
// one line: a program to install. A program is built and run without arguments, and must end with
// code 0; a test is run.
const programsDir = "tools/modules/testdata/outside"

// tryMax bounds the time of one program, including all compiling. It is far above the few minutes
// of a first run, and ends programs that hang.
const tryMax = time.Hour

// An outsider is an environment that knows the repository only through a proxy of the working
// tree.
type outsider struct {
	root    string // directory of the proxy, the module cache and the programs
	version string
	env     []string
}

// outside tests the named programs, or all of them, with the modules of the working tree. All
// programs together must use every released module.
func (t *tree) outside(ctx context.Context, names []string, out io.Writer) error {
	version, err := t.version()
	if err != nil {
		return err
	}
	if err := t.check(version); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "outside")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }() // a temporary directory
	o, err := t.newOutsider(ctx, dir, version)
	if err != nil {
		return err
	}
	programs := filepath.Join(t.root, filepath.FromSlash(programsDir))
	entries, err := os.ReadDir(programs)
	if err != nil {
		return err
	}
	var known []string
	var faults []error
	for _, e := range entries {
		known = append(known, e.Name())
		if len(names) > 0 && !slices.Contains(names, e.Name()) {
			continue
		}
		start := time.Now()
		if err := o.try(ctx, filepath.Join(programs, e.Name()), e.Name()); err != nil {
			faults = append(faults, fmt.Errorf("program %s: %w", e.Name(), err))
			continue
		}
		_, _ = fmt.Fprintf(out, "ok   %s (%.1f s)\n", e.Name(), time.Since(start).Seconds())
	}
	for _, name := range names {
		if !slices.Contains(known, name) {
			faults = append(faults, fmt.Errorf("there is no program %s in %s, only %s", name, programsDir, strings.Join(known, ", ")))
		}
	}
	return errors.Join(append(faults, t.used(o, len(names) == 0))...)
}

// newOutsider makes the proxy, and an environment without the workspace, in a new directory.
// Modules of other projects come from the module cache of this machine if it has them. They are
// compiled independently of their directory, so that the next run can reuse the result.
func (t *tree) newOutsider(ctx context.Context, root, version string) (*outsider, error) {
	o := &outsider{root: root, version: version}
	proxy := filepath.Join(o.root, "proxy")
	if err := t.proxy(ctx, proxy, version); err != nil {
		return nil, err
	}
	settings, err := command(ctx, t.root, nil, "go", "env", "GOMODCACHE", "GOSUMDB", "GOPROXY")
	if err != nil {
		return nil, err
	}
	theirs, rest, _ := strings.Cut(strings.TrimSpace(settings), "\n")
	sums, upstream, _ := strings.Cut(rest, "\n")
	o.env = []string{
		env("GOWORK", "off"), env("GOFLAGS", "-modcacherw -trimpath -buildvcs=false"), env("GOMODCACHE", filepath.Join(o.root, "cache")), env("GOBIN", filepath.Join(o.root, "bin")),
		env("GOPROXY", fileURL(proxy)+","+fileURL(filepath.Join(theirs, "cache", "download"))+","+upstream),
		// Unreleased versions are in no checksum database.
		env("GOSUMDB", sums), env("GONOSUMDB", t.core()+","+t.core()+"/*"), env("GONOPROXY", ""), env("GOPRIVATE", ""),
		env("GOENV", "off"), env("GOTOOLCHAIN", "local"),
	}
	return o, nil
}

// core returns the path of the core module.
func (t *tree) core() string {
	i := slices.IndexFunc(t.modules, func(m *mod) bool { return m.dir == "." })
	return t.modules[i].path()
}

func fileURL(dir string) string {
	dir = filepath.ToSlash(dir)
	if !strings.HasPrefix(dir, "/") {
		dir = "/" + dir
	}
	return "file://" + dir
}

// try does the steps for one program that its author would do in an empty directory.
func (o *outsider) try(ctx context.Context, from, name string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, tryMax, fmt.Errorf("it took more than %v", tryMax))
	defer cancel()
	dir := filepath.Join(o.root, "programs", name)
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		return err
	}
	if err := os.CopyFS(dir, os.DirFS(from)); err != nil {
		return err
	}
	text, err := os.ReadFile(filepath.Join(dir, "get.txt"))
	if err != nil {
		return err
	}
	paths := strings.Fields(string(text))
	code, err := fs.Glob(os.DirFS(dir), "*.go")
	if err != nil {
		return err
	}
	steps := [][]string{{"go", "mod", "init", "example.com/" + name}}
	for _, p := range paths {
		steps = append(steps, []string{"go", "get", p + "@" + o.version})
	}
	built := filepath.Join(dir, "program")
	switch {
	case len(code) == 0 && len(paths) == 1:
		steps = [][]string{{"go", "install", paths[0] + "@" + o.version}, {filepath.Join(o.root, "bin", filepath.Base(paths[0])), "--help"}}
	case slices.Contains(code, "main.go"):
		steps = append(steps, []string{"go", "build", "-o", built, "."}, []string{built})
	default:
		steps = append(steps, []string{"go", "test", "-short", "."})
	}
	for _, step := range steps {
		if _, err := command(ctx, dir, o.env, step[0], step[1:]...); err != nil {
			if cause := context.Cause(ctx); cause != nil {
				return fmt.Errorf("%w: %w", err, cause)
			}
			return err
		}
	}
	return nil
}

// used compares the modules that the programs have downloaded with those of the proxy. No module
// of the repository may come from elsewhere. If all programs were tested, every module must have
// been used.
func (t *tree) used(o *outsider, all bool) error {
	downloads := filepath.Join(o.root, "cache", "cache", "download")
	served := map[string]bool{}
	var faults []error
	for _, m := range t.modules {
		escaped, err := module.EscapePath(m.path())
		if err != nil {
			return err
		}
		at := filepath.Join(downloads, filepath.FromSlash(escaped), "@v")
		served[at] = m.released()
		_, err = os.Stat(filepath.Join(at, o.version+".zip"))
		if all && m.released() && err != nil {
			faults = append(faults, fmt.Errorf("no program in %s uses module %s: %w", programsDir, m.path(), err))
		}
	}
	err := filepath.WalkDir(filepath.Join(downloads, filepath.FromSlash(t.core())), func(name string, d fs.DirEntry, err error) error {
		if err == nil && filepath.Ext(name) == ".zip" && (!served[filepath.Dir(name)] || filepath.Base(name) != o.version+".zip") {
			faults = append(faults, fmt.Errorf("a program got %s, which is no released module of this tree", strings.TrimPrefix(name, downloads)))
		}
		return err
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		faults = append(faults, err)
	}
	return errors.Join(faults...)
}
