package broker

import (
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// A conn is a connection to the broker whose reading side is filtered, and whose
// writing side gathers what is written in quick succession. The library reads
// from one goroutine; everything else may be used from any.
type conn struct {
	net.Conn
	filter   *filter
	frameMax atomic.Int64
	outgoing atomic.Pointer[outgoing] // set once the log-in is done

	end   sync.Once
	ended chan struct{} // is closed when nothing more can be read
	err   error         // why; may be read once ended is closed
}

func newConn(stream net.Conn, maxBody int, onFiltered func(Filtered)) *conn {
	c := &conn{Conn: stream, ended: make(chan struct{})}
	c.frameMax.Store(frameMax)
	c.filter = newFilter(stream, &c.frameMax, maxBody, onFiltered)
	return c
}

// setOpen ends the log-in, in which this frame size was agreed.
func (c *conn) setOpen(frameMax int) {
	c.frameMax.Store(int64(frameMax))
	c.outgoing.Store(newOutgoing(c.Conn))
}

// Read implements [net.Conn].
func (c *conn) Read(p []byte) (int, error) {
	n, err := c.filter.Read(p)
	if err != nil {
		c.end.Do(func() {
			c.err = err
			close(c.ended)
		})
	}
	return n, err
}

// Write implements [net.Conn]. With TLS 1.3 the broker may refuse our certificate
// when we write already. The library would close the connection over that at
// once, so during the log-in a failed write waits for the reader to find out the
// reason.
func (c *conn) Write(p []byte) (int, error) {
	if o := c.outgoing.Load(); o != nil {
		return o.Write(p)
	}
	n, err := c.Conn.Write(p)
	if err != nil {
		select {
		case <-c.ended:
		case <-time.After(time.Second):
		}
	}
	return n, err
}

// Close implements [net.Conn].
func (c *conn) Close() error {
	if o := c.outgoing.Load(); o != nil {
		return o.close()
	}
	return c.Conn.Close()
}
