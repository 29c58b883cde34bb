package devcluster

import (
	"bytes"
	"fmt"
	"io"
	"sync/atomic"
	"time"
)

const (
	// consoleLines is how many outputs may wait for a slow terminal.
	consoleLines = 1000

	// maxLineLength is how many bytes of a line are printed.
	maxLineLength = 16 << 10

	// stallTimeout is how long a full queue may block before output is dropped, so that
	// a terminal that is stopped does not block the instances.
	stallTimeout = time.Second
)

// A console prints the output of several processes without mixing their lines. Output
// waits in a queue of bounded length. If the queue stays full, output is dropped.
type console struct {
	queue   chan output
	printed chan struct{} // closed once the queue is closed and empty
	dropped atomic.Int64  // outputs since the console last printed
}

type output struct {
	to   io.Writer
	text string
}

func newConsole() *console {
	c := &console{queue: make(chan output, consoleLines), printed: make(chan struct{})}
	go c.run()
	return c
}

func (c *console) run() {
	defer close(c.printed)
	for o := range c.queue {
		io.WriteString(o.to, o.text) // an error cannot be reported anywhere
		if n := c.dropped.Swap(0); n > 0 {
			fmt.Fprintf(o.to, "(%d lines were dropped here because the terminal was too slow)\n", n)
		}
	}
}

// close waits until everything is printed. print must not be called after close.
func (c *console) close() {
	close(c.queue)
	<-c.printed
}

// print prints whole lines. It is safe for concurrent use.
func (c *console) print(to io.Writer, text string) {
	o := output{to, text}
	select {
	case c.queue <- o:
		return
	default:
	}
	if c.dropped.Load() == 0 {
		timer := time.NewTimer(stallTimeout)
		defer timer.Stop()
		select {
		case c.queue <- o:
			return
		case <-timer.C:
		}
	}
	c.dropped.Add(1)
}

// lines returns a writer for one output of a process. It prints each complete line after
// a prefix. It cuts a line at maxLineLength.
func (c *console) lines(to io.Writer, prefix string) io.Writer {
	return &lineWriter{console: c, to: to, prefix: prefix}
}

type lineWriter struct {
	console *console
	to      io.Writer
	prefix  string
	line    []byte // the incomplete line, without the prefix
}

func (l *lineWriter) Write(p []byte) (int, error) {
	n := len(p)
	for {
		end := bytes.IndexByte(p, '\n')
		if end < 0 {
			l.add(p)
			return n, nil
		}
		l.add(p[:end])
		l.console.print(l.to, l.prefix+string(l.line)+"\n")
		l.line = l.line[:0]
		p = p[end+1:]
	}
}

func (l *lineWriter) add(p []byte) {
	l.line = append(l.line, p[:min(len(p), maxLineLength-len(l.line))]...)
}
