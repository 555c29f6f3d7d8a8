package pebble_test

import (
	"flag"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/admin"
	"github.com/perdure/perdure/store/pebble"
	"github.com/perdure/perdure/store/storetest"
)

var writeGolden = flag.Bool("golden", false, "rewrite the golden data of the present format")

// goldenDirs are logs written by the first version with each format. The last one has the
// current format. An existing directory must never be rewritten, except one whose format was
// never released.
var goldenDirs = []string{"testdata/format1"}

// openGolden opens a copy of golden data, since even reading needs a lock file.
func openGolden(t testing.TB, dir string, opts ...pebble.Option) *pebble.Log {
	t.Helper()
	path := newDir(t)
	if err := os.CopyFS(path, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	return openAt(t, path, opts...)
}

func TestGoldenLogsOfEveryFormatAreReadAndWritten(t *testing.T) {
	t.Parallel()
	if *writeGolden {
		makeGolden(t, goldenDirs[len(goldenDirs)-1])
	}
	for _, dir := range goldenDirs {
		t.Run(filepath.Base(dir), func(t *testing.T) {
			t.Parallel()
			whole(t, openGolden(t, dir, pebble.ReadOnly())) // as it is
			l := openGolden(t, dir)
			storetest.CheckGolden(t, l)
			closeLog(t, l)
			whole(t, openAt(t, l.Path()))
		})
	}
}

// makeGolden leaves a part of the log in a table and a part in the WAL.
func makeGolden(t *testing.T, dir string) {
	l := openNew(t, options(storetest.GoldenSetup())...)
	if err := l.Flush(); err != nil {
		t.Fatal(err)
	}
	storetest.FillGolden(t, l)
	if err := l.Flush(); err != nil {
		t.Fatal(err)
	}
	before, err := admin.NewDigest(t.Context(), l, nil)
	if err != nil {
		t.Fatal(err)
	}
	b := &store.Batch{Checkpoints: []store.Checkpoint{{Name: "in the WAL", Position: 1}}}
	commit(t, l, b)
	b.Checkpoints[0].Remove = true
	commit(t, l, b)
	after, err := admin.NewDigest(t.Context(), l, nil)
	if err != nil {
		t.Fatal(err)
	}
	if difference := before.Difference(after); difference != "" {
		t.Fatal(difference)
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := l.Backup(t.Context(), dir, admin.BackupOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, "LOCK")); err != nil {
		t.Fatal(err)
	}
}

func TestGoldenFilesAreSmall(t *testing.T) {
	t.Parallel()
	for _, dir := range goldenDirs {
		bytes := int64(0)
		err := fs.WalkDir(os.DirFS(dir), ".", func(_ string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			info, err := d.Info()
			if err == nil {
				bytes += info.Size()
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		if bytes > 64<<10 {
			t.Errorf("%s: got %d bytes, want at most 64 KiB", dir, bytes)
		}
	}
}
