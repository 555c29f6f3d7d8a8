package projection

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"sync"
	"time"

	"github.com/perdure/perdure/internal/canary"
	"github.com/perdure/perdure/internal/project"
	"github.com/perdure/perdure/store"
)

// What callers of a [Runner] branch on.
var (
	// ErrNotRunning: the call needs a runner that is run in this process.
	ErrNotRunning = errors.New("projection is not running here")
	// ErrRunning: the runner is run already.
	ErrRunning = errors.New("projection is running already")
	// ErrServing: the version is the one that readers use.
	ErrServing = errors.New("version serves readers")
	// ErrNotParked: the entity is not parked.
	ErrNotParked = project.ErrNotParked
	// ErrRemoved: the version has been removed.
	ErrRemoved = project.ErrRemoved
)

// A Runner is one version of a projection with its target. Make it by
// [Projection.Into]. Its methods may be called by many goroutines at once, and
// most of them also where the runner is not run: then they go by the notes in
// the target.
type Runner struct {
	*settings

	back backend

	mu       sync.Mutex
	run      *run          // nil if it is not running here
	attached chan struct{} // closed once it is
}

func newRunner(s *settings, b backend) *Runner {
	return &Runner{settings: s, back: b, attached: make(chan struct{})}
}

// Name returns the name of the projection.
func (r *Runner) Name() string { return r.name }

// Version returns the version that the runner is of.
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

// activeOr returns the run, or nil and what is closed once there is one.
func (r *Runner) activeOr() (*run, <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.run, r.attached
}

func (r *Runner) wrap(doing string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s projection %q version %d: %w", doing, r.name, r.version, err)
}

// check returns what is wrong with the declaration of the projection.
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

// Pause has the runner handle nothing more, after what it is at, until
// [Runner.Resume] or the end of the process.
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

// Resume ends a [Runner.Pause], and has a runner that has stopped try again.
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
		l.input((*project.Lane).Resume)
	}
	return nil
}

// reload has the lanes read their notes again.
func (r *run) reload() {
	for _, l := range r.list() {
		l.input(func(c *project.Lane) {
			c.Resume()
			c.Reload()
		})
	}
}

// Switch has readers use this version, from the next query on, and takes the
// effects over from the version that they have used, see [Replaying]. It is one
// transaction. The old version goes on as long as it is run, so that switching
// back is as quick; remove it by [Runner.Remove]. Switching to the version that
// serves does nothing.
//
// Whether the version has caught up is not asked; see [Runner.Status] and
// [SwitchWhenLive].
func (r *Runner) Switch(ctx context.Context) error {
	if err := r.check(); err != nil {
		return r.wrap("switch to", err)
	}
	now := time.Now()
	var self store.ID
	process := processText()
	n := r.active()
	if n != nil {
		now, self = n.now(), n.self
	}
	err := r.back.update(ctx, func(t txn) error { return r.switchIn(ctx, t, now, self, process) })
	if err == nil && n != nil {
		n.reload()
	}
	return r.wrap("switch to", err)
}

func (r *Runner) switchIn(ctx context.Context, t txn, now time.Time, self store.ID, process string) error {
	b, err := t.note(ctx, servingKey(r.name))
	if err != nil {
		return err
	}
	old := 0
	if b != nil {
		if old, err = decodeServing(b); err != nil {
			return err
		}
	}
	if old == r.version {
		return nil
	}
	mine, err := r.hold(ctx, t, r.version)
	if err != nil {
		return err
	}
	if len(mine) == 0 {
		return fmt.Errorf("%w: it has not begun", store.ErrNotFound)
	}
	var others map[laneID]laneNote
	if old != 0 {
		if others, err = r.hold(ctx, t, old); err != nil {
			return err
		}
	}
	put := func(version int, id laneID, n laneNote) error {
		n.Revision++
		n.Writer, n.process, n.time = self, process, now
		return t.setNote(ctx, keysOf(r.name, version, id).lane, encodeLane(&n))
	}
	for id, n := range mine {
		// What the old version has handled has had its effects.
		latched := store.LastPosition(id.partition)
		if o, ok := others[id]; ok && countLanes(mine) == countLanes(others) {
			latched = o.Position
		} else {
			for oid, o := range others {
				if oid.partition == id.partition {
					latched = min(latched, o.Position)
				}
			}
			if latched == store.LastPosition(id.partition) {
				latched = store.NewPosition(id.partition, 0)
			}
		}
		n.Latched = latched
		if err := put(r.version, id, n); err != nil {
			return err
		}
	}
	for id, n := range others {
		if !canary.Broken("effects-not-handed-over") {
			n.Latched = store.LastPosition(id.partition)
		}
		if err := put(old, id, n); err != nil {
			return err
		}
	}
	return t.setNote(ctx, servingKey(r.name), encodeServing(r.version, now))
}

func countLanes(m map[laneID]laneNote) int {
	n := 0
	for id := range m {
		n = max(n, id.lane+1)
	}
	return n
}

