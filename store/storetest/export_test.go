package storetest

import (
	"fmt"
	"runtime"
	"sync"
	"testing"
)

// Watch runs one case and returns its failures, without failing t. If the case does not
// exist or is skipped, t fails.
func Watch(t *testing.T, name string, open Open, f Features) []string {
	t.Helper()
	for _, c := range cases() {
		if c.name != name {
			continue
		}
		r := &recorder{TB: t}
		done := make(chan struct{})
		go func() {
			defer close(done)
			c.execute(r, open, f)
		}()
		<-done
		return r.failures
	}
	t.Fatalf("there is no case %q", name)
	return nil
}

// Names returns the names of all cases.
func Names() []string {
	var names []string
	for _, c := range cases() {
		names = append(names, c.name)
	}
	return names
}

// A recorder is a testing.TB that records failures instead of failing.
type recorder struct {
	testing.TB
	mu       sync.Mutex
	failures []string
}

func (r *recorder) note(s string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failures = append(r.failures, s)
}

func (r *recorder) Failed() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.failures) > 0
}

func (r *recorder) Fail() { r.note("failed") }
func (r *recorder) FailNow() {
	r.note("failed")
	runtime.Goexit()
}
func (r *recorder) Error(args ...any)                 { r.note(fmt.Sprint(args...)) }
func (r *recorder) Errorf(format string, args ...any) { r.note(fmt.Sprintf(format, args...)) }
func (r *recorder) Fatal(args ...any) {
	r.note(fmt.Sprint(args...))
	runtime.Goexit()
}

func (r *recorder) Fatalf(format string, args ...any) {
	r.note(fmt.Sprintf(format, args...))
	runtime.Goexit()
}
