package crashtest

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// imageBytes is the size of a file system, which is sparse. XFS takes no less.
	imageBytes = 512 << 20
	// goingDown is EXT4_IOC_SHUTDOWN and XFS_IOC_GOINGDOWN; noLogFlush loses
	// also what is only in memory of the journal.
	goingDown  = 0x8004587d
	noLogFlush = 2
)

// memoryBytesMin is how much room a file system in memory must have to be used.
const memoryBytesMin = 4 << 30

// scratch returns a directory for files that need not be on a disk: in memory,
// where syncs cost nothing, if there is room.
func scratch() string {
	const memory = "/dev/shm"
	var s unix.Statfs_t
	if err := unix.Statfs(memory, &s); err != nil || s.Bavail*uint64(s.Bsize) < memoryBytesMin || unix.Access(memory, unix.W_OK) != nil {
		return os.TempDir()
	}
	return memory
}

// inCI reports whether what the tests need has to be there.
func inCI() bool { return os.Getenv("CI") != "" }

// missing skips the test, or fails it where what is missing must be there.
func missing(t testing.TB, must bool, format string, args ...any) {
	t.Helper()
	text := fmt.Sprintf(format, args...)
	if must {
		t.Fatalf("%s: %s", t.Name(), text)
	}
	_, _ = fmt.Fprintf(os.Stderr, "SKIPPED %s: %s\n", t.Name(), text) // louder than Skip, which needs -v to be seen
	t.Skip(text)
}

// fileSystems returns those that can be made here, the usual one first.
func fileSystems(t testing.TB) []string {
	t.Helper()
	if os.Geteuid() != 0 {
		missing(t, false, "only root can cut the power of a file system")
	}
	for _, program := range []string{"mkfs.ext4", "mount"} {
		if _, err := exec.LookPath(program); err != nil {
			missing(t, inCI(), "%v", err)
		}
	}
	systems := []string{"ext4"}
	if _, err := exec.LookPath("mkfs.xfs"); err == nil {
		systems = append(systems, "xfs")
	}
	return systems
}

// A volume is a file system in a file, mounted at dir.
type volume struct {
	fs, image, dir string
}

// newVolume makes and mounts a file system, which goes with the test.
func newVolume(t testing.TB, k *kit, fs string) *volume {
	t.Helper()
	home := newHome(t, k)
	v := &volume{fs: fs, image: filepath.Join(home, fs+".img"), dir: filepath.Join(home, fs)}
	f, err := os.OpenFile(v.image, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err == nil {
		err = errors.Join(f.Truncate(imageBytes), f.Close(), os.Mkdir(v.dir, 0o700))
	}
	if err != nil {
		t.Fatalf("make a volume: %v", err)
	}
	if err := run("mkfs."+fs, "-q", v.image); err != nil {
		t.Fatalf("make a volume: %v", err)
	}
	if err := v.mount(); err != nil {
		missing(t, false, "the kernel mounts no %s here: %v", fs, err)
	}
	return v
}

func run(program string, args ...string) error {
	out, err := exec.Command(program, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", program, strings.Join(args, " "), err, bytes.TrimSpace(out))
	}
	return nil
}

func (v *volume) mount() error { return run("mount", "-t", v.fs, "-o", "loop", v.image, v.dir) }

// shutdown cuts the power: from now on nothing is written to the image.
func (v *volume) shutdown() error {
	d, err := os.Open(v.dir)
	if err != nil {
		return fmt.Errorf("shutdown: %w", err)
	}
	defer func() { _ = d.Close() }() // nothing was written to it
	flags := uint32(noLogFlush)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, d.Fd(), goingDown, uintptr(unsafe.Pointer(&flags))); errno != 0 {
		return fmt.Errorf("shutdown %s: %w", v.fs, errno)
	}
	return nil
}

// remount gives the power back.
func (v *volume) remount() error {
	if err := unmount(v.dir); err != nil {
		return err
	}
	return v.mount()
}

// unmount waits until nobody uses a mount. A process that another test is
// starting at this moment holds all files of this one until its program runs.
func unmount(dir string) error {
	limit := time.After(waitMax)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		err := unix.Unmount(dir, 0)
		if !errors.Is(err, unix.EBUSY) {
			if err != nil {
				err = fmt.Errorf("unmount %s: %w", dir, err)
			}
			return err
		}
		select {
		case <-tick.C:
		case <-limit:
			return fmt.Errorf("waited %v until nobody uses %s", waitMax, dir)
		}
	}
}

// newHome returns a directory for mounts. It is swept when the test or the
// process ends, in whichever way.
func newHome(t testing.TB, k *kit) string {
	t.Helper()
	home, err := makeHome()
	if err != nil {
		t.Fatalf("make a directory for mounts: %v", err)
	}
	janitor, err := k.start(&orders{Mode: "janitor", Place: home})
	if err != nil {
		t.Fatalf("start a janitor: %v", err)
	}
	t.Cleanup(func() {
		_ = janitor.stdin.Close()
		if err := janitor.wait(); err != nil {
			t.Errorf("janitor: %v", err)
		}
	})
	return home
}

// sweepLeftovers removes what processes that are gone have left.
func sweepLeftovers() {
	found, _ := filepath.Glob(filepath.Join(scratch(), homePrefix+"*")) // the pattern is sound
	for _, dir := range found {
		pid, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(dir), homePrefix), "-")
		n, err := strconv.Atoi(pid)
		if err == nil && errors.Is(syscall.Kill(n, 0), syscall.ESRCH) {
			_ = sweep(dir) // a janitor may be at it
		}
	}
}

// sweep unmounts what is mounted in a directory, and removes it.
func sweep(dir string) error {
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return err
	}
	for l := range strings.Lines(string(mounts)) {
		if fields := strings.Fields(l); len(fields) > 1 && strings.HasPrefix(fields[1], dir+"/") {
			if err := unix.Unmount(fields[1], unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
				return fmt.Errorf("unmount %s: %w", fields[1], err)
			}
		}
	}
	return os.RemoveAll(dir)
}

// stop stops a process and waits until it stands still.
func (p *process) stop() error {
	if err := p.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		return fmt.Errorf("stop the process: %w", err)
	}
	limit := time.After(waitMax)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
		if err != nil {
			return fmt.Errorf("stop the process: %w", err)
		}
		// The state follows the name, which is in parentheses.
		if _, rest, ok := bytes.Cut(stat, []byte(") ")); ok && len(rest) > 0 && strings.IndexByte("TZX", rest[0]) >= 0 {
			return nil
		}
		select {
		case <-tick.C:
		case <-limit:
			return fmt.Errorf("waited %v for the process to stop", waitMax)
		}
	}
}
