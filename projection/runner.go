package projection

import (
	"errors"
	"fmt"
	"sync"

	"github.com/perdure/perdure/internal/core/projector"
)

// The errors of a [Runner] that callers can test for.
var (
	// ErrNotRunning: the call needs a runner that runs in this process.
	ErrNotRunning = errors.New("runner does not run in this process")
	// ErrRunning: the runner runs already.
	ErrRunning = errors.New("runner is running already")
	// ErrServing: readers use this version.
	ErrServing = errors.New("version serves readers")
	// ErrNotParked: the entity is not parked.
	ErrNotParked = projector.ErrNotParked
	// ErrRemoved: the version has been removed.
	ErrRemoved = projector.ErrRemoved
)

// A Runner is one version of a projection with its target. Make it by [Projection.Into]. Many
// goroutines may call its methods at once. Most methods also work where the runner does not run:
// they use the notes in the target then.
type Runner struct {
	*settings

	back backend

	mu       sync.Mutex
	run      *run          // nil if it is not running here
	attached chan struct{} // closed once the runner runs here
}

func newRunner(s *settings, b backend) *Runner {
	return &Runner{settings: s, back: b, attached: make(chan struct{})}
}

// Name returns the name of the projection.
func (r *Runner) Name() string { return r.name }

// Version returns the version of the runner's projection.
func (r *Runner) Version() int { return r.version }

func (r *Runner) attach(n *run) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.run != nil {
		return fmt.Errorf("projection %q version %d: %w", r.name, r.version, ErrRunning)
	}
	r.run = n
	close(r.attached)
	return nil
}

func (r *Runner) detach(n *run) {
	r.mu.Lock()
	if r.run == n {
		r.run, r.attached = nil, make(chan struct{})
	}
	r.mu.Unlock()
	n.progress()
}

// active returns the run, or nil.
func (r *Runner) active() *run {
	n, _ := r.activeOr()
	return n
}

// activeOr returns the run, or nil and a channel that is closed once there is a run.
func (r *Runner) activeOr() (*run, <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.run, r.attached
}

func (r *Runner) wrap(doing string, err error) error {
	if err == nil || len(r.mistakes) > 0 { // each mistake names the projection
		return err
	}
	return fmt.Errorf("%s projection %q version %d: %w", doing, r.name, r.version, err)
}

// check returns an error that lists the mistakes in the declaration of the projection.
func (r *Runner) check() error { return r.settings.err() }

// running returns the run, or an error matching ErrNotRunning.
func (r *Runner) running() (*run, error) {
	if err := r.check(); err != nil {
		return nil, err
	}
	if n := r.active(); n != nil {
		return n, nil
	}
	return nil, ErrNotRunning
}

// Pause makes the runner handle no more events after its current batches, until [Runner.Resume]
// or the end of the process.
func (r *Runner) Pause() error {
	n, err := r.running()
	if err != nil {
		return r.wrap("pause", err)
	}
	n.mu.Lock()
	if n.resumed == nil {
		n.resumed = make(chan struct{})
	}
	n.mu.Unlock()
	for _, l := range n.list() {
		l.signal()
	}
	return nil
}

// Resume ends a [Runner.Pause], and makes a runner that has stopped try again.
func (r *Runner) Resume() error {
	n, err := r.running()
	if err != nil {
		return r.wrap("resume", err)
	}
	n.mu.Lock()
	if n.resumed != nil {
		close(n.resumed)
		n.resumed = nil
	}
	n.mu.Unlock()
	select {
	case n.retry <- struct{}{}:
	default:
	}
	for _, l := range n.list() {
		l.input((*projector.Segment).Resume)
	}
	return nil
}

// reload makes the segments read their notes again.
func (r *run) reload() {
	for _, l := range r.list() {
		l.input(func(c *projector.Segment) {
			c.Resume()
			c.Reload()
		})
	}
}
