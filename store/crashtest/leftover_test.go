//go:build linux

package crashtest_test

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/perdure/perdure/store/crashtest"
)

// mountIn mounts a small file system in a directory.
func mountIn(t *testing.T, home string) (at string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can mount")
	}
	at = filepath.Join(home, "mounted")
	if err := os.MkdirAll(at, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("none", at, "tmpfs", 0, "size=64k"); err != nil {
		t.Skipf("the kernel mounts nothing here: %v", err)
	}
	if !isMounted(t, at) {
		t.Fatalf("%s is not mounted", at)
	}
	return at
}

func isMounted(t *testing.T, at string) bool {
	t.Helper()
	b, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Contains(string(b), " "+at+" ")
}

func wantGone(t *testing.T, home, at string) {
	t.Helper()
	if isMounted(t, at) {
		t.Errorf("%s is still mounted", at)
	}
	if _, err := os.Stat(home); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s is still there: %v", home, err)
	}
}

func TestJanitorCleansUpAfterAProcessThatIsGone(t *testing.T) {
	t.Parallel()
	home, leave := crashtest.NewHome(t)
	at := mountIn(t, home)
	leave() // the janitor reads the end of its input, as when the process is killed
	wantGone(t, home, at)
}

func TestSweepRemovesFilesOfEarlierProcesses(t *testing.T) {
	t.Parallel()
	ended := exec.Command("true")
	if err := ended.Run(); err != nil {
		t.Skip(err)
	}
	home := crashtest.HomeOf(ended.Process.Pid)
	at := mountIn(t, home)
	crashtest.SweepLeftovers()
	wantGone(t, home, at)
}
