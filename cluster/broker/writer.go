package broker

import (
	"net"
	"sync"
	"time"
)

// A batchWriter writes to the socket from a goroutine of its own. While a write is in
// progress, it gathers further bytes for the next write. The library writes each
// message and each acknowledgement by itself, which under load would be a system call
// each.
//
// A Write that returns nil means only that the bytes are queued. If they cannot be
// written, the next Write returns the error; the connection is then lost, and the
// reader finds out too.
type batchWriter struct {
	stream net.Conn
	done   chan struct{} // closed when nothing more is written

	mu       sync.Mutex // guards the following fields
	changed  sync.Cond  // signals a change of one of them
	waiting  []byte
	reusable []byte // the latest written bytes; the memory is used again
	busy     bool   // a write to the socket is in progress
	closed   bool   // no further bytes are accepted
	err      error  // why nothing more can be written
}

const (
	// maxWaiting is how many bytes may wait before Write blocks.
	maxWaiting = 256 << 10

	// maxReused is the most memory, in bytes, that is kept for further bytes.
	maxReused = 64 << 10

	// closeTimeout bounds the writing of the waiting bytes when the connection is
	// closed.
	closeTimeout = 250 * time.Millisecond
)

func newBatchWriter(stream net.Conn) *batchWriter {
	w := &batchWriter{stream: stream, done: make(chan struct{})}
	w.changed.L = &w.mu
	go w.run()
	return w
}

// Write queues p. It blocks only while too many bytes wait.
func (w *batchWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for len(w.waiting) >= maxWaiting && w.err == nil && !w.closed {
		w.changed.Wait()
	}
	switch {
	case w.err != nil:
		return 0, w.err
	case w.closed:
		return 0, net.ErrClosed
	}
	w.waiting = append(w.waiting, p...)
	w.changed.Broadcast()
	return len(p), nil
}

// close accepts no further bytes, waits until the waiting bytes are written, or for
// closeTimeout, and closes the stream.
func (w *batchWriter) close() error {
	w.mu.Lock()
	first := !w.closed
	w.closed = true
	idle := !w.busy && len(w.waiting) == 0
	w.changed.Broadcast()
	w.mu.Unlock()
	if first && !idle {
		select {
		case <-w.done:
		case <-time.After(closeTimeout):
		}
	}
	err := w.stream.Close()
	<-w.done
	return err
}

// run writes the waiting bytes until the stream is lost or closed.
func (w *batchWriter) run() {
	defer close(w.done)
	for {
		p := w.takeWaiting()
		if p == nil {
			return
		}
		if _, err := w.stream.Write(p); err != nil {
			w.fail(err)
			return
		}
	}
}

// takeWaiting returns all waiting bytes. It returns nil at the end.
func (w *batchWriter) takeWaiting() []byte {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.busy = false
	for len(w.waiting) == 0 && !w.closed {
		w.changed.Wait()
	}
	if len(w.waiting) == 0 {
		return nil
	}
	p := w.waiting
	if cap(w.reusable) > maxReused {
		w.reusable = nil
	}
	w.waiting, w.reusable, w.busy = w.reusable[:0], p, true
	w.changed.Broadcast()
	return p
}

func (w *batchWriter) fail(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.err = err
	w.waiting, w.reusable = nil, nil
	w.changed.Broadcast()
}
