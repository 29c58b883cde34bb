package cli

import (
	"fmt"
	"io"
	"time"
)

// A userProgress tells how many users were dealt with.
type userProgress struct {
	progress
	doing string
	began time.Time
}

func newUserProgress(stderr io.Writer, doing string) *userProgress {
	return &userProgress{progress: newProgress(stderr, 200*time.Millisecond, 10*time.Second), doing: doing, began: time.Now()}
}

// at may tell that so many users were dealt with, which is this share of all, 0
// if that is not known.
func (p *userProgress) at(users int64, share float64) {
	if !p.due() {
		return
	}
	line := fmt.Sprintf("%s: %d users, %.0f/s", p.doing, users, float64(users)/time.Since(p.began).Seconds())
	if share > 0 {
		line += fmt.Sprintf(", %.0f %%", 100*min(share, 1))
	}
	p.tell(line)
}
