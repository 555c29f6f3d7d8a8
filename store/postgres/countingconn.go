package postgres

import (
	"context"
	"crypto/tls"
	"net"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// TCP keepalive settings, by which the kernels of both sides notice that the other host is
// gone. A kernel probes a connection on which nothing has arrived for keepIdle, and then
// every keepInterval. The connection is lost after keepCount probes without an answer, or
// when sent data has not been acknowledged for unackedMax.
const (
	keepIdle     = 10 * time.Second
	keepInterval = 5 * time.Second
	keepCount    = 3
	unackedMax   = 25 * time.Second
)

// A countingConn is the network connection of a session. It counts the bytes that pass.
type countingConn struct {
	net.Conn
	moved     atomic.Int64 // bytes in both directions
	abandoned atomic.Bool  // given up, or its session must never be cancelled
}

// abandon closes the connection. It also makes package pgx send no cancel request to the
// server: pgx would wait for the answer, and keep the connection's place in the pool.
func (l *countingConn) abandon() {
	l.abandoned.Store(true)
	_ = l.Conn.Close() // the connection is not used again
}

// RemoteAddr returns the address to which package pgx sends a cancel request.
func (l *countingConn) RemoteAddr() net.Addr {
	if l.abandoned.Load() {
		return noAddr{}
	}
	return l.Conn.RemoteAddr()
}

// noAddr is the address of a connection that was given up. Dialing it fails at once.
type noAddr struct{}

func (noAddr) Network() string { return "nowhere" }
func (noAddr) String() string  { return "nowhere" }

func (l *countingConn) Read(b []byte) (int, error) {
	n, err := l.Conn.Read(b)
	l.moved.Add(int64(n))
	return n, err
}

func (l *countingConn) Write(b []byte) (int, error) {
	n, err := l.Conn.Write(b)
	l.moved.Add(int64(n))
	return n, err
}

// countingConnOf returns the countingConn of a connection, also below TLS, or nil if it has none.
func countingConnOf(conn net.Conn) *countingConn {
	if t, ok := conn.(*tls.Conn); ok {
		conn = t.NetConn()
	}
	l, _ := conn.(*countingConn)
	return l
}

// countingDial wraps dial. The kernel then checks that the other host of the connection lives.
func countingDial(dial pgconn.DialFunc) pgconn.DialFunc {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		if network == (noAddr{}).Network() {
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
		return &countingConn{Conn: conn}, nil
	}
}
