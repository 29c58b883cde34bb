package users

import (
	"fmt"
	"io"
	"time"

	"github.com/glotpod/ident/cmd/internal/cli"
)

// A progress tells how many users were dealt with.
type progress struct {
	report *cli.Progress
	doing  string
	began  time.Time
}

func newProgress(stderr io.Writer, doing string) *progress {
	return &progress{report: cli.NewProgress(stderr, 200*time.Millisecond, 10*time.Second), doing: doing, began: time.Now()}
}

// at may tell that so many users were dealt with, which is this share of all, 0
// if that is not known.
func (p *progress) at(users int64, share float64) {
	if !p.report.Due() {
		return
	}
	line := fmt.Sprintf("%s: %d users, %.0f/s", p.doing, users, float64(users)/time.Since(p.began).Seconds())
	if share > 0 {
		line += fmt.Sprintf(", %.0f %%", 100*min(share, 1))
	}
	p.report.Report(line)
}

// clear makes way for other lines.
func (p *progress) clear() { p.report.Clear() }
