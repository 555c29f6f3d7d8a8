//go:build linux

package faultfs_test

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/perdure/perdure/store/crashtest/faultfs"
)

// stepsVariable holds the file and the steps of the child process that uses the file
// system. This process must not use it, because it serves it.
const stepsVariable = "PERDURE_FAULTFS_STEPS"

func TestMain(m *testing.M) {
	if steps := os.Getenv(stepsVariable); steps != "" {
		if err := takeSteps(strings.Fields(steps)); err != nil {
			_, _ = os.Stdout.WriteString(err.Error())
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// takeSteps opens the file that the first word names, and carries out the other words in
// order. A question mark at the end of a word expects the step to fail.
func takeSteps(words []string) error {
	f, err := os.OpenFile(words[0], os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	for i, w := range words[1:] {
		verb, may := strings.CutSuffix(w, "?")
		verb, text, _ := strings.Cut(verb, ":")
		var err error
		switch verb {
		case "write":
			_, err = f.WriteAt([]byte(text), 0)
		case "far":
			_, err = f.WriteAt([]byte(text), 3*4096)
		case "sync":
			err = f.Sync()
		case "truncate":
			err = f.Truncate(2)
		case "read":
			got := make([]byte, len(text))
			if _, err = f.ReadAt(got, 0); err == nil && string(got) != text {
				err = errors.New("read " + string(got))
			}
		case "rename":
			err = os.Rename(words[0], words[0]+text)
		case "remove":
			err = os.Remove(words[0])
		case "mkdir":
			err = os.Mkdir(words[0]+text, 0o700)
		default:
			err = errors.ErrUnsupported
		}
		if err != nil && !may {
			return errors.Join(errors.New("step "+verb), err)
		}
		if err == nil && may {
			return errors.New("step " + words[i+1] + " does not fail")
		}
	}
	return nil
}

// mount mounts a file system at dir that shows the directory shown.
func mount(t *testing.T) (m *faultfs.Mount, shown, dir string) {
	t.Helper()
	if _, err := os.Stat("/dev/fuse"); err != nil {
		t.Skipf("there is no FUSE: %v", err)
	}
	shown, dir = t.TempDir(), t.TempDir()
	m, err := faultfs.New(dir, shown)
	if err != nil {
		if os.Getenv("CI") != "" && os.Geteuid() == 0 {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return m, shown, dir
}

func steps(t *testing.T, dir, text string) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), stepsVariable+"="+filepath.Join(dir, "file")+" "+text)
	if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
		t.Fatalf("steps %q: %v: %s", text, err, out)
	}
}

func TestUnsyncedDataIsGoneAfterTheCut(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("-short: it mounts file systems, and does one thing at a time")
	}
	for _, c := range []struct {
		name, steps string
		fault       *faultfs.Fault
		want        string
		retried     bool
	}{
		{name: "a sync keeps", steps: "write:one sync", want: "one"},
		{name: "no sync loses", steps: "write:one", want: ""},
		{name: "only the last sync counts", steps: "write:one sync write:two", want: "one"},
		{name: "a file that has grown is as long as it was", steps: "write:one sync far:two read:one", want: "one"},
		{name: "a truncation is kept", steps: "write:one sync truncate", want: "on"},
		// The operations are: create 0, write 1, sync 2, write 3, sync 4.
		{name: "a failed sync loses", steps: "write:one sync write:two sync? read:two", fault: &faultfs.Fault{At: 4, Errno: syscall.EIO}, want: "one"},
		{
			name: "a sync that is tried again does not help", steps: "write:one sync write:two sync? sync",
			fault: &faultfs.Fault{At: 4, Errno: syscall.EIO}, want: "one", retried: true,
		},
		{
			name: "a page that is written again helps", steps: "write:one sync write:two sync? write:two sync",
			fault: &faultfs.Fault{At: 4, Errno: syscall.EIO}, want: "two", retried: true,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			m, shown, dir := mount(t)
			m.Disk.Arm(c.fault)
			steps(t, dir, c.steps)
			if got := len(m.Disk.Retried()) > 0; got != c.retried {
				t.Errorf("a sync was tried again: got %t, want %t", got, c.retried)
			}
			if err := m.Disk.Cut(); err != nil {
				t.Fatal(err)
			}
			got, err := os.ReadFile(filepath.Join(shown, "file"))
			if err != nil || string(got) != c.want {
				t.Errorf("file after the cut: got %q, %v, want %q", bytes.TrimRight(got, "\x00"), err, c.want)
			}
		})
	}
}

func TestOperationThatIsNamedFails(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		steps string
		fault faultfs.Fault
		want  faultfs.Op
	}{
		{"write:one? write:two sync read:two", faultfs.Fault{At: 1, Errno: syscall.EIO}, faultfs.OpWrite},
		{"write:one? write:two? sync truncate", faultfs.Fault{At: 1, Errno: syscall.ENOSPC, Stays: true}, faultfs.OpWrite},
		{"write:one sync? sync", faultfs.Fault{At: 2, Errno: syscall.EIO}, faultfs.OpSync},
		{"write:one sync truncate? truncate", faultfs.Fault{At: 3, Errno: syscall.EIO}, faultfs.OpTruncate},
		{"write:one mkdir:x? mkdir:x", faultfs.Fault{At: 2, Errno: syscall.EIO}, faultfs.OpMkdir},
		{"write:one rename:x? rename:x", faultfs.Fault{At: 2, Errno: syscall.EIO}, faultfs.OpRename},
		{"write:one remove? remove", faultfs.Fault{At: 2, Errno: syscall.EIO}, faultfs.OpRemove},
		// A short write is not an error; Go writes the rest by a second write.
		{"write:onetwo sync", faultfs.Fault{At: 1, Short: true}, faultfs.OpWrite},
		{"write:onetwo? sync", faultfs.Fault{At: 1, Short: true, Errno: syscall.ENOSPC, Stays: true}, faultfs.OpWrite},
	} {
		t.Run(c.steps, func(t *testing.T) {
			t.Parallel()
			m, _, dir := mount(t)
			m.Disk.Arm(&c.fault)
			steps(t, dir, c.steps)
			if got := m.Disk.Failed(); got != c.want {
				t.Errorf("%v: got %q, want %q of %q", c.fault, got, c.want, m.Disk.Ops())
			}
			if err := m.Disk.Cut(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestOperationsHaveFaults(t *testing.T) {
	t.Parallel()
	for _, op := range []faultfs.Op{
		faultfs.OpOpen, faultfs.OpCreate, faultfs.OpRead, faultfs.OpWrite, faultfs.OpSync, faultfs.OpTruncate,
		faultfs.OpAllocate, faultfs.OpMkdir, faultfs.OpRename, faultfs.OpLink, faultfs.OpRemove,
	} {
		faults := faultfs.Faults(op)
		if !slices.ContainsFunc(faults, func(f faultfs.Fault) bool { return f.Errno == syscall.EIO }) {
			t.Errorf("faults of %q: got %v, want an I/O error among them", op, faults)
		}
	}
}
