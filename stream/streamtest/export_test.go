package streamtest

import (
	"fmt"
	"runtime"
	"testing"

	"github.com/perdure/perdure/stream"
)

// WatchCheckpoints runs one case and returns its failures.
func WatchCheckpoints(t *testing.T, c stream.Checkpoints, name string) []string {
	t.Helper()
	for _, each := range checkpointCases {
		if each.name != name {
			continue
		}
		r := &recorder{TB: t}
		done := make(chan struct{})
		go func() {
			defer close(done)
			each.run(keeper{r, c})
		}()
		<-done
		return r.failures
	}
	t.Fatalf("there is no case %q", name)
	return nil
}

// A recorder is a testing.TB that records failures and does not fail the test.
type recorder struct {
	testing.TB
	failures []string
}

func (r *recorder) Errorf(format string, args ...any) {
	r.failures = append(r.failures, fmt.Sprintf(format, args...))
}

func (r *recorder) Fatalf(format string, args ...any) {
	r.Errorf(format, args...)
	runtime.Goexit()
}
