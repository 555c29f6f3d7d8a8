package pgtest

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"net/url"
	"slices"
	"sync"
	"testing"
	"time"
)

// A Proxy stands between clients and a server, knows where the messages of the
// protocol begin and end, and fails on demand: at the message that the test names, of
// both directions and all connections together. So a test can enumerate every place
// where a connection may be lost.
type Proxy struct {
	listener net.Listener
	socket   string
	database string

	mu     sync.Mutex
	links  map[*link]bool
	at     func(Message) bool // nil if the proxy is not armed
	how    Failure
	failed bool
	refuse bool
	late   []*Late
	edit   func(Message) []byte // nil if messages pass as they are
	wg     sync.WaitGroup
}

// A Failure is what a [Proxy] does at the message that it is armed for.
type Failure int

// The failures of a proxy.
const (
	// Cut closes both ends of the connection; the message gets to nobody.
	Cut Failure = iota
	// Hold closes the client's end. The server's end stays open, as if the network had
	// forgotten the client, and what the client has sent from the message on is kept,
	// for [Late.Deliver].
	Hold
	// CutAndRefuse and HoldAndRefuse refuse new connections from then on too, until the
	// proxy is disarmed.
	CutAndRefuse
	HoldAndRefuse
	// Stall is like Hold, but the client's end stays open too: nothing passes any more,
	// in neither direction, until the client gives up.
	Stall
)

func (f Failure) holds() bool { return f == Hold || f == HoldAndRefuse || f == Stall }

// Late is what a client has sent before its connection was lost, and the server has not
// got yet.
type Late struct {
	server net.Conn
	sent   []byte
	ended  <-chan struct{} // the server has closed its end
}

// A link is a connection of a client, and one to the server.
type link struct {
	client, server net.Conn
	ended          chan struct{} // the server has closed its end
	kept           bool          // the server's end belongs to a Late
	stalled        bool          // the client's end stays open
}

// NewProxy returns a proxy before the server of the database, which is closed when the
// test ends.
func NewProxy(tb testing.TB, d *Database) *Proxy {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatalf("listen: %v", err)
	}
	p := &Proxy{listener: l, socket: d.Server.Socket(), database: d.Name, links: make(map[*link]bool)}
	p.wg.Go(p.accept)
	tb.Cleanup(p.close)
	return p
}

// URL returns what to connect to the database with through the proxy. It has a query,
// so that parameters can be appended after an ampersand.
func (p *Proxy) URL() string {
	u := url.URL{
		Scheme: "postgres", User: url.User(superuser), Host: p.listener.Addr().String(),
		Path: p.database, RawQuery: "sslmode=disable",
	}
	return u.String()
}

// A Message is one of the protocol, as it is sent. The first one of a client has no type.
type Message struct {
	FromClient bool
	Bytes      []byte
}

// Contains reports whether the message is of the type and contains the text.
func (m Message) Contains(kind byte, text string) bool {
	return m.Bytes[0] == kind && bytes.Contains(m.Bytes, []byte(text))
}

// Arm lets so many messages pass before the failure.
func (p *Proxy) Arm(messages int, how Failure) {
	p.ArmAt(func(Message) bool {
		messages--
		return messages < 0
	}, how)
}

// ArmAt lets messages pass before the failure until at, which is called for one at a
// time, reports true.
func (p *Proxy) ArmAt(at func(Message) bool, how Failure) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.at, p.how, p.failed = at, how, false
}

// Rewrite has each message be what edit returns for it, which is called for one at a
// time, from now on; nil ends that. So a test can play a pooler that changes what a
// session is, or that answers for a server.
func (p *Proxy) Rewrite(edit func(Message) []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.edit = edit
}

// rewritten returns what a message is to be.
func (p *Proxy) rewritten(m Message) []byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.edit == nil {
		return m.Bytes
	}
	return p.edit(m)
}

// Failed reports whether the proxy has failed since it was armed.
func (p *Proxy) Failed() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.failed
}

// Disarm ends what the proxy was armed for, accepts new connections again, and reports
// whether it has failed.
func (p *Proxy) Disarm() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.at, p.refuse = nil, false
	return p.failed
}

// Refuse says whether new connections are refused.
func (p *Proxy) Refuse(refuse bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refuse = refuse
}

// HangUp closes all connections.
func (p *Proxy) HangUp() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for k := range p.links {
		k.close()
	}
}

// Late returns what has been held since the last time.
func (p *Proxy) Late() []*Late {
	p.mu.Lock()
	defer p.mu.Unlock()
	late := p.late
	p.late = nil
	return late
}

