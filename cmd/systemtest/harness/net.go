package harness

import (
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
)

// FreePort returns a port on which nothing listens.
func FreePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
}

// A Proxy is a network between the service and a server. While it is silent, its
// connections stay open and all bytes are lost. It keeps reading from the server, which
// other tests share.
type Proxy struct {
	listener  net.Listener
	target    string
	silent    atomic.Bool
	OpenConns atomic.Int64 // how many connections there are
	running   sync.WaitGroup

	mu      sync.Mutex // guards the following fields
	conns   []net.Conn
	refuses bool // new connections are closed
}

// NewProxy starts a proxy for a port of this machine.
func NewProxy(t *testing.T, port string) *Proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	k := &Proxy{listener: l, target: net.JoinHostPort("127.0.0.1", port)}
	k.running.Go(k.accept)
	t.Cleanup(func() {
		k.Close()
		k.running.Wait()
	})
	return k
}

// Port returns the port that the proxy listens on.
func (k *Proxy) Port() string { return strconv.Itoa(k.listener.Addr().(*net.TCPAddr).Port) }

// Silence drops all bytes from now on.
func (k *Proxy) Silence() { k.silent.Store(true) }

// Cut closes all connections.
func (k *Proxy) Cut() {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, conn := range k.conns {
		conn.Close()
	}
	k.conns = nil
}

// Close closes all connections and accepts no new ones.
func (k *Proxy) Close() {
	k.listener.Close()
	k.Refuse()
}

// Refuse closes all connections, and each new one at once, until Admit is called.
func (k *Proxy) Refuse() {
	k.mu.Lock()
	k.refuses = true
	k.mu.Unlock()
	k.Cut()
}

// Admit lets new connections through after Refuse.
func (k *Proxy) Admit() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.refuses = false
}

func (k *Proxy) accept() {
	for {
		near, err := k.listener.Accept()
		if err != nil {
			return
		}
		far, err := net.Dial("tcp", k.target)
		if err != nil {
			near.Close()
			continue
		}
		k.join(near, far)
	}
}

func (k *Proxy) join(near, far net.Conn) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.conns = append(k.conns, near, far)
	k.OpenConns.Add(1)
	k.running.Go(func() {
		defer k.OpenConns.Add(-1)
		k.pass(near, far)
	})
	k.running.Go(func() { k.pass(far, near) })
	if k.refuses {
		near.Close()
		far.Close()
	}
}

func (k *Proxy) pass(to, from net.Conn) {
	defer to.Close()
	defer from.Close()
	for buffer := make([]byte, 64<<10); ; {
		n, err := from.Read(buffer)
		if err != nil {
			return
		}
		if k.silent.Load() {
			continue
		}
		if _, err := to.Write(buffer[:n]); err != nil {
			return
		}
	}
}
