package devcluster

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
)

// A terminal records the output.
type terminal struct {
	unblocked chan struct{} // Write blocks until it is closed; nil: Write does not block
	text      strings.Builder
}

func (o *terminal) Write(p []byte) (int, error) {
	if o.unblocked != nil {
		<-o.unblocked
	}
	return o.text.Write(p)
}

func TestConsoleDoesNotMixLines(t *testing.T) {
	const processes, lines = 8, 100
	out := new(terminal)
	c := newConsole()
	var writing sync.WaitGroup
	for p := range processes {
		w := c.lines(out, fmt.Sprintf("%d | ", p))
		writing.Go(func() {
			for n := range lines {
				line := fmt.Sprintf("line %d of %d\n", n, p)
				io.WriteString(w, line[:n%len(line)])
				io.WriteString(w, line[n%len(line):])
			}
			io.WriteString(w, "\nunfinished")
		})
	}
	writing.Wait()
	c.close()

	next := make([]int, processes)
	for line := range strings.Lines(out.text.String()) {
		var p, n, of int
		if p = int(line[0] - '0'); line == fmt.Sprintf("%d | \n", p) && next[p] == lines {
			next[p]++
			continue
		}
		if _, err := fmt.Sscanf(line, "%d | line %d of %d\n", &p, &n, &of); err != nil || p != of || n != next[p] {
			t.Fatalf("got the line %q, want line %d", line, next[p])
		}
		next[p]++
	}
	for p, n := range next {
		if n != lines+1 {
			t.Errorf("%d of the %d lines of %d are there", n, lines+1, p)
		}
	}
}

func TestConsoleCutsLongLines(t *testing.T) {
	out := new(terminal)
	c := newConsole()
	w := c.lines(out, "> ")
	for range 1000 {
		io.WriteString(w, strings.Repeat("x", 1000))
	}
	io.WriteString(w, "\nnext\n")
	c.close()
	if want := "> " + strings.Repeat("x", maxLineLength) + "\n> next\n"; out.text.String() != want {
		t.Errorf("got %d bytes that end in %.20q", out.text.Len(), out.text.String()[out.text.Len()-20:])
	}
}

func TestConsoleDropsLinesWhileItIsBlocked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := &terminal{unblocked: make(chan struct{})}
		c := newConsole()
		w := c.lines(out, "")
		const written = 3 * consoleLines
		io.WriteString(w, "first\n")
		synctest.Wait() // until the console prints it
		for n := range written {
			fmt.Fprintln(w, n) // when the queue is full, one write waits for stallTimeout
		}
		close(out.unblocked)
		synctest.Wait()
		io.WriteString(w, "last\n")
		c.close()

		lines := strings.Split(out.text.String(), "\n")
		note := fmt.Sprintf("(%d lines were dropped", written-consoleLines)
		if !strings.HasPrefix(lines[1], note) {
			t.Errorf("the second line is %q, want %q", lines[1], note)
		}
		if got := len(lines); got != 1+1+consoleLines+1+1 || lines[got-2] != "last" {
			t.Errorf("there are %d lines, and the last is %q", got, lines[got-2])
		}
	})
}