// Deliver passes on to the server what was held, and returns when the server has done
// all of it, or has ended the session before.
func (l *Late) Deliver(tb testing.TB) {
	tb.Helper()
	_, _ = l.server.Write(l.sent)                  // the session may be gone,
	_, _ = l.server.Write([]byte{'X', 0, 0, 0, 4}) // or else ends behind that
	select {
	case <-l.ended:
	case <-time.After(waitMax):
		tb.Fatalf("waited %v for the end of a session that has got %d bytes late", waitMax, len(l.sent))
	}
	_ = l.server.Close()
}

// Size returns how many bytes are held.
func (l *Late) Size() int { return len(l.sent) }

func (p *Proxy) close() {
	_ = p.listener.Close()
	for _, l := range p.Late() {
		_ = l.server.Close()
	}
	p.HangUp()
	p.wg.Wait()
}

func (p *Proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("unix", p.socket)
		if err != nil {
			_ = client.Close()
			continue
		}
		k := &link{client: client, server: server, ended: make(chan struct{})}
		p.mu.Lock()
		refuse := p.refuse
		if !refuse {
			p.links[k] = true
		}
		p.mu.Unlock()
		if refuse {
			k.close()
			continue
		}
		p.wg.Go(func() { p.requests(k) })
		p.wg.Go(func() { p.answers(k) })
	}
}

func (k *link) close() {
	_ = k.client.Close()
	if !k.kept {
		_ = k.server.Close()
	}
}

// end closes a link, but not an end that is held.
func (p *Proxy) end(k *link) {
	p.mu.Lock()
	defer p.mu.Unlock()
	k.close()
	delete(p.links, k)
}

// requests passes on what a client sends.
func (p *Proxy) requests(k *link) {
	defer p.end(k)
	for first := true; ; first = false {
		m, ok := read(k.client, first)
		if !ok {
			return
		}
		m = p.rewritten(Message{true, m})
		pass, hold := p.next(k, Message{true, m})
		if !pass {
			if hold {
				p.hold(k, m)
			}
			return
		}
		if _, err := k.server.Write(m); err != nil {
			return
		}
	}
}

// hold keeps what a client sends, from a message on, up to where it waits for answers.
func (p *Proxy) hold(k *link, m []byte) {
	sent := slices.Clone(m)
	for script := false; !ends(m, &script); {
		var ok bool
		if m, ok = read(k.client, false); !ok {
			break
		}
		sent = append(sent, m...)
	}
	p.keep(k, sent)
	if p.stalled(k) {
		_, _ = io.Copy(io.Discard, k.client)
	}
}

// keep makes the server's end of a link a late one.
func (p *Proxy) keep(k *link, sent []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.late = append(p.late, &Late{server: k.server, sent: sent, ended: k.ended})
}

// ends reports whether a client waits for answers behind a message: one that ends a
// pipeline, or a script, but for the rows that a script copies.
func ends(m []byte, script *bool) bool {
	switch m[0] {
	case 'Q':
		*script = bytes.Contains(m, []byte("FROM STDIN"))
		return !*script
	case 'S', 'c', 'X':
		return true
	}
	return false
}

// answers passes on what the server sends, or drops it if its client is gone.
func (p *Proxy) answers(k *link) {
	defer close(k.ended)
	defer p.end(k)
	for {
		m, ok := read(k.server, false)
		if !ok {
			return
		}
		m = p.rewritten(Message{false, m})
		pass, hold := p.next(k, Message{false, m})
		if !pass {
			if hold {
				p.keep(k, nil)
			}
			if !p.stalled(k) {
				_ = k.client.Close()
			}
			_, _ = io.Copy(io.Discard, k.server)
			return
		}
		if _, err := k.client.Write(m); err != nil {
			_, _ = io.Copy(io.Discard, k.server) // until the other direction closes it
			return
		}
	}
}

// next counts a message, and reports whether it passes, and if not, whether it is held.
func (p *Proxy) next(k *link, m Message) (pass, hold bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if k.kept {
		return false, false
	}
	if p.at == nil || !p.at(m) {
		return true, false
	}
	p.at, p.failed = nil, true
	p.refuse = p.how == CutAndRefuse || p.how == HoldAndRefuse
	k.kept, k.stalled = p.how.holds(), p.how == Stall
	return false, k.kept
}

func (p *Proxy) stalled(k *link) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return k.stalled
}

// read reads a message. The first one of a client has no type.
func read(from io.Reader, first bool) ([]byte, bool) {
	head := make([]byte, 5)
	if first {
		head = head[:4]
	}
	if _, err := io.ReadFull(from, head); err != nil {
		return nil, false
	}
	n := int(binary.BigEndian.Uint32(head[len(head)-4:])) - 4
	if n < 0 {
		return nil, false
	}
	m := slices.Concat(head, make([]byte, n))
	_, err := io.ReadFull(from, m[len(head):])
	return m, err == nil
}
