// Package stream follows a log: a reader gets first the stored events, then new ones as
// they are committed, without a gap, a duplicate or a change of order.
//
// A [Hub] has many readers. [Hub.Follow] yields events, [Hub.Commits] yields whole
// commits and also reports the position of a reader with a filter. A [Subscription] is
// a reader with a name and a saved position: it delivers commits, takes
// acknowledgements in any order, and saves in [Checkpoints] the position up to which
// all commits are acknowledged. After a crash it delivers the others again.
package stream

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/perdure/perdure/internal/guard"
	"github.com/perdure/perdure/store"
)

// Errors that a reader yields.
var (
	// ErrClosed ends the readers of a closed hub.
	ErrClosed = errors.New("stream is closed")
	// ErrLagged is a notice, after which the reader may go on. The error is a
	// [*LaggedError].
	ErrLagged = errors.New("reader lags behind")
)

// A LaggedError is a notice to a reader of [Hub.Follow] that was up to date and has
// fallen so far behind that it now reads from the log again. Nothing is lost by that:
// the reader may go on, or stop and come back later; see [DeletedError] for events that
// may be deleted until then. The error matches [ErrLagged].
type LaggedError struct {
	// Position is the position of the last event that the reader has got.
	Position store.Position
	// Head is the position of the last committed event.
	Head store.Position
}

func (e *LaggedError) Error() string {
	return fmt.Sprintf("reader at position %v lags behind the head %v", e.Position, e.Head)
}

func (e *LaggedError) Unwrap() error { return ErrLagged }

// A Hub lets many readers follow the partitions of one log.
//
// The committer passes it the events that are now durable ([Hub.Publish]). The hub
// keeps the latest events of each partition in a ring buffer, by position. Positions
// have no gaps, so a reader at position p needs nothing but the event p+1: if the ring
// has it, the reader takes it from there; if it is committed but not in the ring, the
// reader scans the log; else it waits. Therefore nothing depends on the order in which
// commits are published, or on all of them being published.
//
//  1. While there are readers, head is at or above every published position. Each
//     reader reads it from the log when it begins, after it has raised the count of
//     readers: so a publisher either sees that there is a reader, or has committed
//     before the head was read.
//  2. slot p mod len(ring) holds the event of position p or of another position, never
//     a different event with the position p. The event that a slot points to never
//     changes.
//  3. A publisher never waits for a reader, and no reader waits for another: the ring
//     and the head are atomic, and a publisher never takes mu, which guards the sets of
//     readers.
//  4. A publisher raises the head before it notifies, and a reader gets the
//     wave that it will wait for before it checks the head. So no reader misses a
//     wake-up.
type Hub struct {
	log  store.Log
	poll time.Duration

	active    atomic.Int32 // number of readers
	parts     []part
	broadcast broadcast
	began     time.Time
	polled    atomic.Int64 // time of the last poll of the heads, as a duration since began

	watcher store.Watcher                   // nil if the log is none, or if no other process commits
	heard   atomic.Pointer[<-chan struct{}] // the watcher's channel from before the last read of the heads

	logger *slog.Logger
	live   *live   // nil if readers are not registered
	others silence // times since the registrations of other engines have changed

	mu      sync.Mutex
	readers map[*reader]struct{}
	failing map[*reader]error // the error because of which a reader waits before it reads again
	closed  bool
	done    chan struct{}
}

type part struct {
	head atomic.Uint64
	ring atomic.Pointer[ring]
}

// raise moves the head up to a position. It reports whether the head was below that
// position.
func (p *part) raise(to store.Position) bool {
	for {
		at := p.head.Load()
		if at >= uint64(to) {
			return false
		}
		if p.head.CompareAndSwap(at, uint64(to)) {
			return true
		}
	}
}

// A Config configures a [Hub].
type Config struct {
	// Log is the log to follow.
	Log store.Log
	// Poll is the interval at which a waiting reader looks for events that other
	// processes have committed. Zero means that no other process commits. If the log is
	// a [store.Watcher], the log notifies readers of such events, and they poll at most
	// once in [PollWatched].
	Poll time.Duration
	// Register makes the hub register its readers in the log while it has any, as an
	// instance of [LiveReaders], so that other processes do not delete events that
	// these readers have not yet read, see [Hub.Keep]. Use it for a log to which other
	// processes may write. It has no effect on a log that keeps no checkpoints.
	Register bool
	// Logger logs when the log cannot be read, and when it can be read again. Nil
	// discards these records. If the handler panics or ends its goroutine, that record
	// is lost and the reader goes on.
	Logger *slog.Logger
}

// PollWatched is the shortest poll interval on a log that notifies readers of new
// events. Polling is still necessary: a notice can be lost with a connection.
const PollWatched = time.Second

// NewHub returns a hub for the log.
func NewHub(ctx context.Context, c Config) (*Hub, error) {
	heads, err := c.Log.Heads(ctx)
	if err != nil {
		return nil, fmt.Errorf("read heads: %w", err)
	}
	h := &Hub{
		log: c.Log, poll: c.Poll, parts: make([]part, len(heads)), began: time.Now(),
		readers: make(map[*reader]struct{}), failing: make(map[*reader]error), done: make(chan struct{}),
		logger: c.Logger,
	}
	if h.logger == nil {
		h.logger = slog.New(slog.DiscardHandler)
	} else {
		h.logger = guard.Logger(h.logger)
	}
	if c.Register {
		h.live = newLive(h, NewReaders(c.Log))
	}
	h.heard.Store(new(<-chan struct{}))
	if w, ok := c.Log.(store.Watcher); ok && c.Poll > 0 {
		h.watcher, h.poll = w, max(c.Poll, PollWatched)
	}
	h.polled.Store(-int64(h.poll))
	h.broadcast.init()
	return h, nil
}

