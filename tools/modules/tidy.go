package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/mod/modfile"
)

// toolsDir is the module of this program, which is no part of the workspace.
const toolsDir = "tools"

// tidy compares the module files with the output of go mod tidy, or writes that output. It works
// on copies that replace the repository's own modules by their directories, because the version
// that they require need not be released.
func (t *tree) tidy(ctx context.Context, write bool) error {
	version, err := t.version()
	if err != nil {
		return err
	}
	faults := []error{t.check(version)}
	tmp, err := os.MkdirTemp("", "modules")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(tmp) }() // a temporary directory
	dirs := []string{toolsDir}
	for _, m := range t.modules {
		dirs = append(dirs, m.dir)
	}
	for i, dir := range dirs {
		c := moduleCopy{tree: t, dir: filepath.Join(t.root, filepath.FromSlash(dir)), version: version, name: filepath.Join(tmp, fmt.Sprint(i))}
		if err := c.tidy(ctx, write); err != nil {
			faults = append(faults, fmt.Errorf("go mod tidy of %s: %w", dir, err))
		}
	}
	return errors.Join(faults...)
}

// A moduleCopy is a copy of a module's go.mod and go.sum in another directory, with replacements.
type moduleCopy struct {
	tree         *tree
	dir, version string // those of the module
	name         string // name of the copy, without .mod and .sum
}

func (c *moduleCopy) tidy(ctx context.Context, write bool) error {
	file, err := os.ReadFile(filepath.Join(c.dir, "go.mod"))
	if err != nil {
		return err
	}
	sums, err := os.ReadFile(filepath.Join(c.dir, "go.sum"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // a module without requirements has none
		return err
	}
	for _, m := range c.tree.modules {
		if strings.Contains("\n"+string(sums), "\n"+m.path()+" ") {
			return fmt.Errorf("go.sum holds a sum of %s, which changes with every edit; remove the line", m.path())
		}
		file = fmt.Appendf(file, "\nreplace %s %s => %s\n", m.path(), c.version, filepath.Join(c.tree.root, filepath.FromSlash(m.dir)))
	}
	if err := errors.Join(os.WriteFile(c.name+".mod", file, 0o600), os.WriteFile(c.name+".sum", sums, 0o600)); err != nil {
		return err
	}
	args := []string{"mod", "tidy", "-modfile=" + c.name + ".mod"}
	if !write {
		args = append(args, "-diff")
	}
	if _, err := command(ctx, c.dir, []string{env("GOWORK", "off"), env("GOFLAGS", "")}, "go", args...); err != nil || !write {
		return err
	}
	return c.write()
}

// write copies the files back, without the replacements.
func (c *moduleCopy) write() error {
	text, err := os.ReadFile(c.name + ".mod")
	if err != nil {
		return err
	}
	file, err := modfile.Parse(c.name+".mod", text, nil)
	if err != nil {
		return err
	}
	for _, m := range c.tree.modules {
		if err := file.DropReplace(m.path(), c.version); err != nil {
			return err
		}
	}
	file.Cleanup()
	if text, err = file.Format(); err != nil {
		return err
	}
	sums, err := os.ReadFile(c.name + ".sum")
	if err != nil {
		return err
	}
	return errors.Join(writeFile(filepath.Join(c.dir, "go.mod"), text), writeFile(filepath.Join(c.dir, "go.sum"), sums))
}

// writeFile writes a file of the repository, which all users may read.
func writeFile(name string, data []byte) error {
	return os.WriteFile(name, data, 0o644) //nolint:gosec // see above
}

// env returns a setting for the environment of a process.
func env(name, value string) string { return name + "=" + value }

// saidMax bounds the output of a program in an error.
const saidMax = 4 << 10

// command runs a program and returns its output. If it fails, the error has the end of the
// output.
func command(ctx context.Context, dir string, settings []string, name string, args ...string) (string, error) {
	c := exec.CommandContext(ctx, name, args...)
	c.Dir, c.Env = dir, append(os.Environ(), settings...)
	said, err := c.CombinedOutput()
	if err != nil {
		text := strings.TrimSpace(string(said))
		if len(text) > saidMax {
			text = "…" + text[len(text)-saidMax:]
		}
		return string(said), fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, text)
	}
	return string(said), nil
}
