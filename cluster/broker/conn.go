package broker

import (
	"errors"
	"net"
	"os"
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
	reader   *patientReader

	endOnce   sync.Once
	readEnded chan struct{} // closed when nothing more can be read
	err       error         // the reason; may be read when readEnded is closed
}

func newConn(stream net.Conn, maxBody int, onFiltered func(Filtered)) *conn {
	c := &conn{Conn: stream, readEnded: make(chan struct{})}
	c.frameMax.Store(frameMax)
	c.reader = &patientReader{stream: stream}
	c.filter = newFilter(c.reader, &c.frameMax, maxBody, onFiltered)
	return c
}

// completeLogin ends the log-in, in which the frame size was agreed. From now on the connection
// is lost if the broker is silent for patience; 0 means that it may be silent.
func (c *conn) completeLogin(frameMax int, patience time.Duration) {
	c.frameMax.Store(int64(frameMax))
	c.reader.begin(patience)
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

// SetReadDeadline implements [net.Conn], and does nothing: see patientReader. The library sets the
// deadline after each frame, but does not while it waits to send a heartbeat.
func (c *conn) SetReadDeadline(time.Time) error { return nil }

// SetDeadline implements [net.Conn]. The library sets it to end the connection.
func (c *conn) SetDeadline(t time.Time) error {
	return errors.Join(c.reader.endBy(t), c.Conn.SetWriteDeadline(t))
}

// Close implements [net.Conn].
func (c *conn) Close() error {
	if o := c.writer.Load(); o != nil {
		return o.close()
	}
	return c.Conn.Close()
}

// looks is into how many waits a patientReader divides its patience. Each is at least as long as the
// interval of the heartbeats.
const looks = 3

// A patientReader reads from a stream until the broker has been silent for too long.
//
// A deadline that has passed says nothing if this process has not run, or has not read: what the
// broker has sent may be there. So the patience is divided into several deadlines. After each, the
// stream is read again, and time without running counts as one of them at most.
type patientReader struct {
	stream net.Conn

	mu       sync.Mutex    // guards the following fields, and the stream's read deadline
	patience time.Duration // 0: none is needed
	ending   bool          // the read deadline was set to end the connection
}

// Read implements [io.Reader].
func (r *patientReader) Read(p []byte) (int, error) {
	for silent := 1; ; silent++ {
		r.setDeadline()
		n, err := r.stream.Read(p)
		if n > 0 || silent >= looks || !errors.Is(err, os.ErrDeadlineExceeded) || r.isEnding() {
			return n, err
		}
	}
}

func (r *patientReader) setDeadline() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.patience > 0 && !r.ending {
		r.stream.SetReadDeadline(time.Now().Add(r.patience / looks)) // an error is that of the next read
	}
}

// begin sets the patience, also of a Read that has begun.
func (r *patientReader) begin(patience time.Duration) {
	r.mu.Lock()
	r.patience = patience
	r.mu.Unlock()
	r.setDeadline()
}

// endBy has all reads end at the time t. The zero time takes that back.
func (r *patientReader) endBy(t time.Time) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ending = !t.IsZero()
	return r.stream.SetReadDeadline(t)
}

func (r *patientReader) isEnding() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.ending
}
