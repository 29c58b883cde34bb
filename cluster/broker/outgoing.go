package broker

import (
	"net"
	"sync"
	"time"
)

// outgoing writes what it is given from a goroutine of its own: while one write
// to the socket is under way, what comes meanwhile is gathered for the next. The
// library writes each message and each acknowledgement by itself, and under load
// that would be a system call each.
//
// A Write that returns nil says only that the bytes are on their way. Should they
// not arrive, the next Write says so, and the connection is lost, which the
// reader learns too.
type outgoing struct {
	stream net.Conn
	ended  chan struct{} // closed when nothing more is written

	mu      sync.Mutex // guards the following fields
	changed sync.Cond  // one of them has changed
	waiting []byte
	spare   []byte // what was written last, for its memory
	busy    bool   // a write to the socket is under way
	closed  bool   // nothing more is taken
	err     error  // why nothing more can be written
}

const (
	// maxOutgoing is how many bytes wait before Write does.
	maxOutgoing = 256 << 10

	// maxSpare is the most memory that is kept for the next bytes.
	maxSpare = 64 << 10

	// farewell is how long what waits may take when the connection is closed.
	farewell = 250 * time.Millisecond
)

func newOutgoing(stream net.Conn) *outgoing {
	o := &outgoing{stream: stream, ended: make(chan struct{})}
	o.changed.L = &o.mu
	go o.run()
	return o
}

// Write takes p, and waits only while too much is under way.
func (o *outgoing) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for len(o.waiting) >= maxOutgoing && o.err == nil && !o.closed {
		o.changed.Wait()
	}
	switch {
	case o.err != nil:
		return 0, o.err
	case o.closed:
		return 0, net.ErrClosed
	}
	o.waiting = append(o.waiting, p...)
	o.changed.Broadcast()
	return len(p), nil
}

// close takes nothing more, lets what waits be written for a moment, and closes
// the stream.
func (o *outgoing) close() error {
	o.mu.Lock()
	first := !o.closed
	o.closed = true
	idle := !o.busy && len(o.waiting) == 0
	o.changed.Broadcast()
	o.mu.Unlock()
	if first && !idle {
		select {
		case <-o.ended:
		case <-time.After(farewell):
		}
	}
	err := o.stream.Close()
	<-o.ended
	return err
}

// run writes what waits until the stream is lost, or closed.
func (o *outgoing) run() {
	defer close(o.ended)
	for {
		p := o.next()
		if p == nil {
			return
		}
		if _, err := o.stream.Write(p); err != nil {
			o.fail(err)
			return
		}
	}
}

// next returns what waits, all at once, and nil at the end.
func (o *outgoing) next() []byte {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.busy = false
	for len(o.waiting) == 0 && !o.closed {
		o.changed.Wait()
	}
	if len(o.waiting) == 0 {
		return nil
	}
	p := o.waiting
	if cap(o.spare) > maxSpare {
		o.spare = nil
	}
	o.waiting, o.spare, o.busy = o.spare[:0], p, true
	o.changed.Broadcast()
	return p
}

func (o *outgoing) fail(err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.err = err
	o.waiting, o.spare = nil, nil
	o.changed.Broadcast()
}
