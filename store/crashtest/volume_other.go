//go:build !linux

package crashtest

import (
	"errors"
	"os"
	"testing"
)

func fileSystems(t testing.TB) []string {
	t.Helper()
	t.Skip("only Linux can cut the power of a file system")
	return nil
}

func scratch() string { return os.TempDir() }

type volume struct{ dir string }

func newVolume(t testing.TB, _ *kit, _ string) *volume {
	t.Helper()
	t.Skip("only Linux can cut the power of a file system")
	return nil
}

func (v *volume) shutdown() error { return errors.ErrUnsupported }
func (v *volume) remount() error  { return errors.ErrUnsupported }
func (p *process) stop() error    { return errors.ErrUnsupported }
func sweepLeftovers()             {}
func sweep(string) error          { return errors.ErrUnsupported }

func inCI() bool { return os.Getenv("CI") != "" }

func missing(t testing.TB, _ bool, format string, args ...any) {
	t.Helper()
	t.Skipf(format, args...)
}

func newHome(t testing.TB, _ *kit) string {
	t.Helper()
	return t.TempDir()
}
