package store_test

import (
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/glotpod/ident/store"
)

// A proxy is between a store and its database, and can fall silent.
type proxy struct {
	listener net.Listener
	running  sync.WaitGroup

	mu     sync.Mutex // guards the following fields
	to     string     // address of the server of new connections
	conns  map[net.Conn]bool
	silent chan struct{} // closed while answers pass
	lose   int           // > 0: answers until a connection breaks instead of passing one
}

// throughProxy opens another store on the same database through a proxy.
func (h *harness) throughProxy() (*store.Store, *proxy) {
	h.t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		h.t.Fatal(err)
	}
	p := &proxy{
		listener: listener,
		to:       net.JoinHostPort(h.opts.Host, strconv.Itoa(h.opts.Port)),
		conns:    make(map[net.Conn]bool),
		silent:   make(chan struct{}),
	}
	close(p.silent)
	p.running.Go(p.accept)
	h.t.Cleanup(func() {
		listener.Close()
		p.cut()
		p.running.Wait()
	})
	opts := h.opts
	opts.Host, opts.Port = "127.0.0.1", listener.Addr().(*net.TCPAddr).Port
	s, err := store.Open(h.t.Context(), opts)
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(s.Close)
	return s, p
}

func (p *proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.mu.Lock()
		to := p.to
		p.mu.Unlock()
		server, err := net.Dial("tcp", to)
		if err != nil {
			client.Close()
			continue
		}
		p.mu.Lock()
		p.conns[client], p.conns[server] = true, true
		p.mu.Unlock()
		p.running.Go(func() {
			io.Copy(server, client)
			server.Close()
		})
		p.running.Go(func() {
			p.answer(client, server)
			client.Close()
		})
	}
}

func (p *proxy) answer(client, server net.Conn) {
	buffer := make([]byte, 32<<10)
	for {
		n, err := server.Read(buffer)
		p.mu.Lock()
		silent := p.silent
		p.lose--
		lose := p.lose == 0
		p.mu.Unlock()
		<-silent
		if lose {
			return
		}
		if _, failed := client.Write(buffer[:n]); err != nil || failed != nil {
			return
		}
	}
}

// fallSilent holds back the answers of the database until cut is called.
func (p *proxy) fallSilent() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.silent = make(chan struct{})
}

// leadTo sets the server of new connections.
func (p *proxy) leadTo(address string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.to = address
}

// loseReply breaks a connection instead of passing the answer after the next ones.
func (p *proxy) loseReply(next int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lose = next + 1
}

// cut breaks all connections. New connections are possible.
func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for conn := range p.conns {
		conn.Close()
	}
	clear(p.conns)
	select {
	case <-p.silent:
	default:
		close(p.silent)
	}
}

// TestUnknownOutcome: the outcome of an attempt is found out after its connection was lost.
func TestUnknownOutcome(t *testing.T) {
	t.Run("the database refuses the write", testUnknownOutcomeRefused)
	t.Run("the lease has ended", testUnknownOutcomeFenced)
	t.Run("each connection breaks", testUnknownOutcomeSwept)
}

// testUnknownOutcomeSwept: a write is done once, whichever reply of the database is lost.
func testUnknownOutcomeSwept(t *testing.T) {
	h := start(t)
	id := h.create(1)
	s, p := h.throughProxy()
	writes := int64(1)
	for reply := range 4 {
		for range 3 {
			p.loseReply(reply)
			if err := rename(h, s, h.lease, id, fmt.Sprint(writes)); err != nil {
				t.Errorf("reply %d is lost: %v", reply, err)
			}
			writes++
		}
	}
	if n := h.one("SELECT count(*) FROM ident_audit"); n != writes {
		t.Errorf("%v changes are on record, want %d", n, writes)
	}
}

// testUnknownOutcomeRefused: a write fails, but not before the lost attempt is certain to
// have ended.
func testUnknownOutcomeRefused(t *testing.T) {
	h := start(t)
	id := h.create(1)
	patience := 2 * time.Second
	if long {
		patience = 20 * time.Second
	}
	store.SetPatience(&h.opts, patience)
	s, p := h.throughProxy()
	letGo := h.holdUpdates()
	h.exec("CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'refused'; END $$")
	h.exec("CREATE TRIGGER refuse AFTER UPDATE ON users FOR EACH ROW EXECUTE FUNCTION refuse()")
	failed := make(chan error, 1)
	go func() { failed <- rename(h, s, h.lease, id, "second") }()
	h.await(waitsForLock)
	lost := time.Now()
	p.cut()
	letGo()
	select {
	case err := <-failed:
		if waited := time.Since(lost); err == nil || waited < patience {
			t.Errorf("%v after %v", err, waited)
		}
	case <-time.After(time.Minute):
		t.Error("attempted forever")
	}
}

// testUnknownOutcomeFenced: a write that was committed under its lease has its outcome, even
// after the lease has ended.
func testUnknownOutcomeFenced(t *testing.T) {
	h := start(t)
	id := h.create(1)
	s, p := h.throughProxy()
	if err := rename(h, s, h.lease, id, "first"); err != nil {
		t.Fatal(err)
	}
	// This delays the write before its commit, until its answer cannot come back.
	letGo := h.holdUpdates()
	var writing sync.WaitGroup
	writing.Go(func() {
		if err := rename(h, s, h.lease, id, "second"); err != nil {
			t.Error(err)
		}
	})
	h.await(waitsForLock)
	p.fallSilent()
	letGo()
	h.await("SELECT name = 'second' FROM users WHERE id = $1", id)
	h.claim(0, h.lease.Epoch)
	p.cut()
	writing.Wait()
	if n := h.one("SELECT count(DISTINCT identity) FROM ident_requests"); n != int64(3) {
		t.Errorf("%v requests, want 3", n)
	}
	if n := h.one("SELECT count(*) FROM ident_audit"); n != int64(3) {
		t.Errorf("%v changes are on record, want 3", n)
	}
}
