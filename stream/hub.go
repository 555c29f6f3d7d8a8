// Package stream follows a log: what is stored first, then what is committed,
// without a gap, a duplicate or an inversion.
//
// A [Hub] has many readers. [Hub.Follow] yields events, [Hub.Commits] yields
// whole commits and tells how far a reader with a filter has got. A
// [Subscription] is a reader with a name and a memory: it hands out commits,
// takes acknowledgements in any order, and keeps in [Checkpoints] up to where
// everything is acknowledged, so that what was not comes again after a crash.
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

// Errors that a reader meets.
var (
	// ErrClosed ends the readers of a closed hub.
	ErrClosed = errors.New("stream is closed")
	// ErrLagged is a notice. The error is a [*LaggedError].
	ErrLagged = errors.New("reader lags behind")
)

// A LaggedError is a notice to a reader of [Hub.Follow] that was up to date and
// has fallen so far behind that it now reads from the log again. Nothing is
// lost: the reader may go on, or stop and come back later; see [DeletedError] for
// what may be. It matches [ErrLagged].
type LaggedError struct {
	// Position is that of the last event the reader has got.
	Position store.Position
	// Head is that of the last committed event.
	Head store.Position
}

func (e *LaggedError) Error() string {
	return fmt.Sprintf("reader at position %v lags behind the head %v", e.Position, e.Head)
}

func (e *LaggedError) Unwrap() error { return ErrLagged }

// A Hub lets many readers follow the partitions of one log.
//
// Whoever commits tells it what is now durable ([Hub.Publish]). It keeps the
// latest events of each partition in a ring, by position. Positions have no
// gaps, so a reader at position p needs nothing but the event p+1: if the ring
// has it, the reader takes it from there; if it is committed but not in the
// ring, the reader scans the log; else it waits. Therefore nothing depends on
// the order in which commits are published, or on all of them being published.
//
//  1. While there are readers, head is at or above every published position.
//     It is taken from the log when the first reader comes: then a publisher
//     either sees that there is a reader, or has committed before the head was
//     read.
//  2. slot p mod len(ring) holds the event of position p or another position,
//     never another event under the position p. What a slot points to never
//     changes.
//  3. A publisher never waits for a reader, nor does a reader for another: the
//     ring and the head are atomic, and mu, which is about who reads, is not
//     taken by a publisher, but for the first one of a partition.
//  4. A publisher raises the head before it rings, and a reader looks at the
//     head once more after it has got the bell that it is going to wait for: so
//     no reader sleeps through a publication.
type Hub struct {
	log  store.Log
	poll time.Duration

	active atomic.Int32 // number of readers
	parts  []part
	bell   bell
	began  time.Time
	polled atomic.Int64 // when the heads were polled last, since began

	watcher store.Watcher                   // nil if there is none, or nobody else commits
	heard   atomic.Pointer[<-chan struct{}] // from before the heads were read last

	logger *slog.Logger
	live   *live   // nil if readers are not registered
	others silence // of other engines

	mu      sync.Mutex
	readers map[*reader]struct{}
	failing map[*reader]error // why readers wait before they read again
	closed  bool
	done    chan struct{}
}

type part struct {
	head atomic.Uint64
	ring atomic.Pointer[ring]
}

// raise moves the head up to a position and reports whether it was below.
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

// A Config says how a hub follows its log.
type Config struct {
	// Log is what is followed.
	Log store.Log
	// Poll is how often a waiting reader looks for events that others have
	// committed without publishing them here; zero means that there are none.
	// If the log is a [store.Watcher], a reader is told of them, and only looks
	// every [PollWatched] or less often.
	Poll time.Duration
	// Register has the hub register its readers in the log while there are any, as
	// an instance of [LiveReaders], so that other processes do not delete what they
	// have yet to read, see [Hub.Keep]. It is for a log that others may write to,
	// and does nothing on one without [store.Bookmarks].
	Register bool
	// Logger is told when the log cannot be read, and when it can be again. Nil
	// discards that. A record at which its handler panics or ends its goroutine is
	// lost, and the reader goes on.
	Logger *slog.Logger
}

// PollWatched is how often a reader looks for events at most if the log tells of
// them: a notice can be lost with a connection.
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
		if readers, err := NewReaders(c.Log); err == nil {
			h.live = newLive(h, readers)
		}
	}
	h.heard.Store(new(<-chan struct{}))
	if w, ok := c.Log.(store.Watcher); ok && c.Poll > 0 {
		h.watcher, h.poll = w, max(c.Poll, PollWatched)
	}
	h.polled.Store(-int64(h.poll))
	h.bell.init()
	return h, nil
}

// Partitions returns how many partitions the log has.
func (h *Hub) Partitions() int { return len(h.parts) }

// Publish tells the hub that the events are durable. They must have their
// positions. The hub copies what it keeps but for payloads, which must not be
// changed afterwards. It does not wait, and what it costs does not grow with the
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
	h.bell.ring()
}

// ring returns the ring of a partition and makes it if there is none.
func (h *Hub) ring(p *part) *ring {
	if r := p.ring.Load(); r != nil {
		return r
	}
	p.ring.CompareAndSwap(nil, new(ring))
	if r := p.ring.Load(); r != nil {
		return r
	}
	return new(ring) // the last reader has just gone
}

// Passed returns a position of the partition that every reader has passed, and
// the highest one there can be if nobody reads the partition.
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

// ReadErr returns why a reader waits because it cannot read the log, or nil if all
// can. It tries again, with growing pauses.
func (h *Hub) ReadErr() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, err := range h.failing {
		return err
	}
	return nil
}

// Shutdown is Close, and then waits until the hub has removed its registration
// from the log, see [Config], or the context ends. Where it could not be removed,
// it holds the log until other engines have watched it for [LiveSilenceMax].
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

// Follow yields the events above q.After in its partition that q selects, and
// goes on with new ones as they are committed, until the context ends, the
// caller breaks, or q.Through is reached. It then yields the error, if there is
// one, as its last.
//
// An error matching [ErrLagged] or [ErrDeleted] is a notice and does not end the
// iteration, see [LaggedError] and [DeletedError]. While the log cannot be read, the
// reader tries again with growing pauses, see [Hub.ReadErr], and so after up to 16
// panics of the log in a row; it ends where that cannot help: the log is closed, broken, unfinished or damaged, or the query makes
// no sense. If q.After is above the head of the log, the position is not of this
// log, and the error matches [ErrReplaced].
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

// readHeads learns of commits that nobody has published here.
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
		h.bell.ring()
	}
	return nil
}

// pollHeads reads the heads, unless another reader has done so just now: many
// readers ask the log as often as one does. It reports whether the log has
// answered it.
func (h *Hub) pollHeads(ctx context.Context) (asked bool, err error) {
	now, last := time.Since(h.began), h.polled.Load()
	if now-time.Duration(last) < h.poll/2 || !h.polled.CompareAndSwap(last, int64(now)) {
		return false, nil
	}
	err = h.readHeads(ctx)
	return err == nil, err
}

// hearHeads reads the heads after the log has told of a change. Of the readers
// that have been told by the same channel one does. It reports whether the log has
// answered it.
func (h *Hub) hearHeads(ctx context.Context, heard *<-chan struct{}) (asked bool, err error) {
	if !h.heard.CompareAndSwap(heard, new(<-chan struct{})) {
		return false, nil
	}
	err = h.readHeads(ctx)
	return err == nil, err
}
