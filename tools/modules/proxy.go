package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/mod/module"
	"golang.org/x/mod/zip"
)

// A source is a file of the working tree, as package zip wants it.
type source struct{ name, file string }

func (s source) Path() string                 { return s.name }
func (s source) Lstat() (os.FileInfo, error)  { return os.Lstat(s.file) }
func (s source) Open() (io.ReadCloser, error) { return os.Open(s.file) }

// sources returns the files that a module has: those that git tracks or would track, as
// they are now. Package zip leaves out those of other modules below it. As for the go
// command, a module without a licence has that of the repository.
func (t *tree) sources(ctx context.Context, m *mod) ([]zip.File, error) {
	listed, err := command(ctx, t.root, nil, "git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", m.dir)
	if err != nil {
		return nil, err
	}
	var files []zip.File
	licensed := false
	for name := range strings.SplitSeq(strings.TrimSuffix(listed, "\x00"), "\x00") {
		file := filepath.Join(t.root, filepath.FromSlash(name))
		if info, err := os.Lstat(file); err != nil || !info.Mode().IsRegular() {
			continue // deleted and not committed, or a link, which no module holds
		}
		if m.dir != "." {
			name = strings.TrimPrefix(name, m.dir+"/")
		}
		licensed = licensed || name == "LICENSE"
		files = append(files, source{name, file})
	}
	if !licensed {
		files = append(files, source{"LICENSE", filepath.Join(t.root, "LICENSE")})
	}
	return files, nil
}

// pack returns the zip file that the go command would download for a module.
func (t *tree) pack(ctx context.Context, m *mod, version string) ([]byte, error) {
	files, err := t.sources(ctx, m)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	if err := zip.Create(&b, module.Version{Path: m.path(), Version: version}, files); err != nil {
		return nil, fmt.Errorf("pack module %s: %w", m.dir, err)
	}
	return b.Bytes(), nil
}

// proxy writes the released modules to dir as a module proxy has them.
func (t *tree) proxy(ctx context.Context, dir, version string) error {
	for _, m := range t.modules {
		if !m.released() {
			continue
		}
		packed, err := t.pack(ctx, m, version)
		if err != nil {
			return err
		}
		info, err := json.Marshal(map[string]any{"Version": version, "Time": time.Now().UTC()})
		if err != nil {
			return err
		}
		text, err := os.ReadFile(m.file.Syntax.Name)
		if err != nil {
			return err
		}
		escaped, err := module.EscapePath(m.path())
		if err != nil {
			return err
		}
		at := filepath.Join(dir, filepath.FromSlash(escaped), "@v")
		if err := os.MkdirAll(at, 0o700); err != nil {
			return err
		}
		for name, data := range map[string][]byte{
			"list": []byte(version + "\n"), version + ".info": info, version + ".mod": text, version + ".zip": packed,
		} {
			if err := os.WriteFile(filepath.Join(at, name), data, 0o600); err != nil {
				return err
			}
		}
	}
	return nil
}
