package main

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

// A progress tells how many users were dealt with: on a terminal on one line,
// elsewhere by a line now and then. One goroutine uses it at a time.
type progress struct {
	to       io.Writer
	doing    string
	terminal bool
	every    time.Duration
	began    time.Time
	told     time.Time
}

func newProgress(stderr io.Writer, doing string) *progress {
	p := &progress{to: stderr, doing: doing, terminal: isTerminal(stderr), every: 10 * time.Second, began: time.Now()}
	if p.terminal {
		p.every = 200 * time.Millisecond
	}
	p.told = p.began
	return p
}

// tell may tell that so many users were dealt with, which is this share of all, 0
// if that is not known.
func (p *progress) tell(users int64, share float64) {
	now := time.Now()
	if now.Sub(p.told) < p.every {
		return
	}
	p.told = now
	line := fmt.Sprintf("%s: %d users, %.0f/s", p.doing, users, float64(users)/now.Sub(p.began).Seconds())
	if share > 0 {
		line += fmt.Sprintf(", %.0f %%", 100*min(share, 1))
	}
	if p.terminal {
		fmt.Fprint(p.to, eraseLine+line)
	} else {
		fmt.Fprintln(p.to, line)
	}
}

// clear makes way for other lines.
func (p *progress) clear() {
	if p.terminal {
		fmt.Fprint(p.to, eraseLine)
	}
}
