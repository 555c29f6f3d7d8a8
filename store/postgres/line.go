package postgres

import (
	"context"
	"crypto/tls"
	"net"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// How a host that is gone without a word is noticed, by the kernels of both sides:
// a connection on which nothing arrives is asked for a sign of life after keepIdle,
// then every keepInterval, and is lost after keepCount that are not answered; one
// whose data is not acknowledged is lost after unackedMax.
const (
	keepIdle     = 10 * time.Second
	keepInterval = 5 * time.Second
	keepCount    = 3
	unackedMax   = 25 * time.Second
)

// A line is the network connection of a session, which counts what passes.
type line struct {
	net.Conn
	moved atomic.Int64 // bytes in both directions
	given atomic.Bool  // up, or never to be cancelled
}

// giveUp closes the connection, and has package pgx not ask its server to cancel what
// runs on it: it would wait for the answer, and keep the place in the pool.
func (l *line) giveUp() {
	l.given.Store(true)
	_ = l.Conn.Close() // nothing more is wanted of it
}

// RemoteAddr returns where a request to cancel goes.
func (l *line) RemoteAddr() net.Addr {
	if l.given.Load() {
		return nowhere{}
	}
	return l.Conn.RemoteAddr()
}

// Nowhere is the address of a connection that has been given up. To dial it fails at once.
type nowhere struct{}

func (nowhere) Network() string { return "nowhere" }
func (nowhere) String() string  { return "nowhere" }

func (l *line) Read(b []byte) (int, error) {
	n, err := l.Conn.Read(b)
	l.moved.Add(int64(n))
	return n, err
}

func (l *line) Write(b []byte) (int, error) {
	n, err := l.Conn.Write(b)
	l.moved.Add(int64(n))
	return n, err
}

// lineOf returns the line of a connection, below its encryption, or nil if it has none.
func lineOf(conn net.Conn) *line {
	if t, ok := conn.(*tls.Conn); ok {
		conn = t.NetConn()
	}
	l, _ := conn.(*line)
	return l
}

// watched dials as dial does, and has the kernel watch whether the other side is there.
func watched(dial pgconn.DialFunc) pgconn.DialFunc {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		if network == (nowhere{}).Network() {
			return nil, net.ErrClosed
		}
		conn, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		if t, ok := conn.(*net.TCPConn); ok {
			err := t.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: keepIdle, Interval: keepInterval, Count: keepCount})
			if err == nil {
				err = setUnackedMax(t, unackedMax)
			}
			if err != nil {
				_ = conn.Close() // nothing has been sent on it
				return nil, err
			}
		}
		return &line{Conn: conn}, nil
	}
}