// Partitions returns the number of partitions of the log.
func (h *Hub) Partitions() int { return len(h.parts) }

// Publish hands durable events, with their positions, to the readers of the hub. The
// hub copies the events that it keeps, except for their payloads, which the caller must
// not change afterwards. Publish does not wait, and its cost does not grow with the
// number of readers.
func (h *Hub) Publish(events []store.Event) {
	if len(events) == 0 || h.active.Load() == 0 {
		return
	}
	own := copied(events)
	for i := range own {
		e := &own[i]
		p := &h.parts[e.Position.Partition()]
		if len(e.Payload) <= BufferPayloadMax {
			h.ring(p).put(e)
		}
		p.raise(e.Position)
	}
	h.broadcast.notify()
}

// ring returns the ring of a partition and allocates it if there is none.
func (h *Hub) ring(p *part) *ring {
	if r := p.ring.Load(); r != nil {
		return r
	}
	p.ring.CompareAndSwap(nil, new(ring))
	if r := p.ring.Load(); r != nil {
		return r
	}
	return new(ring) // the last reader has just left and removed the ring
}

// Passed returns a position of the partition that every reader of this hub has passed.
// If the partition has no reader, it returns the highest possible position.
func (h *Hub) Passed(partition int) store.Position {
	h.mu.Lock()
	defer h.mu.Unlock()
	passed := store.LastPosition(partition)
	for r := range h.readers {
		if r.q.After.Partition() == partition {
			passed = min(passed, store.Position(r.seen.Load()))
		}
	}
	return passed
}

// ReadErr returns the error of a reader that cannot read the log, or nil if all readers
// can. Such a reader tries again, with growing pauses.
func (h *Hub) ReadErr() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, err := range h.failing {
		return err
	}
	return nil
}

// Shutdown calls Close, and then waits until the hub has removed its registration from
// the log, see [Config], or the context ends. A registration that could not be removed
// keeps events from being deleted until other engines have watched it without a change
// for [LiveSilenceMax].
func (h *Hub) Shutdown(ctx context.Context) error {
	h.Close()
	if h.live == nil {
		return nil
	}
	return h.live.wait(ctx)
}

// Close ends all readers with [ErrClosed].
func (h *Hub) Close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.closed {
		h.closed = true
		close(h.done)
	}
}

func (h *Hub) isClosed() bool {
	select {
	case <-h.done:
		return true
	default:
		return false
	}
}

// Follow yields the events above q.After in its partition that q selects, and goes on
// with new ones as they are committed, until the context ends, the caller breaks, or
// q.Through is reached. The last step yields the error, if there is one.
//
// An error matching [ErrLagged] or [ErrDeleted] is a notice and does not end the
// iteration, see [LaggedError] and [DeletedError]. While the log cannot be read, the
// reader tries again with growing pauses, see [Hub.ReadErr], also after up to 16 panics
// of the log in a row. It ends with an error that waiting cannot cure: the log is
// closed, broken, unfinished or damaged, or the query is invalid. If q.After is above
// the head of the log, the position does not belong to this log, and the error matches
// [ErrReplaced].
//
// The events are valid only until the next step; they share their
// payload with other readers and must not be changed.
func (h *Hub) Follow(ctx context.Context, q store.Query) iter.Seq2[*store.Event, error] {
	return func(yield func(*store.Event, error) bool) {
		r := &reader{hub: h, q: Query{Query: q}}
		r.follow(ctx, func(e *store.Event, _ store.Position, err error) bool {
			return e == nil && err == nil || yield(e, err)
		})
	}
}

// readHeads reads the heads of the log, to find commits that were not published to this
// hub.
func (h *Hub) readHeads(ctx context.Context) (err error) {
	defer contain(&err)
	if h.watcher != nil {
		changed := h.watcher.Changed()
		h.heard.Store(&changed)
	}
	heads, err := h.log.Heads(ctx)
	if err != nil {
		return fmt.Errorf("read heads: %w", err)
	}
	raised := false
	for i := range min(len(heads), len(h.parts)) {
		raised = h.parts[i].raise(heads[i]) || raised
	}
	if raised {
		h.broadcast.notify()
	}
	return nil
}

// pollHeads reads the heads, unless another reader has read them within the last half
// interval, so many readers poll the log no more often than a few do. It returns asked
// if it has read them without an error.
func (h *Hub) pollHeads(ctx context.Context) (asked bool, err error) {
	now, last := time.Since(h.began), h.polled.Load()
	if now-time.Duration(last) < h.poll/2 || !h.polled.CompareAndSwap(last, int64(now)) {
		return false, nil
	}
	err = h.readHeads(ctx)
	return err == nil, err
}

// hearHeads reads the heads after the log has notified its readers of a change. Only
// one of the readers that were notified by the same channel does so. It returns asked
// if it has read them without an error.
func (h *Hub) hearHeads(ctx context.Context, heard *<-chan struct{}) (asked bool, err error) {
	if !h.heard.CompareAndSwap(heard, new(<-chan struct{})) {
		return false, nil
	}
	err = h.readHeads(ctx)
	return err == nil, err
}

// AdvanceTo tells the hub that the event at a position is durable, and wakes waiting
// readers. It is for events that are not published: for example, a commit whose outcome
// was unknown may have stored events. AdvanceTo does not wait.
func (h *Hub) AdvanceTo(position store.Position) {
	if position != 0 && h.active.Load() > 0 && h.parts[position.Partition()].raise(position) {
		h.broadcast.notify()
	}
}
