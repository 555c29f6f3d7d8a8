package projectiontest

import (
	"fmt"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"
)

// Watch runs one case and returns its failure messages, without failing t. If the case does not
// exist or is skipped, Watch fails t.
func Watch[Tx any](t *testing.T, name string, open Open[Tx], f Features[Tx]) []string {
	t.Helper()
	for _, c := range cases[Tx]() {
		if c.name != name {
			continue
		}
		r := &recorder{TB: t}
		c.wait = time.Second // a broken target may make it wait in vain
		done := make(chan struct{})
		go func() {
			defer close(done)
			c.execute(r, open, f)
		}()
		<-done
		return r.noted()
	}
	t.Fatalf("there is no case %q", name)
	return nil
}

// Names returns the names of all cases.
func Names() []string {
	var names []string
	for _, c := range cases[int]() {
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

// noted returns the messages so far; the case may have left a goroutine that adds more.
func (r *recorder) noted() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.failures)
}

func (r *recorder) Error(args ...any)                 { r.note(fmt.Sprint(args...)) }
func (r *recorder) Errorf(format string, args ...any) { r.note(fmt.Sprintf(format, args...)) }
func (r *recorder) Fatalf(format string, args ...any) {
	r.note(fmt.Sprintf(format, args...))
	runtime.Goexit()
}
