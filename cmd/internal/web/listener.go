package web

import (
	"container/list"
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"sync"
)

// A limitListener limits the number of open connections. To accept one more, it closes
// the oldest. So a client that opens many connections, or keeps them open, does not
// prevent others from connecting: a probe is answered long before its connection is the
// oldest. Connections that are kept do not count.
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
	c.keep()
	return c.Conn.Close()
}

// keep has the listener not close the connection.
func (c *limitConn) keep() {
	c.listener.mu.Lock()
	defer c.listener.mu.Unlock()
	if c.element != nil {
		c.listener.open.Remove(c.element)
		c.element = nil
	}
}

// connKey is the key of the connection in the context of a request.
type connKey struct{}

// withConn returns the context for the requests of a connection.
func withConn(ctx context.Context, conn net.Conn) context.Context {
	if secure, ok := conn.(*tls.Conn); ok {
		conn = secure.NetConn()
	}
	return context.WithValue(ctx, connKey{}, conn)
}

// keepConn has the listener not close the connection of a request.
func keepConn(r *http.Request) {
	if c, ok := r.Context().Value(connKey{}).(*limitConn); ok {
		c.keep()
	}
}
