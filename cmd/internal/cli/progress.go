package cli

import (
	"fmt"
	"io"
	"os"
	"time"
)

// isTerminal says whether what is written to w is seen at once.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

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

// clear makes way for other lines.
func (p *progressLine) clear() {
	if p.to != nil {
		fmt.Fprint(p.to, eraseLine)
	}
}

// A progress tells now and then how far something is: on a terminal on one line,
// elsewhere line by line. One goroutine uses it at a time.
type progress struct {
	*progressLine
	stderr io.Writer
	every  time.Duration
	told   time.Time
}

// newProgress returns a progress that tells every so often on a terminal, and every
// so often elsewhere.
func newProgress(stderr io.Writer, onTerminal, elsewhere time.Duration) progress {
	p := progress{progressLine: newProgressLine(stderr), stderr: stderr, every: elsewhere, told: time.Now()}
	if p.onTerminal() {
		p.every = onTerminal
	}
	return p
}

func (p *progress) onTerminal() bool { return p.to != nil }

// due says whether it is time to tell.
func (p *progress) due() bool { return time.Since(p.told) >= p.every }

func (p *progress) tell(text string) {
	p.told = time.Now()
	if p.onTerminal() {
		p.show("%s", text)
	} else {
		fmt.Fprintln(p.stderr, text)
	}
}
