package pebble_test

import (
	"bytes"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/admin"
	"github.com/perdure/perdure/store/pebble"
)

// A sealedFS is a file system that is mounted for reading.
type sealedFS struct{ vfs.FS }

func sealed(op, name string) error {
	return &fs.PathError{Op: op, Path: name, Err: syscall.EROFS}
}

func (f sealedFS) Create(name string, _ vfs.DiskWriteCategory) (vfs.File, error) {
	return nil, sealed("create", name)
}

func (f sealedFS) OpenReadWrite(name string, _ vfs.DiskWriteCategory, _ ...vfs.OpenOption) (vfs.File, error) {
	return nil, sealed("open", name)
}

func (f sealedFS) Link(_, to string) error                  { return sealed("link", to) }
func (f sealedFS) Remove(name string) error                 { return sealed("remove", name) }
func (f sealedFS) RemoveAll(name string) error              { return sealed("remove", name) }
func (f sealedFS) Rename(_, to string) error                { return sealed("rename", to) }
func (f sealedFS) MkdirAll(dir string, _ os.FileMode) error { return sealed("mkdir", dir) }
func (f sealedFS) Lock(name string) (io.Closer, error)      { return nil, sealed("open", name) }

func TestReadOnly(t *testing.T) {
	t.Parallel()
	t.Run("reads a log on a medium that cannot be written", func(t *testing.T) {
		t.Parallel()
		dir := newDir(t)
		l := openAt(t, dir)
		commit(t, l, happened(book("a"), 0, 3))
		closeLog(t, l)
		r := openAt(t, dir, pebble.ReadOnly(), pebble.WithFS(sealedFS{vfs.Default}))
		whole(t, r)
		if got := versions(t, r.Read(t.Context(), book("a"), 0)); len(got) != 3 {
			t.Errorf("got the versions %v, want three", got)
		}
		closeLog(t, r)
		_, err := pebble.Open(dir, pebble.WithFS(sealedFS{vfs.Default}))
		wantIs(t, err, syscall.EROFS) // not for writing
	})

	t.Run("reads a log whose descriptor is damaged, and verification says so", func(t *testing.T) {
		t.Parallel()
		dir := newDir(t)
		l := openAt(t, dir)
		fillTables(t, l)
		commit(t, l, happened(book("in the WAL"), 0, 2))
		want, err := admin.NewDigest(t.Context(), l, nil)
		if err != nil {
			t.Fatal(err)
		}
		closeLog(t, l)
		mark := filepath.Join(dir, "PERDURE")
		sound, err := os.ReadFile(mark)
		if err != nil {
			t.Fatal(err)
		}
		for _, at := range []int{0, 9, len(sound) / 2, len(sound) - 1} {
			damaged := bytes.Clone(sound)
			damaged[at] ^= 1
			if err := os.WriteFile(mark, damaged, 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := pebble.Open(dir)
			wantIs(t, err, store.ErrCorrupt)
			if !strings.Contains(err.Error(), "open the log for reading") {
				t.Errorf("the error does not name the cure: %v", err)
			}
			r := openAt(t, dir, pebble.ReadOnly())
			if n := len(faults(t, r)); n != 1 {
				t.Errorf("byte %d is damaged: verify found %d faults, want 1", at, n)
			}
			to := openNew(t)
			if _, err := admin.Copy(t.Context(), r, to, nil); err != nil {
				t.Fatal(err)
			}
			got, err := admin.NewDigest(t.Context(), to, nil)
			if err != nil {
				t.Fatal(err)
			}
			if difference := want.Difference(got); difference != "" {
				t.Errorf("the copy differs: %s", difference)
			}
			closeLog(t, r)
			closeLog(t, to)
		}
	})

	for name, c := range map[string]struct{ opts []pebble.Option }{
		"is backed up": {},
		"is backed up with its WAL in a directory apart": {opts: []pebble.Option{pebble.WithWALDir("wal")}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := newDir(t)
			l := openAt(t, dir, c.opts...)
			fillTables(t, l)
			commit(t, l, happened(book("in the WAL"), 0, 2))
			closeLog(t, l)
			r := openAt(t, dir, append(c.opts, pebble.ReadOnly())...)
			path := filepath.Join(t.TempDir(), "backup")
			if err := r.Backup(t.Context(), path, admin.BackupOptions{}); err != nil {
				t.Fatal(err)
			}
			want, err := admin.NewDigest(t.Context(), r, nil)
			if err != nil {
				t.Fatal(err)
			}
			closeLog(t, r)
			b := openAt(t, path)
			whole(t, b)
			got, err := admin.NewDigest(t.Context(), b, nil)
			if err != nil {
				t.Fatal(err)
			}
			if difference := want.Difference(got); difference != "" {
				t.Errorf("the backup differs: %s", difference)
			}
			// Commits to the backup must not change the log.
			commit(t, b, happened(book("in the WAL"), 2, 1))
			if err := b.Flush(); err != nil {
				t.Fatal(err)
			}
			closeLog(t, b)
			l = openAt(t, dir, c.opts...)
			whole(t, l)
			commit(t, l, happened(book("in the WAL"), 2, 1))
		})
	}
}

// fillTables commits events, and makes Pebble write them to tables.
func fillTables(t *testing.T, l *pebble.Log) {
	t.Helper()
	for v := range store.Version(3) {
		commit(t, l, happened(book("in tables"), v, 1))
		if err := l.Flush(); err != nil {
			t.Fatal(err)
		}
	}
}
