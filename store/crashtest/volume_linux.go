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
	// imageBytes is the size of the file system, whose file is sparse. XFS needs at least
	// this.
	imageBytes = 512 << 20
	// goingDown is the ioctl EXT4_IOC_SHUTDOWN, which is XFS_IOC_GOINGDOWN too. The flag
	// noLogFlush drops the part of the file system's journal that is only in memory.
	goingDown  = 0x8004587d
	noLogFlush = 2
)

// memoryBytesMin is the free room that a file system in memory must have to be used.
const memoryBytesMin = 4 << 30

// scratch returns a directory for files that need not be on a disk. The directory is in
// memory, where syncs cost nothing, if there is room.
func scratch() string {
	const memory = "/dev/shm"
	var s unix.Statfs_t
	if err := unix.Statfs(memory, &s); err != nil || s.Bavail*uint64(s.Bsize) < memoryBytesMin || unix.Access(memory, unix.W_OK) != nil {
		return os.TempDir()
	}
	return memory
}

// inCI reports whether the tests run in CI, where a missing program is a failure.
func inCI() bool { return os.Getenv("CI") != "" }

// missing skips the test, or fails it if must is set.
func missing(t testing.TB, must bool, format string, args ...any) {
	t.Helper()
	text := fmt.Sprintf(format, args...)
	if must {
		t.Fatalf("%s: %s", t.Name(), text)
	}
	_, _ = fmt.Fprintf(os.Stderr, "SKIPPED %s: %s\n", t.Name(), text) // louder than Skip, which prints only with -v
	t.Skip(text)
}

// fileSystems returns the file systems that can be made here, ext4 first.
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

// newVolume makes and mounts a file system, which is removed at the end of the test.
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

// remount mounts the file system again, as after a restart of the machine.
func (v *volume) remount() error {
	if err := unmount(v.dir); err != nil {
		return err
	}
	return v.mount()
}

// unmount waits until no process uses a mount. A process that another test is just starting
// holds all files of this one until its program runs.
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
			return fmt.Errorf("waited %v until no process uses %s", waitMax, dir)
		}
	}
}

// newHome returns a directory for mounts. It is removed, with its mounts, when the test or
// the process ends, even if the process is killed.
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

// sweepLeftovers removes the directories of processes that have ended.
func sweepLeftovers() {
	found, _ := filepath.Glob(filepath.Join(scratch(), homePrefix+"*")) // the pattern is valid
	for _, dir := range found {
		pid, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(dir), homePrefix), "-")
		n, err := strconv.Atoi(pid)
		if err == nil && errors.Is(syscall.Kill(n, 0), syscall.ESRCH) {
			_ = sweep(dir) // a janitor may be removing it too
		}
	}
}

// sweep unmounts all mounts in a directory, and removes it.
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

// stop stops a process and waits until it is stopped.
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
