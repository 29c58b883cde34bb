package cli

import (
	"bytes"
	"fmt"
	"io"
	"sync/atomic"
	"time"
)

const (
	// devConsoleLines is how much may wait for a terminal that is slow.
	devConsoleLines = 1000

	// devLongestLine is how many bytes of a line are printed.
	devLongestLine = 16 << 10

	// devStall is for how long a terminal may take nothing before output is
	// left out: whoever holds it up is not to hold up the instances.
	devStall = time.Second
)

// A devConsole prints what several processes write, each line whole. What is to
// be printed waits in a queue of bounded length, and is left out when that does
// not move.
type devConsole struct {
	queue   chan devOutput
	printed chan struct{} // closed once the queue is closed and empty
	leftOut atomic.Int64  // since the queue last moved
}

type devOutput struct {
	to   io.Writer
	text string
}

func newDevConsole() *devConsole {
	c := &devConsole{queue: make(chan devOutput, devConsoleLines), printed: make(chan struct{})}
	go c.run()
	return c
}

func (c *devConsole) run() {
	defer close(c.printed)
	for o := range c.queue {
		io.WriteString(o.to, o.text) // where that fails there is nobody to be told
		if n := c.leftOut.Swap(0); n > 0 {
			fmt.Fprintf(o.to, "(%d lines are left out here: they came faster than they were taken)\n", n)
		}
	}
}

// close returns when everything is printed. Nothing may be printed after it.
func (c *devConsole) close() {
	close(c.queue)
	<-c.printed
}

// print prints whole lines. It is safe for concurrent use.
func (c *devConsole) print(to io.Writer, text string) {
	o := devOutput{to, text}
	select {
	case c.queue <- o:
		return
	default:
	}
	if c.leftOut.Load() == 0 {
		patience := time.NewTimer(devStall)
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
func (c *devConsole) lines(to io.Writer, prefix string) io.Writer {
	return &devLines{console: c, to: to, prefix: prefix}
}

type devLines struct {
	console *devConsole
	to      io.Writer
	prefix  string
	line    []byte // the beginning of one, without its prefix
}

func (l *devLines) Write(p []byte) (int, error) {
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

func (l *devLines) add(p []byte) {
	l.line = append(l.line, p[:min(len(p), devLongestLine-len(l.line))]...)
}
