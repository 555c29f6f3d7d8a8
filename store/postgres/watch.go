package postgres

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

// Limits of announcements.
const (
	// announceEvery is the pause after an announcement. Commits in this time are announced
	// together.
	announceEvery = 20 * time.Millisecond
	// listenAgain is the pause before the log listens again on a new connection, after it has
	// lost one.
	listenAgain = time.Second
	// announceMax bounds one announcement. hearMax bounds the silence of a listening connection;
	// after it the log checks whether the connection still works.
	announceMax = 5 * time.Second
	hearMax     = 20 * time.Second
)

// A watch tells the readers of all processes, including this one, that events were committed.
// NOTIFY takes a lock of the whole server until its transaction has ended, so commits do not
// contain it. A separate goroutine sends one notification for all commits of some milliseconds,
// in a transaction that stores nothing and waits for no disk. A notification can be lost, so
// readers must also read the heads from time to time.
type watch struct {
	log     *Log
	channel string
	ctx     context.Context //nolint:containedctx // lifetime of the watch's goroutines
	stop    context.CancelFunc
	news    chan struct{} // holds a value if there is something to announce
	wg      sync.WaitGroup

	mu         sync.Mutex
	closed     bool
	announcing bool
	listening  bool
	changed    chan struct{} // closed at the next change; nil if no reader waits
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
	w.change() // readers wake up, and their next read returns that the log is closed
}

// Changed implements [store.Watcher]. The first call starts to listen, on a connection of its
// own.
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

// change wakes the readers of this process.
func (w *watch) change() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.changed != nil {
		close(w.changed)
		w.changed = nil
	}
}

// announce tells readers that the events and messages of a write set are committed. It does not
// wait.
func (l *Log) announce(p *writeSet) {
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
	default: // an announcement is already due
	}
}

// send sends the announcements until the log is closed.
func (w *watch) send() {
	var conn *pgx.Conn
	defer func() {
		if conn != nil {
			closeNow(conn)
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
				closeNow(conn)
				conn = nil
			}
		}
		w.pause(announceEvery)
	}
}

// notify sends one announcement on conn, or on a new connection, and returns the connection.
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

// run runs a statement that takes the server almost no time. On a timeout it closes the connection.
func (w *watch) run(conn *pgx.Conn, sql string, args ...any) error {
	ctx, cancel := context.WithTimeout(w.ctx, announceMax)
	defer cancel()
	_, err := conn.Exec(ctx, sql, args...)
	if p := peerOf(conn.PgConn()); err != nil && serverError(err) == nil && p != nil && p.conn != nil {
		p.conn.abandon()
	}
	return err
}

// listen wakes the readers of this process at each announcement of another process, until the log
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
	defer closeNow(conn)
	if p := peerOf(conn.PgConn()); p != nil && p.replica { // a replica sends no announcements
		<-w.ctx.Done()
		return w.ctx.Err()
	}
	if err := w.run(conn, "LISTEN "+pgx.Identifier{w.channel}.Sanitize()); err != nil {
		return err
	}
	w.change() // another process may have announced commits before
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

// await waits for an announcement. After hearMax without one it checks whether the connection
// still works, since a dropped connection stays silent.
func (w *watch) await(conn *pgx.Conn) (heard bool, err error) {
	ctx, cancel := context.WithTimeout(w.ctx, w.log.testHooks.hearMax)
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
