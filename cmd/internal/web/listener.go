package web

import (
	"container/list"
	"net"
	"sync"
)

// A limitListener limits the number of open connections. To accept one more, it closes
// the oldest. So a client that opens many connections, or keeps them open, does not
// prevent others from connecting: a probe is answered long before its connection is the
// oldest.
type limitListener struct {
	net.Listener
	limit int // at least 1

	mu   sync.Mutex // guards the following field
	open list.List  // of *limitConn, the oldest first
}

// Accept waits for the next connection.
func (l *limitListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	c := &limitConn{Conn: conn, listener: l}
	l.mu.Lock()
	var oldest *limitConn
	if l.open.Len() >= l.limit {
		oldest = l.open.Remove(l.open.Front()).(*limitConn)
		oldest.element = nil
	}
	c.element = l.open.PushBack(c)
	l.mu.Unlock()
	if oldest != nil {
		oldest.Conn.Close() // the HTTP server gets an error and closes it too
	}
	return c, nil
}

// A limitConn is a connection that a limitListener may close.
type limitConn struct {
	net.Conn
	listener *limitListener
	element  *list.Element // of listener.open, nil if it is not in there; guarded by listener.mu
}

// Close closes the connection. It may be called more than once.
func (c *limitConn) Close() error {
	c.listener.mu.Lock()
	if c.element != nil {
		c.listener.open.Remove(c.element)
		c.element = nil
	}
	c.listener.mu.Unlock()
	return c.Conn.Close()
}
