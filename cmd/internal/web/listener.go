package web

import (
	"container/list"
	"net"
	"sync"
)

// A newestListener has at most so many connections open. For one more it closes
// the oldest, so that whoever opens many, or keeps them, shuts nobody out who
// comes later: a probe is answered long before it is the oldest.
type newestListener struct {
	net.Listener
	most int // at least 1

	mu   sync.Mutex
	open list.List // of *newestConn, the oldest first
}

// Accept waits for the next connection.
func (l *newestListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	c := &newestConn{Conn: conn, listener: l}
	l.mu.Lock()
	var oldest *newestConn
	if l.open.Len() >= l.most {
		oldest = l.open.Remove(l.open.Front()).(*newestConn)
		oldest.place = nil
	}
	c.place = l.open.PushBack(c)
	l.mu.Unlock()
	if oldest != nil {
		oldest.Conn.Close() // who uses it sees that, and closes it too
	}
	return c, nil
}

// A newestConn is a connection that a newestListener may close.
type newestConn struct {
	net.Conn
	listener *newestListener
	place    *list.Element // among those that are open, nil once it is not; guarded by the listener's mu
}

// Close closes the connection. It may be called more than once.
func (c *newestConn) Close() error {
	c.listener.mu.Lock()
	if c.place != nil {
		c.listener.open.Remove(c.place)
		c.place = nil
	}
	c.listener.mu.Unlock()
	return c.Conn.Close()
}
