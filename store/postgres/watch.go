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
	// announceMax bounds one announcement, and hearMax for how long a connection that
	// listens may be silent before it is asked whether it is still there.
	announceMax = 5 * time.Second
	hearMax     = 20 * time.Second
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

// announce tells readers that the events and messages of a plan are committed. It does
// not wait.
func (l *Log) announce(p *plan) {
	if len(p.events) > 0 || p.sequence > p.first {
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
		conn, err = w.notify(conn)
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

// notify sends one announcement, on the connection or a new one, which it returns.
func (w *watch) notify(conn *pgx.Conn) (_ *pgx.Conn, err error) {
	if conn == nil || conn.IsClosed() {
		if conn, err = w.log.connect(w.ctx); err != nil {
			return nil, err
		}
		if err = w.run(conn, "SELECT set_config('synchronous_commit', 'off', false)"); err != nil {
			return conn, err
		}
	}
	return conn, w.run(conn, "SELECT pg_notify($1, '')", w.channel)
}

// run runs a statement that takes the server no time, or gives the connection up.
func (w *watch) run(conn *pgx.Conn, sql string, args ...any) error {
	ctx, cancel := context.WithTimeout(w.ctx, announceMax)
	defer cancel()
	_, err := conn.Exec(ctx, sql, args...)
	if p := peerOf(conn.PgConn()); err != nil && refusal(err) == nil && p != nil && p.line != nil {
		p.line.giveUp()
	}
	return err
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
	if p := peerOf(conn.PgConn()); p != nil && p.replica { // which has no announcements
		<-w.ctx.Done()
		return w.ctx.Err()
	}
	if err := w.run(conn, "LISTEN "+pgx.Identifier{w.channel}.Sanitize()); err != nil {
		return err
	}
	w.change() // something may have been announced before
	for {
		heard, err := w.await(conn)
		switch {
		case err != nil:
			return err
		case heard:
			w.change()
		}
	}
}

// await waits for an announcement. After a while without one it asks whether the
// connection is still there, since one that is forgotten says nothing.
func (w *watch) await(conn *pgx.Conn) (heard bool, err error) {
	ctx, cancel := context.WithTimeout(w.ctx, w.log.tamper.hearMax)
	defer cancel()
	_, err = conn.WaitForNotification(ctx)
	if err == nil {
		return true, nil
	}
	if ctx.Err() == nil || w.ctx.Err() != nil || conn.IsClosed() {
		return false, err
	}
	return false, w.run(conn, "SELECT 1")
}

func (w *watch) pause(d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-w.ctx.Done():
	}
}