// hold reads the notes of all lanes of a version so that nobody else can change
// them until the end of the transaction.
func (r *Runner) hold(ctx context.Context, t txn, version int) (map[laneID]laneNote, error) {
	lanes, err := laneNotes(ctx, t, r.name, version)
	if err != nil {
		return nil, err
	}
	for id := range lanes {
		if lanes[id], err = readLane(ctx, t, keysOf(r.name, version, id).lane, id.partition); err != nil {
			return nil, err
		}
	}
	return lanes, nil
}

// Reset has the version begin anew: [Clear] and [Prepare] run in one transaction
// with the new positions, which are the start of the log, or the given ones, one
// per partition that is not to begin at its start. What it has handled before
// counts as replayed, see [Replaying]. The runner must be running, so that the
// log is known.
func (r *Runner) Reset(ctx context.Context, after ...store.Position) error {
	n, err := r.running()
	if err == nil && !r.clears {
		err = fmt.Errorf("%w: the projection has no Clear rule", errors.ErrUnsupported)
	}
	if err == nil {
		err = n.reset(ctx, after)
	}
	return r.wrap("reset", err)
}

func (r *run) reset(ctx context.Context, after []store.Position) error {
	r.mu.Lock()
	partitions := len(r.readers)
	r.mu.Unlock()
	if partitions == 0 {
		return fmt.Errorf("%w: it has not begun", store.ErrNotFound)
	}
	from := make([]store.Bookmark, partitions)
	for p := range from {
		from[p] = store.Bookmark{Name: bookmarkName(r.name, r.version), Position: store.NewPosition(p, 0)}
	}
	for _, p := range after {
		if p.Partition() >= partitions {
			return fmt.Errorf("%w: position %v: the log has %d partitions", store.ErrInvalid, p, partitions)
		}
		from[p.Partition()].Position = p
	}
	r.change(true)
	defer r.change(false)
	if err := r.setBookmarks(ctx, from); err != nil {
		return err
	}
	err := r.back.update(ctx, func(t txn) error {
		lanes, err := r.runner.hold(ctx, t, r.version)
		if err != nil {
			return err
		}
		ctx := context.WithValue(ctx, infoKey{}, info{version: r.version, replaying: true})
		if err := t.clearVersion(ctx); err != nil {
			return fmt.Errorf("clear: %w", err)
		}
		if err := t.prepareVersion(ctx); err != nil {
			return fmt.Errorf("prepare: %w", err)
		}
		for id, l := range lanes {
			k := keysOf(r.name, r.version, id)
			for _, prefix := range []string{k.parked, k.dead} {
				if err := removeNotes(ctx, t, prefix); err != nil {
					return err
				}
			}
			l.Latched = max(l.Latched, l.Position)
			l.Position, l.Parked, l.Dead = from[id.partition].Position, 0, 0
			l.Revision++
			l.Writer, l.process, l.time = r.self, r.process, r.now()
			if err := t.setNote(ctx, k.lane, encodeLane(&l)); err != nil {
				return err
			}
		}
		return nil
	})
	r.reload()
	return err
}

// change says whether bookmarks must be left alone.
func (r *run) change(changing bool) {
	r.mu.Lock()
	r.changing = changing
	r.mu.Unlock()
}

// removeBatch bounds the notes that are looked at before they are removed.
const removeBatch = 256

func removeNotes(ctx context.Context, t txn, prefix string) error {
	for {
		var keys []string
		for n, err := range t.notes(ctx, prefix) {
			if err != nil {
				return err
			}
			if keys = append(keys, n.Key); len(keys) == removeBatch {
				break
			}
		}
		for _, k := range keys {
			if err := t.setNote(ctx, k, nil); err != nil {
				return err
			}
		}
		if len(keys) < removeBatch {
			return nil
		}
	}
}

// Remove removes the version: [Clear] runs, and all of its notes go, in one
// transaction; then its bookmarks in the log go too. The runner stops, also in
// other processes. It is how a rebuild is cancelled and an old version cleaned
// up. The version that readers use cannot be removed while there is another one;
// the error matches [ErrServing]. The runner must be running, so that the log is
// known. A version that is run again afterwards begins anew.
func (r *Runner) Remove(ctx context.Context) error {
	n, err := r.running()
	if err == nil && !r.clears {
		err = fmt.Errorf("%w: the projection has no Clear rule", errors.ErrUnsupported)
	}
	if err == nil {
		err = n.remove(ctx)
	}
	return r.wrap("remove", err)
}

