package clusterview

import (
	"context"
	"errors"
	"net"
	"testing"

	"github.com/glotpod/ident/cluster/broker"
	"github.com/glotpod/ident/cluster/wait"
)

// TestQuestions: a question what a user waits for does not wait for a survey, and there are not
// too many at the same time.
func TestQuestions(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	listener.Close() // there is no broker
	w := NewWatcher("a", broker.Options{Addresses: []string{address}})
	w.mu.Lock() // as a survey does
	if _, err := w.User(t.Context(), 7); !errors.Is(err, wait.ErrUnreachable) {
		t.Errorf("beside a survey: %v", err)
	}
	w.mu.Unlock()
	for range maxQuestions - 1 {
		w.questions <- struct{}{}
	}
	if _, err := w.User(t.Context(), 7); !errors.Is(err, wait.ErrUnreachable) {
		t.Errorf("when the slot is free again: %v", err)
	}
	w.questions <- struct{}{}
	if _, err := w.User(t.Context(), 7); !errors.Is(err, ErrBusy) {
		t.Errorf("beside %d others: %v", maxQuestions, err)
	}
	w.Close()
	if _, err := w.User(t.Context(), 7); !errors.Is(err, context.Canceled) {
		t.Errorf("of a closed watcher: %v", err)
	}
}
