package pebble_test

import (
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/record"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/pebble"
)

func TestDescriptor(t *testing.T) {
	t.Parallel()
	t.Run("tells of the commits of every flush", func(t *testing.T) {
		t.Parallel()
		dir := newDir(t)
		l := openAt(t, dir)
		marked := func() uint64 {
			t.Helper()
			n, err := pebble.MarkedCommits(vfs.Default, dir)
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
		before := marked()
		for v := range store.Version(3) {
			commit(t, l, happened(book("a"), v, 1))
			if err := l.Flush(); err != nil {
				t.Fatal(err)
			}
			if !l.FlushNoticed() {
				t.Fatal("the log has not noticed that a table was written")
			}
			commit(t, l, happened(book("b"), v, 1))
			if after := marked(); after != l.Transactions() || after <= before {
				t.Errorf("round %d: the descriptor tells of %d commits, want %d", v, after, l.Transactions())
			}
			before = marked()
		}
	})

	// If a descriptor counted changes that are not durable, Open would call an intact log damaged
	// after a power loss.
	t.Run("tells of no list of tables that is not durable", func(t *testing.T) {
		t.Parallel()
		files := vfs.NewCrashableMem()
		const dir, manifest = "log", "MANIFEST-000001"
		path := files.PathJoin(dir, manifest)
		if err := files.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		f := create(t, files, path)
		w := record.NewWriter(f)
		for _, edit := range []string{"one table", "another table"} {
			if _, err := w.WriteRecord([]byte(edit)); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Flush(); err != nil {
			t.Fatal(err)
		}
		if err := create(t, files, files.PathJoin(dir, "marker.manifest.000001."+manifest)).Close(); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"", dir} {
			d, err := files.OpenDir(name)
			if err != nil {
				t.Fatal(err)
			}
			if err := d.Sync(); err != nil {
				t.Fatal(err)
			}
			if err := d.Close(); err != nil {
				t.Fatal(err)
			}
		}
		n, err := pebble.MeasureManifest(files, dir)
		if err != nil || n == 0 {
			t.Fatalf("measure: %d bytes, %v", n, err)
		}
		after := files.CrashClone(vfs.CrashCloneCfg{})
		kept, err := pebble.WholeBytes(after, path)
		if err != nil {
			t.Fatal(err)
		}
		if kept < n {
			t.Errorf("the descriptor tells of %d bytes, of which %d are there after a loss of power", n, kept)
		}
	})
}

func create(t *testing.T, files vfs.FS, name string) vfs.File {
	t.Helper()
	f, err := files.Create(name, vfs.WriteCategoryUnspecified)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// A tracedFS notes in which order files are created and directories synced.
type tracedFS struct {
	vfs.FS
	done []string
}

func (f *tracedFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	f.done = append(f.done, "create "+f.PathBase(name))
	return f.FS.Create(name, c)
}

func (f *tracedFS) OpenDir(name string) (vfs.File, error) {
	d, err := f.FS.OpenDir(name)
	return tracedDir{d, f}, err
}

type tracedDir struct {
	vfs.File
	fs *tracedFS
}

func (d tracedDir) Sync() error {
	d.fs.done = append(d.fs.done, "sync the directory")
	return d.File.Sync()
}

// A file system may keep the newer of two changes of a directory and lose the
// older. So the file that a marker names must be there for good before the
// marker is, and the marker before the one before it is removed.
func TestMarkerIsCreatedBetweenTwoSyncsOfItsDirectory(t *testing.T) {
	t.Parallel()
	traced := &tracedFS{FS: vfs.NewMem()}
	files := pebble.Fenced(traced)
	for _, name := range []string{"MANIFEST-000002", "marker.manifest.000002.MANIFEST-000002"} {
		f := create(t, files, name)
		if _, err := io.Copy(f, strings.NewReader("x")); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	want := []string{"create MANIFEST-000002", "sync the directory", "create marker.manifest.000002.MANIFEST-000002", "sync the directory"}
	if !slices.Equal(traced.done, want) {
		t.Errorf("got %q, want %q", traced.done, want)
	}
}
