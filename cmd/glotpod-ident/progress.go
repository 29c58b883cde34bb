package main

import (
	"fmt"
	"io"
)

// A progressLine tells on one line of a terminal what is being done, and
// nothing where there is no terminal. One goroutine uses it at a time.
type progressLine struct {
	to io.Writer // nil: there is no terminal
}

func newProgressLine(stderr io.Writer) *progressLine {
	if isTerminal(stderr) {
		return &progressLine{to: stderr}
	}
	return new(progressLine)
}

const eraseLine = "\r\x1b[K"

func (p *progressLine) show(format string, args ...any) {
	if p.to != nil {
		fmt.Fprintf(p.to, eraseLine+format, args...)
	}
}

func (p *progressLine) clear() {
	if p.to != nil {
		fmt.Fprint(p.to, eraseLine)
	}
}
