package broker

import (
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// A conn is a connection to the broker. Its reads go through the filter, and its writes
// are batched. The library reads from one goroutine; all other methods may be called
// from any goroutine.
type conn struct {
	net.Conn
	filter   *filter
	frameMax atomic.Int64
	writer   atomic.Pointer[batchWriter] // set when the log-in is complete
	patience time.Duration               // the least time until a read deadline

	endOnce   sync.Once
	readEnded chan struct{} // closed when nothing more can be read
	err       error         // the reason; may be read when readEnded is closed
}

func newConn(stream net.Conn, maxBody int, onFiltered func(Filtered)) *conn {
	c := &conn{Conn: stream, readEnded: make(chan struct{})}
	c.frameMax.Store(frameMax)
	c.filter = newFilter(stream, &c.frameMax, maxBody, onFiltered)
	return c
}

// completeLogin ends the log-in, in which the frame size was agreed.
func (c *conn) completeLogin(frameMax int) {
	c.frameMax.Store(int64(frameMax))
	c.writer.Store(newBatchWriter(c.Conn))
}

// Read implements [net.Conn].
func (c *conn) Read(p []byte) (int, error) {
	n, err := c.filter.Read(p)
	if err != nil {
		c.endOnce.Do(func() {
			c.err = err
			close(c.readEnded)
		})
	}
	return n, err
}

// Write implements [net.Conn]. With TLS 1.3, the broker may reject our certificate
// while we already write. The library would then close the connection with the error of
// the write. So during the log-in a failed write waits until the reader has received
// the reason.
func (c *conn) Write(p []byte) (int, error) {
	if o := c.writer.Load(); o != nil {
		return o.Write(p)
	}
	n, err := c.Conn.Write(p)
	if err != nil {
		select {
		case <-c.readEnded:
		case <-time.After(time.Second):
		}
	}
	return n, err
}

// SetReadDeadline implements [net.Conn]. The library sets the deadline after each read, to one
// and a half heartbeats.
func (c *conn) SetReadDeadline(t time.Time) error {
	if least := time.Now().Add(c.patience); !t.IsZero() && t.Before(least) {
		t = least
	}
	return c.Conn.SetReadDeadline(t)
}

// Close implements [net.Conn].
func (c *conn) Close() error {
	if o := c.writer.Load(); o != nil {
		return o.close()
	}
	return c.Conn.Close()
}
