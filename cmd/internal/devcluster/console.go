package devcluster

import (
	"bytes"
	"fmt"
	"io"
	"sync/atomic"
	"time"
)

const (
	// consoleLines is how much may wait for a terminal that is slow.
	consoleLines = 1000

	// maxLineLength is how many bytes of a line are printed.
	maxLineLength = 16 << 10

	// stallTimeout is for how long a terminal may take nothing before output is
	// left out: whoever holds it up is not to hold up the instances.
	stallTimeout = time.Second
)

// A console prints what several processes write, each line whole. What is to
// be printed waits in a queue of bounded length, and is left out when that does
// not move.
type console struct {
	queue   chan output
	printed chan struct{} // closed once the queue is closed and empty
	leftOut atomic.Int64  // since the queue last moved
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
		io.WriteString(o.to, o.text) // where that fails there is nobody to be told
		if n := c.leftOut.Swap(0); n > 0 {
			fmt.Fprintf(o.to, "(%d lines are left out here: they came faster than they were taken)\n", n)
		}
	}
}

// close returns when everything is printed. Nothing may be printed after it.
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
	if c.leftOut.Load() == 0 {
		patience := time.NewTimer(stallTimeout)
		defer patience.Stop()
		select {
		case c.queue <- o:
			return
		case <-patience.C:
		}
	}
	c.leftOut.Add(1)
}

// lines returns a writer for one stream of a process, which prints each of its
// lines behind a prefix. Of a line that is very long, the end is left out; one
// that the process dies before it has finished is not printed.
func (c *console) lines(to io.Writer, prefix string) io.Writer {
	return &lineWriter{console: c, to: to, prefix: prefix}
}

type lineWriter struct {
	console *console
	to      io.Writer
	prefix  string
	line    []byte // the beginning of one, without its prefix
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
