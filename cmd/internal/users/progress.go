package users

import (
	"fmt"
	"io"
	"time"

	"github.com/glotpod/ident/cmd/internal/cli"
)

// A progress reports how many users have been processed.
type progress struct {
	report   *cli.Progress
	activity string
	started  time.Time
}

func newProgress(stderr io.Writer, activity string) *progress {
	return &progress{report: cli.NewProgress(stderr, 200*time.Millisecond, 10*time.Second), activity: activity, started: time.Now()}
}

// at reports that so many users have been processed, if a report is due. share is their
// share of all users, 0 if it is unknown.
func (p *progress) at(users int64, share float64) {
	if !p.report.Due() {
		return
	}
	line := fmt.Sprintf("%s: %d users, %.0f/s", p.activity, users, float64(users)/time.Since(p.started).Seconds())
	if share > 0 {
		line += fmt.Sprintf(", %.0f %%", 100*min(share, 1))
	}
	p.report.Report(line)
}

// clear erases the line on the terminal.
func (p *progress) clear() { p.report.Clear() }
