package systemtest

import (
	"testing"
	"time"
)

const (
	// patience is far beyond what a slow machine needs: what has not happened
	// by then never will.
	patience = 40 * time.Second

	// giveUp is how soon the program ends when it cannot go on: it waits 8 s for a
	// server that says nothing, and a busy machine takes its time to start it.
	giveUp = 20 * time.Second
)

// eventually waits until a condition holds.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !holds(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}
