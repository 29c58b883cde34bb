package harness

import (
	"bytes"
	"strings"
	"sync"
	"testing"
	"time"
)

// An Output is what a process has written so far.
type Output struct {
	mu      sync.Mutex // guards the following fields
	text    bytes.Buffer
	changed chan struct{} // closed by the next Write, nil if nobody waits for it
}

func (o *Output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.changed != nil {
		close(o.changed)
		o.changed = nil
	}
	return o.text.Write(p)
}

// Changed returns a channel that is closed when the process writes more.
func (o *Output) Changed() <-chan struct{} {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.changed == nil {
		o.changed = make(chan struct{})
	}
	return o.changed
}

// Await waits until a condition holds for the text.
func (o *Output) Await(t *testing.T, what string, holds func(text string) bool) {
	t.Helper()
	timeout := time.After(Timeout)
	for {
		changed := o.Changed()
		if holds(o.String()) {
			return
		}
		select {
		case <-changed:
		case <-timeout:
			t.Fatalf("timeout: %s\n%s", what, o.Last(20))
		}
	}
}

// Contains is a condition for [Output.Await]: the text contains another.
func Contains(part string) func(string) bool {
	return func(text string) bool { return strings.Contains(text, part) }
}

func (o *Output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// Count returns how many log lines have this message.
func (o *Output) Count(message string) int {
	return strings.Count(o.String(), `"msg":"`+message+`"`)
}

// Last returns the last lines.
func (o *Output) Last(lines int) string {
	all := strings.SplitAfter(o.String(), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "")
}
