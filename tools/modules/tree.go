package main

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/mod/modfile"
	"golang.org/x/mod/semver"
)

// unreleased are the directories of the modules that have only tests and measurements. They get
// no version, and no other module may require them.
var unreleased = []string{"bench", "test"}

// A mod is one module of the repository.
type mod struct {
	dir  string // relative to the root, with slashes; "." is the core module
	file *modfile.File
}

func (m *mod) path() string { return m.file.Module.Mod.Path }

// tag returns the tag of a version, in the form that the go command looks for.
func (m *mod) tag(version string) string {
	if m.dir == "." {
		return version
	}
	return m.dir + "/" + version
}

func (m *mod) released() bool { return !slices.Contains(unreleased, m.dir) }

// A tree is the repository: the modules that go.work uses, in the order of a release, so that
// each comes after the modules that it requires.
type tree struct {
	root    string
	work    *modfile.WorkFile
	modules []*mod
}

func readTree(root string) (*tree, error) {
	root, err := filepath.Abs(root)
	if err != nil {
		return nil, err
	}
	t := &tree{root: root}
	name := filepath.Join(root, "go.work")
	data, err := os.ReadFile(name)
	if err == nil {
		t.work, err = modfile.ParseWork(name, data, nil)
	}
	if err != nil {
		return nil, fmt.Errorf("read the workspace: %w", err)
	}
	for _, use := range t.work.Use {
		m := &mod{dir: path.Clean(use.Path)}
		name := filepath.Join(root, filepath.FromSlash(m.dir), "go.mod")
		data, err := os.ReadFile(name)
		if err == nil {
			m.file, err = modfile.Parse(name, data, nil)
		}
		if err != nil {
			return nil, fmt.Errorf("read module %s: %w", m.dir, err)
		}
		t.modules = append(t.modules, m)
	}
	return t, t.order()
}

// find returns the module of a path, or nil.
func (t *tree) find(path string) *mod {
	for _, m := range t.modules {
		if m.path() == path {
			return m
		}
	}
	return nil
}

// siblings returns those requirements of a module that are modules of the repository.
func (t *tree) siblings(m *mod) []*modfile.Require {
	var found []*modfile.Require
	for _, r := range m.file.Require {
		if t.find(r.Mod.Path) != nil {
			found = append(found, r)
		}
	}
	return found
}

// order sorts the modules: each after the modules that it requires, otherwise by directory.
func (t *tree) order() error {
	left := slices.SortedFunc(slices.Values(t.modules), func(a, b *mod) int { return strings.Compare(a.dir, b.dir) })
	var done []*mod
	for len(left) > 0 {
		i := slices.IndexFunc(left, func(m *mod) bool {
			return !slices.ContainsFunc(t.siblings(m), func(r *modfile.Require) bool { return !slices.Contains(done, t.find(r.Mod.Path)) })
		})
		if i < 0 {
			return fmt.Errorf("the modules %s require each other in a circle", names(left))
		}
		done, left = append(done, left[i]), slices.Delete(left, i, i+1)
	}
	t.modules = done
	return nil
}

func names(modules []*mod) string {
	var dirs []string
	for _, m := range modules {
		dirs = append(dirs, m.dir)
	}
	return strings.Join(dirs, ", ")
}

// version returns the single version at which the modules require each other.
func (t *tree) version() (string, error) {
	version := ""
	for _, m := range t.modules {
		for _, r := range t.siblings(m) {
			if version == "" {
				version = r.Mod.Version
			}
			if r.Mod.Version != version {
				return "", fmt.Errorf("%s/go.mod requires %s, another module requires %s: there is one version for all; write it by: go run ./modules set VERSION", m.dir, r.Mod, version)
			}
		}
	}
	if version == "" {
		return "", errors.New("no module requires another one: there is no version to work with")
	}
	return version, nil
}

// check returns an error if programs elsewhere could not use the modules at version, as far as
// the module files show it.
func (t *tree) check(version string) error {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	replaced := map[string]bool{}
	for _, r := range t.work.Replace {
		if m := t.find(r.Old.Path); m == nil || path.Clean(r.New.Path) != m.dir || r.Old.Version != version {
			fault("go.work replaces %s %s by %s: that is no module of the workspace at version %s in its directory", r.Old.Path, r.Old.Version, r.New.Path, version)
		}
		replaced[r.Old.Path] = true
	}
	for _, m := range t.modules {
		for _, r := range m.file.Replace {
			fault("%s/go.mod replaces %s: go install of a program in it refuses that, and users of its packages do not notice it", m.dir, r.Old.Path)
		}
		for _, r := range t.siblings(m) {
			other := t.find(r.Mod.Path)
			if r.Mod.Version != version {
				fault("%s/go.mod requires %s, want %s (write it by: go run ./modules set %s)", m.dir, r.Mod, version, version)
			}
			if m.released() && !other.released() {
				fault("%s/go.mod requires %s, which is never released", m.dir, r.Mod.Path)
			}
			if !replaced[r.Mod.Path] {
				fault("go.work does not replace %s %s by ./%s: the workspace would look for a released version", r.Mod.Path, version, other.dir)
				replaced[r.Mod.Path] = true
			}
		}
	}
	return errors.Join(faults...)
}

// set makes all modules require each other at version, in their go.mod files and in go.work.
func (t *tree) set(version string) error {
	if err := valid(version); err != nil {
		return err
	}
	for _, m := range t.modules {
		for _, r := range t.siblings(m) {
			if err := m.file.AddRequire(r.Mod.Path, version); err != nil {
				return fmt.Errorf("%s/go.mod: %w", m.dir, err)
			}
		}
		m.file.Cleanup()
		data, err := m.file.Format()
		if err == nil {
			err = writeFile(m.file.Syntax.Name, data)
		}
		if err != nil {
			return fmt.Errorf("write module %s: %w", m.dir, err)
		}
	}
	for _, r := range slices.Clone(t.work.Replace) {
		if err := t.work.DropReplace(r.Old.Path, r.Old.Version); err != nil {
			return fmt.Errorf("go.work: %w", err)
		}
	}
	for _, m := range t.modules {
		required := func(o *mod) bool {
			return slices.ContainsFunc(t.siblings(o), func(r *modfile.Require) bool { return r.Mod.Path == m.path() })
		}
		if !slices.ContainsFunc(t.modules, required) {
			continue
		}
		dir := "./" + m.dir
		if m.dir == "." {
			dir = "./"
		}
		if err := t.work.AddReplace(m.path(), version, dir, ""); err != nil {
			return fmt.Errorf("go.work: %w", err)
		}
	}
	t.work.SortBlocks()
	t.work.Cleanup()
	if err := writeFile(t.work.Syntax.Name, modfile.Format(t.work.Syntax)); err != nil {
		return fmt.Errorf("write the workspace: %w", err)
	}
	return nil
}

// valid returns an error if these modules cannot have the version: their paths have no major
// version at the end.
func valid(version string) error {
	if semver.Canonical(version) != version || semver.Build(version) != "" {
		return fmt.Errorf("version %q is not written like v0.1.0 or v0.1.0-rc.1", version)
	}
	if major := semver.Major(version); major != "v0" && major != "v1" {
		return fmt.Errorf("version %q: modules of %s have paths that end in /%s", version, major, major)
	}
	return nil
}
