package projection

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/perdure/perdure"
	"github.com/perdure/perdure/internal/core/projector"
	guarded "github.com/perdure/perdure/internal/guard"
	"github.com/perdure/perdure/internal/intercept"
	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/stream"
)

// pollStandard is the maximum pause before a runner looks at the log again, if no [stream.Hub]
// wakes it and Config has no Poll.
const pollStandard = 50 * time.Millisecond

// A Config has the log for runners and their environment. Log is required; the zero value of each
// other field is a good default. An engine that runs them as a [Service] fills it in.
type Config struct {
	// Log is the log with the events.
	Log store.Log
	// Hub wakes the runners after a commit. Without a hub they poll the heads of the log: after
	// new events with short pauses that grow up to Poll. Zero Poll is 50 milliseconds.
	Hub  *stream.Hub
	Poll time.Duration
	// Kinds say which events are upcast, and how.
	Kinds []perdure.AnyKind
	// Logger gets the log records of the runners. Nil discards them. If its handler panics or
	// ends its goroutine, that record is lost and the runner goes on.
	Logger *slog.Logger
	// Clock tells the time and runs timers. Nil is the system clock.
	Clock perdure.Clock
	// Interceptors are around each attempt to handle a batch of events: only the field
	// Projection of each is used.
	Interceptors []perdure.Interceptor

	follow func(context.Context, store.Query) iter.Seq2[*store.Event, error]
	limit  []store.Position // if not nil, no event above it is read
	once   bool             // a caller waits until the notes are written
	hooks  []intercept.Func[perdure.ProjectionCall]
}

func (c *Config) defaults() error {
	if c.Log == nil {
		return fmt.Errorf("%w: Config.Log is nil", store.ErrInvalid)
	}
	if c.Poll < 0 {
		return fmt.Errorf("%w: Config.Poll is negative: %v", store.ErrInvalid, c.Poll)
	}
	if c.Poll == 0 {
		c.Poll = pollStandard
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	} else {
		c.Logger = guarded.Logger(c.Logger)
	}
	if c.Clock == nil {
		c.Clock = guarded.SystemClock{}
	} else if _, ok := c.Clock.(*guarded.Clock); !ok {
		c.Clock = guarded.NewClock(c.Clock, c.Logger)
	}
	if c.follow == nil && c.Hub != nil {
		c.follow = c.Hub.Follow
	}
	for _, i := range c.Interceptors {
		if i.Projection != nil {
			c.hooks = append(c.hooks, i.Projection)
		}
	}
	return nil
}

// Run runs the runners until the context ends. It waits for all their goroutines and then returns
// nil. If the configuration or a projection has mistakes, Run starts nothing and returns an error
// that lists them. Later failures of one runner appear in its [Runner.Status] and do not disturb
// the others.
func Run(ctx context.Context, c Config, runners ...*Runner) error {
	if err := c.defaults(); err != nil {
		return fmt.Errorf("run projections: %w", err)
	}
	runs, err := prepare(&c, runners)
	if err != nil {
		return fmt.Errorf("run projections: %w", err)
	}
	var wait sync.WaitGroup
	for _, r := range runs {
		r.start(ctx, &wait)
	}
	wait.Wait()
	return nil
}

// Service returns a service that runs the runners in an engine, see [perdure.Config]. The engine
// gives them its kinds, and wakes them after each of its commits.
func Service(runners ...*Runner) perdure.Service { return service(runners) }

type service []*Runner

// Serve implements [perdure.Service].
func (s service) Serve(ctx context.Context, e *perdure.Engine) error {
	c := e.Config()
	return Run(ctx, Config{Log: c.Store, Kinds: c.Kinds, Logger: c.Logger, Clock: c.Clock, Interceptors: c.Interceptors, follow: e.Events}, s...)
}

// prepare checks the configuration and makes the runs.
func prepare(c *Config, runners []*Runner) ([]*run, error) {
	var errs []error
	names := map[string]bool{}
	var runs []*run
	for i, r := range runners {
		if r == nil {
			errs = append(errs, fmt.Errorf("%w: runner %d is nil", store.ErrInvalid, i))
			continue
		}
		if err := r.settings.err(); err != nil {
			errs = append(errs, err)
			continue
		}
		id := fmt.Sprintf("projection %q version %d", r.name, r.version)
		if names[id] {
			errs = append(errs, fmt.Errorf("%w: %s is given twice", store.ErrInvalid, id))
			continue
		}
		names[id] = true
		plan, err := makeDecoderPlan(r.settings, c.Kinds)
		if err != nil {
			errs = append(errs, fmt.Errorf("%w: %s: %w", store.ErrInvalid, id, err))
			continue
		}
		set := *r.settings
		if c.once {
			set.limits.FlushAfter = 0
		}
		runs = append(runs, &run{
			settings: &set, back: r.back, runner: r, config: *c, log: c.Log, follow: c.follow, plan: plan,
			logger: c.Logger, process: processText(), retry: make(chan struct{}, 1), ended: make(chan struct{}),
		})
		rand.Read(runs[len(runs)-1].self[:])
		rand.Read(runs[len(runs)-1].fresh[:])
	}
	for _, r := range runs {
		if err := r.runner.attach(r); err != nil {
			errs = append(errs, err)
		}
	}
	if len(errs) > 0 {
		for _, r := range runs {
			r.runner.detach(r)
		}
		return nil, errors.Join(errs...)
	}
	return runs, nil
}

