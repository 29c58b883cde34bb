package storetest

import (
	"io"
	"net"
	"sync"

	"github.com/glotpod/ident/store"
)

// A Proxy forwards the connections between a store and its database. It can hold back what
// the database sends, and break the connections.
type Proxy struct {
	listener net.Listener
	running  sync.WaitGroup
	tap      func() func([]byte) // nil: nothing reads the replies

	mu     sync.Mutex // guards the following fields
	to     string     // address of the server of new connections
	conns  map[net.Conn]bool
	silent chan struct{} // closed while nothing is held back
	lose   int           // > 0: replies until a connection breaks instead of forwarding one
}

// OpenThroughProxy opens another store on the same database through a proxy.
func (h *Harness) OpenThroughProxy() (*store.Store, *Proxy) {
	h.T.Helper()
	p := h.startProxy(nil)
	return h.openThrough(p), p
}

// startProxy starts a proxy. If tap is not nil, it returns for each new connection what reads
// the replies.
func (h *Harness) startProxy(tap func() func([]byte)) *Proxy {
	h.T.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		h.T.Fatal(err)
	}
	p := &Proxy{
		listener: listener,
		to:       h.Options.Addresses[0],
		conns:    make(map[net.Conn]bool),
		silent:   make(chan struct{}),
		tap:      tap,
	}
	close(p.silent)
	p.running.Go(p.accept)
	h.T.Cleanup(func() {
		listener.Close()
		p.Cut()
		p.running.Wait()
	})
	return p
}

func (h *Harness) openThrough(p *Proxy) *store.Store {
	h.T.Helper()
	opts := h.Options
	opts.Addresses = []string{p.listener.Addr().String()}
	s, err := store.Open(h.T.Context(), opts)
	if err != nil {
		h.T.Fatal(err)
	}
	h.T.Cleanup(s.Close)
	return s
}

func (p *Proxy) accept() {
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

// answer forwards what the database sends.
func (p *Proxy) answer(client, server net.Conn) {
	buffer := make([]byte, 32<<10)
	read := func([]byte) {}
	if p.tap != nil {
		read = p.tap()
	}
	for {
		n, err := server.Read(buffer)
		read(buffer[:n])
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

// FallSilent holds back what the database sends until Cut is called.
func (p *Proxy) FallSilent() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.silent = make(chan struct{})
}

// SetServer sets the address of the server of new connections.
func (p *Proxy) SetServer(address string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.to = address
}

// LoseReply breaks a connection instead of forwarding the reply after the next ones.
func (p *Proxy) LoseReply(next int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lose = next + 1
}

// Cut breaks all connections. New connections are possible.
func (p *Proxy) Cut() {
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
