package bbolt_test

import (
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/perdure/perdure/store/bbolt"
	"github.com/perdure/perdure/store/storetest"
)

var writeGolden = flag.Bool("golden", false, "write the golden data of the present format anew")

// goldenFile is a log that the first version with this format has written. It is
// never written anew, but for a format that nobody has seen.
const goldenFile = "testdata/format1.bbolt"

func TestALogOfTheFirstVersionIsReadAndGoesOn(t *testing.T) {
	t.Parallel()
	if *writeGolden {
		path := filepath.Join(t.TempDir(), "golden")
		l := openAt(t, path, options(storetest.GoldenSetup())...)
		storetest.FillGolden(t, l)
		write(t, goldenFile, small(t, l))
	}
	path := filepath.Join(t.TempDir(), "golden")
	write(t, path, read(t, goldenFile))
	l := openAt(t, path)
	storetest.CheckGolden(t, l)
	closeLog(t, l)
	whole(t, openAt(t, path))
}

// A file is read wherever it was written, so it says its size of pages by itself.
func TestTheGoldenFileIsSmall(t *testing.T) {
	t.Parallel()
	info, err := os.Stat(goldenFile)
	if err != nil {
		t.Fatal(err)
	}
	if info.Size() > 256<<10 {
		t.Errorf("golden file: got %d bytes, want at most 256 KiB", info.Size())
	}
	_, err = bbolt.Open(goldenFile, bbolt.ReadOnly())
	if err != nil {
		t.Errorf("open for reading: %v", err)
	}
}
