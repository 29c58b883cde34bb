package commit

import (
	"time"

	"github.com/glotpod/ident/cluster/wait"
	"github.com/glotpod/ident/store/internal/commitstate"
)

// The pauses of a pending write that other transactions block. Each is twice as long as
// the one before, up to the longest.
const (
	firstPostponement   = 10 * time.Millisecond
	longestPostponement = 250 * time.Millisecond
)

// postpone queues a pending write again after a pause.
func (c *Committer) postpone(p *pending) {
	pause := p.backoff.Next()
	c.running.Go(func() {
		wait.For(c.closing, pause) // if the store closes, Put returns an error
		if err := c.queue.Put(p.ctx, p); err != nil {
			c.advance(p, commitstate.Event{Result: commitstate.Abandoned}, err)
		}
	})
}
