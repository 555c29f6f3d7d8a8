package main

import (
	"archive/zip"
	"bytes"
	"context"
	"errors"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// repository writes a small repository and returns its directory: a core module, a store
// that requires it, a program that requires both, and tests that are never released.
func repository(t *testing.T, changes map[string]string) string {
	t.Helper()
	root := t.TempDir()
	files := map[string]string{
		"LICENSE":          "free\n",
		".gitignore":       "/bin\n*.out\n",
		"go.work":          "go 1.26\n\nuse (\n\t.\n\t./cmd/tool\n\t./test\n\t./store\n)\n\nreplace (\n\texample.com/m v0.1.0 => ./\n\texample.com/m/store v0.1.0 => ./store\n)\n",
		"go.mod":           "module example.com/m\n\ngo 1.26\n",
		"m.go":             "package m\n",
		"a.out":            "left over\n",
		"store/go.mod":     "module example.com/m/store\n\ngo 1.26\n\nrequire example.com/m v0.1.0\n",
		"store/go.sum":     "",
		"store/store.go":   "package store\n",
		"cmd/tool/go.mod":  "module example.com/m/cmd/tool\n\ngo 1.26\n\nrequire example.com/m/store v0.1.0\n\nrequire example.com/m v0.1.0 // indirect\n",
		"cmd/tool/main.go": "package main\n\nfunc main() {}\n",
		"test/go.mod":      "module example.com/m/test\n\ngo 1.26\n\nrequire example.com/m/store v0.1.0\n",
	}
	maps.Copy(files, changes)
	for name, text := range files {
		file := filepath.Join(root, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	git(t, root, "init", "-q")
	git(t, root, "config", "user.name", "test")
	git(t, root, "config", "user.email", "test@example.com")
	git(t, root, "add", "-A")
	git(t, root, "commit", "-q", "-m", "all")
	return root
}

func git(t *testing.T, dir string, args ...string) string {
	t.Helper()
	said, err := command(t.Context(), dir, nil, "git", args...)
	if err != nil {
		t.Fatal(err)
	}
	return said
}

func mustRead(t *testing.T, root string) *tree {
	t.Helper()
	tr, err := readTree(root)
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

// releaseOf returns a release whose outside test returns tried.
func releaseOf(t *testing.T, root, version string, tried error) (*release, *bytes.Buffer) {
	t.Helper()
	out := &bytes.Buffer{}
	return &release{tree: mustRead(t, root), version: version, out: out, try: func(context.Context) error { return tried }}, out
}

func TestRelease(t *testing.T) {
	t.Parallel()
	t.Run("tags each module after those that it requires", func(t *testing.T) {
		t.Parallel()
		root := repository(t, nil)
		r, out := releaseOf(t, root, "v0.1.0", nil)
		if err := r.run(t.Context()); err != nil {
			t.Fatal(err)
		}
		if want := "git tag -a v0.1.0\ngit tag -a store/v0.1.0\ngit tag -a cmd/tool/v0.1.0\n"; out.String() != want {
			t.Errorf("said:\n%s\nwant:\n%s", out, want)
		}
		tags := strings.Fields(git(t, root, "tag", "--list"))
		if want := []string{"cmd/tool/v0.1.0", "store/v0.1.0", "v0.1.0"}; !slices.Equal(tags, want) {
			t.Errorf("tags: got %q, want %q", tags, want)
		}
	})
	t.Run("pushes all tags to the remote", func(t *testing.T) {
		t.Parallel()
		root, remote := repository(t, nil), t.TempDir()
		git(t, remote, "init", "-q", "--bare")
		r, _ := releaseOf(t, root, "v0.1.0", nil)
		r.remote = remote
		if err := r.run(t.Context()); err != nil {
			t.Fatal(err)
		}
		if tags := strings.Fields(git(t, remote, "tag", "--list")); len(tags) != 3 {
			t.Errorf("tags of the remote: got %q, want 3", tags)
		}
	})
	t.Run("tags nothing in a dry run", func(t *testing.T) {
		t.Parallel()
		root := repository(t, nil)
		r, out := releaseOf(t, root, "v0.1.0", nil)
		r.dry, r.remote = true, "origin-that-is-not-there"
		if err := r.run(t.Context()); err == nil || !strings.Contains(err.Error(), "origin-that-is-not-there") {
			t.Errorf("a remote that is not there: got %v, want an error that names it", err)
		}
		r.remote = ""
		if err := r.run(t.Context()); err != nil {
			t.Fatal(err)
		}
		if n := strings.Count(out.String(), "git tag"); n != 3 {
			t.Errorf("said %q, want 3 tags", out)
		}
		if tags := git(t, root, "tag", "--list"); tags != "" {
			t.Errorf("tags: got %q, want none", tags)
		}
	})
	t.Run("refuses what cannot be used from outside, and then tags nothing", func(t *testing.T) {
		t.Parallel()
		refused := errors.New("a program does not build")
		for name, c := range map[string]struct {
			changes map[string]string
			spoil   func(root string) error
			version string
			tried   error
			says    string
		}{
			"a version that is none":        {version: "0.1.0", says: "is not written like"},
			"a major version without path":  {version: "v2.0.0", says: "end in /v2"},
			"another version":               {version: "v0.2.0", says: "requires example.com/m@v0.1.0, want v0.2.0"},
			"a trial that fails":            {version: "v0.1.0", tried: refused, says: refused.Error()},
			"a file that is not committed":  {version: "v0.1.0", spoil: func(root string) error { return os.WriteFile(filepath.Join(root, "new.go"), nil, 0o600) }, says: "new.go"},
			"a file that is deleted":        {version: "v0.1.0", spoil: func(root string) error { return os.Remove(filepath.Join(root, "m.go")) }, says: "m.go"},
			"a module at another version":   {version: "v0.1.0", changes: map[string]string{"test/go.mod": "module example.com/m/test\n\nrequire example.com/m/store v0.0.9\n"}, says: "v0.0.9"},
			"a replacement in a module":     {version: "v0.1.0", changes: map[string]string{"store/go.mod": "module example.com/m/store\n\nrequire example.com/m v0.1.0\n\nreplace example.com/m => ../\n"}, says: "store/go.mod replaces example.com/m"},
			"a module that is not released": {version: "v0.1.0", changes: map[string]string{"cmd/tool/go.mod": "module example.com/m/cmd/tool\n\nrequire example.com/m/test v0.1.0\n"}, says: "which is never released"},
			"a workspace that looks outside": {version: "v0.1.0", changes: map[string]string{
				"go.work": "go 1.26\n\nuse (\n\t.\n\t./cmd/tool\n\t./test\n\t./store\n)\n\nreplace example.com/m v0.1.0 => ./\n",
			}, says: "does not replace example.com/m/store"},
		} {
			root := repository(t, c.changes)
			if c.spoil != nil {
				if err := c.spoil(root); err != nil {
					t.Fatal(err)
				}
			}
			r, _ := releaseOf(t, root, c.version, c.tried)
			if err := r.run(t.Context()); err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%s: got %v, want an error that says %s", name, err, c.says)
			}
			if tags := git(t, root, "tag", "--list"); tags != "" {
				t.Errorf("%s: tags %q were made", name, tags)
			}
		}
	})
	t.Run("refuses a version that exists for one module, here or at the remote", func(t *testing.T) {
		t.Parallel()
		root, remote := repository(t, nil), t.TempDir()
		git(t, remote, "init", "-q", "--bare")
		git(t, root, "tag", "store/v0.1.0")
		git(t, root, "push", "-q", remote, "store/v0.1.0")
		for range 2 {
			r, _ := releaseOf(t, root, "v0.1.0", nil)
			r.remote = remote
			if err := r.run(t.Context()); err == nil || !strings.Contains(err.Error(), "store/v0.1.0") {
				t.Errorf("got %v, want an error that names the tag", err)
			}
			if tags := strings.Fields(git(t, root, "tag", "--list")); len(tags) > 1 {
				t.Errorf("tags %q were made", tags)
			}
			if len(git(t, root, "tag", "--list")) > 0 {
				git(t, root, "tag", "-d", "store/v0.1.0")
			}
		}
	})
}

func TestTree(t *testing.T) {
	t.Parallel()
	t.Run("refuses modules that require each other in a circle", func(t *testing.T) {
		t.Parallel()
		root := repository(t, map[string]string{"go.mod": "module example.com/m\n\nrequire example.com/m/store v0.1.0\n"})
		if _, err := readTree(root); err == nil || !strings.Contains(err.Error(), "in a circle") {
			t.Errorf("got %v, want an error that tells of the circle", err)
		}
	})
	t.Run("sets one version everywhere", func(t *testing.T) {
		t.Parallel()
		root := repository(t, map[string]string{"test/go.mod": "module example.com/m/test\n\nrequire example.com/m/store v0.0.9\n"})
		if _, err := mustRead(t, root).version(); err == nil || !strings.Contains(err.Error(), "v0.0.9") {
			t.Errorf("two versions: got %v, want an error that names them", err)
		}
		if err := mustRead(t, root).set("v0.3.0-rc.1"); err != nil {
			t.Fatal(err)
		}
		tr := mustRead(t, root)
		if version, err := tr.version(); version != "v0.3.0-rc.1" || err != nil {
			t.Errorf("version: got %s, %v, want v0.3.0-rc.1", version, err)
		}
		if err := tr.check("v0.3.0-rc.1"); err != nil {
			t.Errorf("check: %v", err)
		}
	})
	t.Run("packs what git tracks or would track, and a licence, into a module", func(t *testing.T) {
		t.Parallel()
		root := repository(t, map[string]string{"store/testdata/x.txt": "x", "store/b.out": "left over"})
		if err := os.WriteFile(filepath.Join(root, "store", "new.go"), []byte("package store\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(filepath.Join(root, "store", "store.go")); err != nil {
			t.Fatal(err)
		}
		tr := mustRead(t, root)
		for path, want := range map[string][]string{
			"example.com/m":       {".gitignore", "LICENSE", "go.mod", "go.work", "m.go"},
			"example.com/m/store": {"LICENSE", "go.mod", "go.sum", "new.go", "testdata/x.txt"},
		} {
			packed, err := tr.pack(t.Context(), tr.find(path), "v0.1.0")
			if err != nil {
				t.Fatal(err)
			}
			z, err := zip.NewReader(bytes.NewReader(packed), int64(len(packed)))
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, f := range z.File {
				got = append(got, strings.TrimPrefix(f.Name, path+"@v0.1.0/"))
			}
			if slices.Sort(got); !slices.Equal(got, want) {
				t.Errorf("files of %s: got %q, want %q", path, got, want)
			}
		}
	})
}

func TestTidy(t *testing.T) {
	t.Parallel()
	tools := map[string]string{
		"tools/go.mod":   "module example.com/m/tools\n\ngo 1.26\n",
		"store/store.go": "package store\n\nimport _ \"example.com/m\"\n", "cmd/tool/main.go": "package main\n\nimport _ \"example.com/m/store\"\n\nfunc main() {}\n",
		"test/go.mod": "module example.com/m/test\n\ngo 1.26\n\nrequire example.com/m/store v0.1.0\n\nrequire example.com/m v0.1.0 // indirect\n",
		"test/x.go":   "package test\n\nimport _ \"example.com/m/store\"\n",
	}
	if err := mustRead(t, repository(t, tools)).tidy(t.Context(), false); err != nil {
		t.Errorf("tidy: %v", err)
	}
	for name, c := range map[string]struct{ file, text, says string }{
		"a requirement that nothing needs": {"test/x.go", "package test\n", "test"},
		"a requirement that is missing":    {"store/store.go", "package store\n", "store"},
		"a sum of a module of the tree":    {"store/go.sum", "example.com/m v0.1.0 h1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n", "store: go.sum holds a sum of example.com/m"},
	} {
		root := repository(t, tools)
		if err := os.WriteFile(filepath.Join(root, filepath.FromSlash(c.file)), []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := mustRead(t, root).tidy(t.Context(), false); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: got %v, want an error that says %s", name, err, c.says)
		}
		if c.file == "store/go.sum" {
			continue // it is written by hand
		}
		if err := mustRead(t, root).tidy(t.Context(), true); err != nil {
			t.Errorf("%s: write it: %v", name, err)
		}
		if err := mustRead(t, root).tidy(t.Context(), false); err != nil {
			t.Errorf("%s, once it is written: %v", name, err)
		}
	}
}

// The test changes the environment, so that the go command does not use the network.
func TestOutside(t *testing.T) {
	t.Setenv("GOPROXY", "off")
	const uses = "package main\n\nimport \"example.com/m/store\"\n\nfunc main() { store.Use() }\n"
	good := map[string]string{
		"m.go":           "package m\n",
		"store/store.go": "package store\n\nimport (\n\t_ \"embed\"\n\n\t_ \"example.com/m\"\n)\n\n//go:embed words.txt\nvar words string\n\nfunc Use() {\n\tif words == \"\" {\n\t\tpanic(\"no words\")\n\t}\n}\n", "store/words.txt": "words",
		programsDir + "/store/get.txt": "example.com/m/store\n", programsDir + "/store/main.go": uses,
		programsDir + "/tool/get.txt": "example.com/m/cmd/tool\n",
	}
	if err := mustRead(t, repository(t, good)).outside(t.Context(), nil, io.Discard); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		changes map[string]string
		says    string
	}{
		"a zip that lacks a file": {map[string]string{".gitignore": "/bin\nwords.txt\n"}, "words.txt"},
		"a module that is not in the proxy": {map[string]string{
			"store/go.mod":   "module example.com/m/store\n\ngo 1.26\n\nrequire (\n\texample.com/m v0.1.0\n\texample.invalid/elsewhere v0.1.0\n)\n",
			"store/store.go": "package store\n\nimport (\n\t_ \"example.com/m\"\n\t_ \"example.invalid/elsewhere\"\n)\n\nfunc Use() {}\n",
		}, "example.invalid/elsewhere"},
		"a program that fails":            {map[string]string{programsDir + "/store/main.go": "package main\n\nimport _ \"example.com/m/store\"\n\nfunc main() { panic(\"it broke\") }\n"}, "it broke"},
		"a module that no program uses":   {map[string]string{programsDir + "/tool/get.txt": "example.com/m/store\n", programsDir + "/tool/main.go": uses}, "no program in " + programsDir + " uses module example.com/m/cmd/tool"},
		"a program that does not compile": {map[string]string{programsDir + "/store/main.go": "package main\n\nimport _ \"example.com/m/store\"\n\nfunc main() { missing() }\n"}, "missing"},
	} {
		changes := maps.Clone(good)
		maps.Copy(changes, c.changes)
		if err := mustRead(t, repository(t, changes)).outside(t.Context(), nil, io.Discard); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: got %v, want an error that says %s", name, err, c.says)
		}
	}
	if err := mustRead(t, repository(t, good)).outside(t.Context(), []string{"none"}, io.Discard); err == nil || !strings.Contains(err.Error(), "there is no program none") {
		t.Errorf("a program that is not there: got %v, want an error that names it", err)
	}
}
