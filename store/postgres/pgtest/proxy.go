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

// A Proxy forwards messages of the protocol between clients and a server, and causes one failure at
// the message that the test chooses. It counts the messages of both directions and all connections
// together, so that a test can enumerate every place where a connection can be lost.
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

// A Failure says what a [Proxy] does at the chosen message.
type Failure int

// The failures of a proxy.
const (
	// Cut closes both ends of the connection. The message reaches neither side.
	Cut Failure = iota
	// Hold closes the client's end. The server's end stays open, as if the network had dropped
	// the client. The proxy keeps the bytes that the client has sent from that message on, for
	// [Late.Deliver].
	Hold
	// CutAndRefuse and HoldAndRefuse also refuse new connections from then on, until the proxy
	// is disarmed.
	CutAndRefuse
	HoldAndRefuse
	// Stall is like Hold, but the client's end stays open too. No message passes in either
	// direction until the client closes the connection.
	Stall
)

func (f Failure) holds() bool { return f == Hold || f == HoldAndRefuse || f == Stall }

// Late holds the bytes that a client has sent before its connection was lost, and that have not
// reached the server.
type Late struct {
	server net.Conn
	sent   []byte
	ended  <-chan struct{} // the server has closed its end
}

// A link is a connection from a client and the matching connection to the server.
type link struct {
	client, server net.Conn
	ended          chan struct{} // the server has closed its end
	kept           bool          // the server's end belongs to a Late
	stalled        bool          // the client's end stays open
}

// NewProxy returns a proxy for the server of the database, and closes it when the test ends.
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

// URL returns the address of the database through the proxy. It has a query, so parameters can be
// appended after an ampersand.
func (p *Proxy) URL() string {
	u := url.URL{
		Scheme: "postgres", User: url.User(superuser), Host: p.listener.Addr().String(),
		Path: p.database, RawQuery: "sslmode=disable",
	}
	return u.String()
}

// A Message is a message of the protocol, as it is sent. The first message of a client has no type.
type Message struct {
	FromClient bool
	Bytes      []byte
}

// Contains reports whether the message has the type and contains the text.
func (m Message) Contains(kind byte, text string) bool {
	return m.Bytes[0] == kind && bytes.Contains(m.Bytes, []byte(text))
}

// Arm lets the given number of messages pass, and then causes the failure.
func (p *Proxy) Arm(messages int, how Failure) {
	p.ArmAt(func(Message) bool {
		messages--
		return messages < 0
	}, how)
}

// ArmAt lets messages pass until at returns true, and then causes the failure. The proxy calls at
// for one message at a time.
func (p *Proxy) ArmAt(at func(Message) bool, how Failure) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.at, p.how, p.failed = at, how, false
}

// Rewrite replaces each message by the result of edit from now on. The proxy calls edit for one
// message at a time. If edit is nil, the messages pass unchanged. A test can thus act as a pooler
// that changes a session, or that answers for a server.
func (p *Proxy) Rewrite(edit func(Message) []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.edit = edit
}

// rewritten returns the message that the proxy sends in place of m.
func (p *Proxy) rewritten(m Message) []byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.edit == nil {
		return m.Bytes
	}
	return p.edit(m)
}

// Failed reports whether the proxy has caused a failure since it was armed.
func (p *Proxy) Failed() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.failed
}

// Disarm cancels the failure, accepts new connections again, and reports whether the proxy has
// caused the failure.
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

// Late returns the bytes held since the last call.
func (p *Proxy) Late() []*Late {
	p.mu.Lock()
	defer p.mu.Unlock()
	late := p.late
	p.late = nil
	return late
}

// Deliver sends the held bytes to the server. It returns after the server has processed all of
// them, or has ended the session.
func (l *Late) Deliver(tb testing.TB) {
	tb.Helper()
	_, _ = l.server.Write(l.sent)                  // an error means that the session is gone
	_, _ = l.server.Write([]byte{'X', 0, 0, 0, 4}) // makes the server end the session after them
	select {
	case <-l.ended:
	case <-time.After(waitMax):
		tb.Fatalf("waited %v for the end of a session that has got %d bytes late", waitMax, len(l.sent))
	}
	_ = l.server.Close()
}

// Size returns the number of held bytes.
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

// end closes both ends of a link, except an end that is held.
func (p *Proxy) end(k *link) {
	p.mu.Lock()
	defer p.mu.Unlock()
	k.close()
	delete(p.links, k)
}

// requests forwards the messages of a client to the server.
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

// hold keeps the messages of a client, up to the one after which the client waits for answers.
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

// keep turns the server's end of a link into a Late.
func (p *Proxy) keep(k *link, sent []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.late = append(p.late, &Late{server: k.server, sent: sent, ended: k.ended})
}

// ends reports whether a client waits for answers after a message: the end of a pipeline, or a
// script, but not the rows that a script copies.
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

// answers forwards the messages of the server, or drops them if the client is gone.
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

// next counts a message. It reports whether the message passes and, if not, whether it is held.
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

// read reads a message. The first message of a client has no type.
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
