package postgres

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

// Bounds of announcements.
const (
	// announceEvery is how long a log waits after one announcement before the
	// next: commits in between are announced together.
	announceEvery = 20 * time.Millisecond
	// listenAgain is how long it waits before it listens again on a new
	// connection, after it has lost one.
	listenAgain = time.Second
)

// A watch tells the readers of all processes, this one included, that events
// have been committed. NOTIFY takes a lock of the whole server until its transaction has
// ended, so it is no part of the transactions that commit: a goroutine sends one
// for all commits of some milliseconds, in a transaction that stores nothing and
// waits for no disk. A notification that is lost is made good by whoever reads
// the heads from time to time.
type watch struct {
	log     *Log
	channel string
	ctx     context.Context //nolint:containedctx // the life of its goroutines
	stop    context.CancelFunc
	news    chan struct{} // something is to be announced
	wg      sync.WaitGroup

	mu         sync.Mutex
	closed     bool
	announcing bool
	listening  bool
	changed    chan struct{} // closed by the next change; nil if nobody waits
}

func (w *watch) open(l *Log) {
	w.log, w.news = l, make(chan struct{}, 1)
	w.channel = fmt.Sprintf("perdure_%016x", uint64(l.lock))
	w.ctx, w.stop = context.WithCancel(context.Background())
}

func (w *watch) close() {
	w.mu.Lock()
	w.closed = true
	w.mu.Unlock()
	w.stop()
	w.wg.Wait()
	w.change() // whoever waits is told by the next read that the log is closed
}

// Changed implements [store.Watcher]. The first call begins to listen, on a
// connection of its own.
func (l *Log) Changed() <-chan struct{} {
	w := &l.watch
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.listening && !w.closed {
		w.listening = true
		w.wg.Go(w.listen)
	}
	if w.changed == nil {
		w.changed = make(chan struct{})
		if w.closed {
			close(w.changed)
		}
	}
	return w.changed
}

// change tells the readers of this process.
func (w *watch) change() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.changed != nil {
		close(w.changed)
		w.changed = nil
	}
}

// announce tells readers that the events of a plan are committed. It does not wait.
func (l *Log) announce(p *plan) {
	if len(p.events) > 0 {
		l.watch.announce()
	}
}

// announce tells readers that there are new events. It does not wait.
func (w *watch) announce() {
	w.mu.Lock()
	if !w.announcing && !w.closed {
		w.announcing = true
		w.wg.Go(w.send)
	}
	w.mu.Unlock()
	select {
	case w.news <- struct{}{}:
	default: // it is to be announced anyway
	}
}

// send announces what there is to announce, until the log is closed.
func (w *watch) send() {
	var conn *pgx.Conn
	defer func() {
		if conn != nil {
			hangUp(conn)
		}
	}()
	for {
		select {
		case <-w.ctx.Done():
			return
		case <-w.news:
		}
		var err error
		if conn == nil || conn.IsClosed() {
			if conn, err = w.log.connect(w.ctx); err == nil {
				_, err = conn.Exec(w.ctx, "SELECT set_config('synchronous_commit', 'off', false)")
			}
		}
		if err == nil {
			_, err = conn.Exec(w.ctx, "SELECT pg_notify($1, '')", w.channel)
		}
		if err != nil && w.ctx.Err() == nil {
			w.log.logger.WarnContext(w.ctx, "commits are not announced", "log", w.log.name, "error", err)
			if conn != nil {
				hangUp(conn)
				conn = nil
			}
		}
		w.pause(announceEvery)
	}
}

// listen tells the readers of this process what others announce, until the log
// is closed.
func (w *watch) listen() {
	for w.ctx.Err() == nil {
		err := w.hear()
		if w.ctx.Err() != nil {
			return
		}
		w.log.logger.WarnContext(w.ctx, "announcements are not heard", "log", w.log.name, "error", err)
		w.pause(listenAgain)
	}
}

// hear listens on one connection until it is lost.
func (w *watch) hear() error {
	conn, err := w.log.connect(w.ctx)
	if err != nil {
		return err
	}
	defer hangUp(conn)
	if _, err := conn.Exec(w.ctx, "LISTEN "+pgx.Identifier{w.channel}.Sanitize()); err != nil {
		return err
	}
	for {
		w.change() // also at first: something may have been announced before
		if _, err := conn.WaitForNotification(w.ctx); err != nil {
			return err
		}
	}
}

func (w *watch) pause(d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-w.ctx.Done():
	}
}
