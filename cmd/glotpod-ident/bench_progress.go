package main

import (
	"fmt"
	"io"
)

// A benchProgress tells on one line of a terminal what is being done, and
// nothing where there is no terminal. One goroutine uses it at a time.
type benchProgress struct {
	to io.Writer // nil: there is no terminal
}

func newBenchProgress(stderr io.Writer) *benchProgress {
	if isTerminal(stderr) {
		return &benchProgress{to: stderr}
	}
	return new(benchProgress)
}

const eraseLine = "\r\x1b[K"

func (p *benchProgress) show(format string, args ...any) {
	if p.to != nil {
		fmt.Fprintf(p.to, eraseLine+format, args...)
	}
}

func (p *benchProgress) clear() {
	if p.to != nil {
		fmt.Fprint(p.to, eraseLine)
	}
}
