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

// A source is a file of the working tree, in the form that package zip needs.
type source struct{ name, file string }

func (s source) Path() string                 { return s.name }
func (s source) Lstat() (os.FileInfo, error)  { return os.Lstat(s.file) }
func (s source) Open() (io.ReadCloser, error) { return os.Open(s.file) }

// sources returns the files of a module: those that git tracks or would track, as they are now.
// Package zip leaves out the files of other modules below it. As with the go command, a module
// without a licence file gets that of the repository.
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
			continue // deleted and not committed, or a link, which no module can have
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

// pack returns the zip file of a module that the go command would download.
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

// proxy writes the released modules to dir in the layout of a module proxy.
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
