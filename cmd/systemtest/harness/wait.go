package harness

import (
	"testing"
	"time"
)

const (
	// Timeout is far more than any event takes on a slow machine: a test fails if an
	// event has not happened by then.
	Timeout = 40 * time.Second

	// GiveUpTimeout bounds how long the program takes to exit if it cannot go on: it
	// waits 8 s for a silent server, and a busy machine is slow to start it.
	GiveUpTimeout = 20 * time.Second

	// pollInterval is the pause between two looks at a state that gives no signal
	// when it changes, such as a table or a queue.
	pollInterval = 20 * time.Millisecond
)

// Eventually waits until a condition holds that nothing signals. To wait for the
// output of a process, use [Output.Await].
func Eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	EventuallyWithin(t, Timeout, what, holds)
}

// EventuallyWithin is [Eventually] with another timeout.
func EventuallyWithin(t *testing.T, atMost time.Duration, what string, holds func() bool) {
	t.Helper()
	ticker := time.NewTicker(pollInterval)
	defer ticker.Stop()
	for timeout := time.After(atMost); !holds(); {
		select {
		case <-ticker.C:
		case <-timeout:
			t.Fatalf("timeout: %s", what)
		}
	}
}
