package membership

import (
	"sync"
	"time"

	"go.uber.org/zap"
)

// complainEvery is how often the same complaint is logged at most.
const complainEvery = time.Minute

// A complaint is a line in the log that others could cause any number of times.
// It is safe for concurrent use.
type complaint struct {
	log     *zap.Logger
	message string

	mu   sync.Mutex // guards the following fields
	said time.Time  // when it was logged last
	held int        // how often it was not logged since
}

// make logs the complaint, or counts it for the next time.
func (c *complaint) make(why error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now := time.Now(); c.said.IsZero() || now.Sub(c.said) >= complainEvery {
		c.log.Warn(c.message, zap.Error(why), zap.Int("more_since_last", c.held))
		c.said, c.held = now, 0
		return
	}
	c.held++
}