func (r *run) remove(ctx context.Context) error {
	r.mu.Lock()
	partitions := len(r.readers)
	r.mu.Unlock()
	if partitions == 0 {
		return fmt.Errorf("%w: it has not begun", store.ErrNotFound)
	}
	r.change(true)
	err := r.back.update(ctx, func(t txn) error {
		b, err := t.note(ctx, servingKey(r.name))
		if err != nil {
			return err
		}
		serving := 0
		if b != nil {
			if serving, err = decodeServing(b); err != nil {
				return err
			}
		}
		if serving == r.version {
			others := false
			for o, err := range t.notes(ctx, versionsPrefix(r.name)) {
				if err != nil {
					return err
				}
				others = others || !hasPrefix(o.Key, versionPrefix(r.name, r.version))
			}
			if others {
				return ErrServing
			}
			if err := t.setNote(ctx, servingKey(r.name), nil); err != nil {
				return err
			}
		}
		if _, err := r.runner.hold(ctx, t, r.version); err != nil {
			return err
		}
		ctx := context.WithValue(ctx, infoKey{}, info{version: r.version, replaying: true})
		if err := t.clearVersion(ctx); err != nil {
			return fmt.Errorf("clear: %w", err)
		}
		return removeNotes(ctx, t, versionPrefix(r.name, r.version))
	})
	if err != nil {
		r.reload()
		r.change(false)
		return err
	}
	r.mu.Lock()
	r.err, r.failed = ErrRemoved, true
	r.mu.Unlock()
	r.reload()
	marks := make([]store.Bookmark, partitions)
	for p := range marks {
		marks[p] = store.Bookmark{Name: bookmarkName(r.name, r.version), Position: store.NewPosition(p, 0), Remove: true}
	}
	return r.setBookmarks(ctx, marks)
}

func hasPrefix(s, prefix string) bool { return len(s) >= len(prefix) && s[:len(prefix)] == prefix }

// A ParkedEntity misses its events from Version on, at Position, in a read model.
type ParkedEntity = project.Parked

// A DeadLetter says which events of an entity are left out of a read model for
// good: the one at Position, or all of them through Through.
type DeadLetter = project.DeadLetter

// Parked yields the entities that are parked, by partition, lane and name.
func (r *Runner) Parked(ctx context.Context) iter.Seq2[*ParkedEntity, error] {
	return listNotes(ctx, r, "parked/", decodeParked)
}

// DeadLetters yields what is left out, by partition, lane and position.
func (r *Runner) DeadLetters(ctx context.Context) iter.Seq2[*DeadLetter, error] {
	return listNotes(ctx, r, "dead/", decodeDead)
}

func listNotes[N any](ctx context.Context, r *Runner, what string, decode func([]byte) (*N, error)) iter.Seq2[*N, error] {
	return func(yield func(*N, error) bool) {
		if err := r.check(); err != nil {
			yield(nil, err)
			return
		}
		var list []*N
		err := r.back.view(ctx, func(t txn) error {
			list = nil
			for n, err := range t.notes(ctx, versionPrefix(r.name, r.version)+what) {
				if err != nil {
					return err
				}
				d, err := decode(n.Value)
				if err != nil {
					return fmt.Errorf("note %s: %w", n.Key, err)
				}
				list = append(list, d)
			}
			return nil
		})
		for _, d := range list {
			if !yield(d, nil) {
				return
			}
		}
		if err != nil {
			yield(nil, r.wrap("read notes of", err))
		}
	}
}

// Retry hands a parked entity the events that it misses, in order, and unparks
// it with the last of them. If a rule fails again, the entity stays parked at
// that event and the error is returned. An entity that is not parked gives an
// error matching [ErrNotParked]. The other entities go on meanwhile.
func (r *Runner) Retry(ctx context.Context, key store.Key) error {
	return r.wrap("retry in", r.job(ctx, key, project.Retry))
}

// SkipEvent leaves the first event that a parked entity misses out for good,
// with a dead letter, and goes on like [Runner.Retry].
func (r *Runner) SkipEvent(ctx context.Context, key store.Key) error {
	return r.wrap("skip in", r.job(ctx, key, project.SkipOne))
}

// DropEvents leaves all events that a parked entity misses out for good, with a
// dead letter, and unparks it: it gets the events that come from now on.
func (r *Runner) DropEvents(ctx context.Context, key store.Key) error {
	return r.wrap("drop in", r.job(ctx, key, project.Drop))
}

func (r *Runner) job(ctx context.Context, key store.Key, kind project.JobKind) error {
	if err := key.Validate(); err != nil {
		return err
	}
	n, err := r.running()
	if err != nil {
		return err
	}
	n.mu.Lock()
	readers := n.readers
	n.mu.Unlock()
	if len(readers) == 0 {
		return fmt.Errorf("%v: %w", key, ErrNotParked)
	}
	rd := readers[store.PartitionOf(key, len(readers))]
	done := make(chan error, 1)
	rd.laneOf(key).input(func(c *project.Lane) {
		c.Do(&project.Job{Kind: kind, Key: key, Done: func(err error) { done <- err }})
	})
	select {
	case err := <-done:
		return err
	case <-n.ended:
		return ErrNotRunning
	case <-ctx.Done():
		return ctx.Err()
	}
}
