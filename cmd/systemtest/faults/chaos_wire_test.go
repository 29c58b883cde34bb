package faults

import (
	"net"
	"sync"
	"testing"
	"time"
)

// A wire leads from one instance to one server. Unlike a [harness.Proxy], it heals, and
// while it is silent it loses nothing: what was sent arrives late, as it does
// over a network that recovers, maybe when the sender has long given up.
type wire struct {
	listener net.Listener
	delay    time.Duration // of what is sent, in each direction
	running  sync.WaitGroup

	mu       sync.Mutex // guards the following fields
	conns    map[*wired]bool
	held     [2]chan struct{} // for each direction: nil, or closed when it is silent no more
	refusing bool             // connections are broken, and there are no new ones
	target   string           // the address of the server
}

// The directions.
const (
	toServer = iota
	toInstance
)

// A wired connection is one that leads over a wire.
type wired struct {
	near, far net.Conn // far is nil until the server is reached
	broken    chan struct{}
}

// newWire makes a wire to a server.
func newWire(t *testing.T, target string, delay time.Duration) *wire {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	k := &wire{listener: l, target: target, delay: delay, conns: make(map[*wired]bool)}
	k.running.Go(k.accept)
	t.Cleanup(func() {
		k.listener.Close()
		k.refuse()
		k.running.Wait()
	})
	return k
}

func (k *wire) address() string { return k.listener.Addr().String() }

// lead makes new connections lead to another server.
func (k *wire) lead(target string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.target = target
}

// refuse breaks all connections, and each new one at once.
func (k *wire) refuse() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.refusing = true
	for c := range k.conns {
		k.breakLocked(c)
	}
}

// silence holds back what is sent in some directions.
func (k *wire) silence(directions ...int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, d := range directions {
		if k.held[d] == nil {
			k.held[d] = make(chan struct{})
		}
	}
}

// heal ends what refuse or silence has begun.
func (k *wire) heal() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.refusing = false
	for d, held := range k.held {
		if held != nil {
			close(held)
			k.held[d] = nil
		}
	}
}

func (k *wire) accept() {
	for {
		near, err := k.listener.Accept()
		if err != nil {
			return
		}
		k.running.Go(func() { k.connect(near) })
	}
}

func (k *wire) connect(near net.Conn) {
	c := &wired{near: near, broken: make(chan struct{})}
	k.mu.Lock()
	k.conns[c] = true
	if k.refusing {
		k.breakLocked(c)
	}
	target := k.target
	k.mu.Unlock()
	defer k.disconnect(c)
	if !k.passes(toServer, c) || !k.passes(toInstance, c) {
		return
	}
	far, err := net.Dial("tcp", target)
	if err != nil {
		return
	}
	defer far.Close()
	k.mu.Lock()
	c.far = far
	whole := k.conns[c]
	k.mu.Unlock()
	if !whole {
		return
	}
	var back sync.WaitGroup
	back.Go(func() {
		defer k.disconnect(c)
		k.pass(toInstance, c, near, far)
	})
	k.pass(toServer, c, far, near)
	k.disconnect(c)
	back.Wait()
}

func (k *wire) disconnect(c *wired) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.breakLocked(c)
}

func (k *wire) breakLocked(c *wired) {
	if !k.conns[c] {
		return
	}
	delete(k.conns, c)
	close(c.broken)
	c.near.Close()
	if c.far != nil {
		c.far.Close()
	}
}

// passes waits while a direction is silent. It reports false when the connection
// is broken.
func (k *wire) passes(direction int, c *wired) bool {
	for {
		k.mu.Lock()
		held, whole := k.held[direction], k.conns[c]
		k.mu.Unlock()
		if !whole {
			return false
		}
		if held == nil {
			return true
		}
		select {
		case <-c.broken:
		case <-held:
		}
	}
}

// pass copies one direction of a connection until it ends.
func (k *wire) pass(direction int, c *wired, to, from net.Conn) {
	for buffer := make([]byte, 64<<10); ; {
		n, err := from.Read(buffer)
		select {
		case <-time.After(k.delay):
		case <-c.broken:
		}
		if !k.passes(direction, c) {
			return
		}
		if _, failed := to.Write(buffer[:n]); failed != nil || err != nil {
			return
		}
	}
}
