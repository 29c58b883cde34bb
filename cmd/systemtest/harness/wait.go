package harness

import (
	"testing"
	"time"
)

const (
	// patience is far beyond what a slow machine needs: what has not happened
	// by then never will.
	Timeout = 40 * time.Second

	// giveUp is how soon the program ends when it cannot go on: it waits 8 s for a
	// server that says nothing, and a busy machine takes its time to start it.
	GiveUpTimeout = 20 * time.Second
)

// Eventually waits until a condition holds.
func Eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(Timeout); !holds(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}