// processText returns the text that names this process in notes, such as "host:123".
func processText() string {
	host, err := os.Hostname()
	if err != nil {
		host = "?"
	}
	return fmt.Sprintf("%s:%d", host, os.Getpid())
}

// A run is the state of a runner while it runs.
type run struct {
	*settings

	back    backend
	runner  *Runner
	config  Config
	log     store.Log
	follow  func(context.Context, store.Query) iter.Seq2[*store.Event, error]
	plan    *decoderPlan
	logger  *slog.Logger
	self    store.ID
	process string

	waiting atomic.Int32 // callers of AtLeast
	fresh   store.ID     // the instance id for a version that begins here
	live    atomic.Bool  // the run has been live

	mu         sync.Mutex
	readers    []*reader // nil until the version has begun
	about      about     // what the version note says, once it has begun
	note       []byte    // the stored form of about
	again      func()    // ends the work of the readers, so that the run begins again
	err        error     // the reason why the version has not begun
	failed     bool      // the version will not begin without help
	superseded bool      // another program has taken the version over
	removed    bool
	resumed    chan struct{} // closed when Resume is called; nil unless paused
	retry      chan struct{} // one element: begin again
	changed    chan struct{} // closed at the next progress; nil without waiting callers
	ended      chan struct{} // closed when the runner no longer runs

	marking      sync.Mutex // held while a goroutine uses the registration
	registration *stream.Registration
	registered   string   // the id of the registration
	reserved     []string // ids that were registered for a reset, or before one
}

func (r *run) now() time.Time { return r.config.Clock.Now() }

// sleep waits for a duration or a signal, and returns true. If the context ends, it returns
// false.
func (r *run) sleep(ctx context.Context, d time.Duration, signal <-chan struct{}) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	timer := make(chan struct{})
	stop := r.config.Clock.AfterFunc(d, func() { close(timer) })
	defer stop()
	select {
	case <-timer:
	case <-signal:
	case <-ctx.Done():
		return false
	}
	return true
}

// start runs serve on a goroutine until the context ends.
func (r *run) start(ctx context.Context, wait *sync.WaitGroup) {
	untilDone(wait, func() { r.serve(ctx) }, func() {
		r.runner.detach(r)
		close(r.ended)
	})
}

// serve runs the runner until the context ends. It begins again when the notes of the version
// have changed: the version was reset, or another program has taken it over.
func (r *run) serve(ctx context.Context) {
	for {
		a, ok := r.begin(ctx)
		if !ok {
			return
		}
		r.work(ctx, a)
		if ctx.Err() != nil {
			return
		}
	}
}

// work runs the segments of a version that has begun, until the context ends or the run must begin
// again.
func (r *run) work(ctx context.Context, a about) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	readers := r.makeReaders(a)
	r.mu.Lock()
	r.err, r.failed, r.superseded = nil, false, false
	r.about, r.note, r.readers, r.again = a, encodeAbout(a), readers, cancel
	r.mu.Unlock()
	r.progress()
	var wait sync.WaitGroup
	for _, rd := range readers {
		wait.Go(func() { rd.loop(ctx) })
		for _, l := range rd.segments {
			l.start(ctx, &wait)
		}
	}
	untilDone(&wait, func() { r.keepCheckpoints(ctx) }, nil)
	if r.auto {
		untilDone(&wait, func() { r.switchWhenLive(ctx) }, nil)
	}
	wait.Wait()
	r.mu.Lock()
	r.readers, r.again = nil, nil
	r.mu.Unlock()
	for _, rd := range readers {
		for _, l := range rd.segments {
			l.input(func(c *projector.Segment) { c.Close(ErrNotRunning) })
		}
	}
	r.progress()
}

func (r *run) makeReaders(a about) (readers []*reader) {
	for p := range a.partitions {
		rd := newReader(r, p)
		for i := range a.segments {
			rd.segments = append(rd.segments, newSegment(r, rd, i))
		}
		readers = append(readers, rd)
	}
	return readers
}

// restart makes the run begin again, from the notes as they are then.
func (r *run) restart() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.again != nil {
		r.again()
	} else if !r.removed {
		r.err, r.failed, r.superseded = nil, false, false // the cause of the failure may be gone
	}
	select {
	case r.retry <- struct{}{}:
	default:
	}
}

// hold waits while the runner is paused. It reports whether it has waited.
func (r *run) hold(ctx context.Context) bool {
	r.mu.Lock()
	resumed := r.resumed
	r.mu.Unlock()
	if resumed == nil {
		return false
	}
	select {
	case <-resumed:
	case <-ctx.Done():
	}
	return true
}

// progress wakes the callers that wait for progress.
func (r *run) progress() {
	if r.waiting.Load() == 0 {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.changed != nil {
		close(r.changed)
		r.changed = nil
	}
}

func (r *run) reportError(l *segment, err error) {
	r.logger.Warn("projection has failed", "projection", r.name, "version", r.version, "segment", l.id.String(), "error", err)
}

// blame logs the event at which a rule has failed.
func (r *run) blame(l *segment, e *store.Event, err error) {
	r.logger.Warn("projection has failed at an event", "projection", r.name, "version", r.version, "segment", l.id.String(),
		"position", e.Position.String(), "type", e.Type, "entity", e.Key.String(), "entity_version", uint64(e.Version), "error", err)
}

// list returns the segments; there are none before the version has begun.
func (r *run) list() []*segment {
	r.mu.Lock()
	defer r.mu.Unlock()
	var all []*segment
	for _, rd := range r.readers {
		all = append(all, rd.segments...)
	}
	return all
}
