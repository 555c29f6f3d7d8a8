package bbolt_test

import (
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/perdure/perdure/store/admin"
	"github.com/perdure/perdure/store/bbolt"
	"github.com/perdure/perdure/store/storetest"
)

var writeGolden = flag.Bool("golden", false, "rewrite the golden data of the present format")

// goldenFiles are logs written by the first version with each format. The last one has the
// current format. An existing file must never be rewritten, except one whose format was never
// released.
var goldenFiles = []string{"testdata/format1.bbolt", "testdata/format2.bbolt"}

func TestGoldenLogsOfEveryFormatAreReadAndWritten(t *testing.T) {
	t.Parallel()
	if *writeGolden {
		l := openNew(t, options(storetest.GoldenSetup())...)
		storetest.FillGolden(t, l)
		write(t, goldenFiles[len(goldenFiles)-1], small(t, l))
		closeLog(t, l)
	}
	for _, file := range goldenFiles {
		t.Run(filepath.Base(file), func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "golden")
			write(t, path, read(t, file))
			whole(t, openAt(t, file, bbolt.ReadOnly())) // as it is
			l := openAt(t, path)
			storetest.CheckGolden(t, l)
			closeLog(t, l)
			whole(t, openAt(t, path))
		})
	}
}

// Copies and digests of a log do not depend on its format.
func TestGoldenLogsOfAnOldFormatAreCopiedAsTheyAre(t *testing.T) {
	t.Parallel()
	for _, file := range goldenFiles {
		to := openNew(t, bbolt.WithPartitions(2))
		if _, err := admin.Copy(t.Context(), openAt(t, file, bbolt.ReadOnly()), to, nil); err != nil {
			t.Fatal(err)
		}
		storetest.CheckGolden(t, to)
	}
}

func TestGoldenFilesAreSmall(t *testing.T) {
	t.Parallel()
	for _, file := range goldenFiles {
		info, err := os.Stat(file)
		if err != nil {
			t.Fatal(err)
		}
		if info.Size() > 256<<10 {
			t.Errorf("%s: got %d bytes, want at most 256 KiB", file, info.Size())
		}
	}
}
