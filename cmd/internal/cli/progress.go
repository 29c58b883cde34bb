package cli

import (
	"fmt"
	"io"
	"os"
	"time"
)

// A StatusLine shows on one line of a terminal what the program does now. Without a
// terminal it shows nothing. It is not safe for concurrent use.
type StatusLine struct {
	terminal io.Writer // nil: there is none
}

// NewStatusLine returns a StatusLine for w, which may be a terminal.
func NewStatusLine(w io.Writer) *StatusLine {
	if isTerminal(w) {
		return &StatusLine{terminal: w}
	}
	return new(StatusLine)
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

const eraseLine = "\r\x1b[K"

// Show replaces the line.
func (l *StatusLine) Show(format string, args ...any) {
	if l.terminal != nil {
		fmt.Fprintf(l.terminal, eraseLine+format, args...)
	}
}

// Clear erases the line, so that other lines can be printed.
func (l *StatusLine) Clear() {
	if l.terminal != nil {
		fmt.Fprint(l.terminal, eraseLine)
	}
}

// A Progress reports at intervals how far a command is: on one line of a terminal, or
// line by line where there is no terminal. It is not safe for concurrent use.
type Progress struct {
	line     *StatusLine
	w        io.Writer
	interval time.Duration
	reported time.Time
}

// NewProgress returns a Progress that reports to w at an interval that depends on
// whether w is a terminal.
func NewProgress(w io.Writer, onTerminal, elsewhere time.Duration) *Progress {
	p := &Progress{line: NewStatusLine(w), w: w, interval: elsewhere, reported: time.Now()}
	if p.OnTerminal() {
		p.interval = onTerminal
	}
	return p
}

// OnTerminal says whether the progress is shown on a terminal.
func (p *Progress) OnTerminal() bool { return p.line.terminal != nil }

// Due says whether the interval since the last report has passed.
func (p *Progress) Due() bool { return time.Since(p.reported) >= p.interval }

// Report reports a line.
func (p *Progress) Report(text string) {
	p.reported = time.Now()
	if p.OnTerminal() {
		p.line.Show("%s", text)
	} else {
		fmt.Fprintln(p.w, text)
	}
}

// Clear erases the line on the terminal, so that other lines can be printed.
func (p *Progress) Clear() { p.line.Clear() }
