package faults

import (
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/glotpod/ident/cmd/systemtest/workload"
)

// Silences are the longest times without a reply while each fault lasted.
type silences struct {
	mu      sync.Mutex                 // guards the following fields
	now     map[string]time.Duration   // by the name of a fault that lasts
	longest map[string][]time.Duration // by the name of a fault; one for each time
}

func (s *silences) begin(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now[name] = 0
}

func (s *silences) end(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.longest[name] = append(s.longest[name], s.now[name])
	delete(s.now, name)
}

// watch watches a load until the function that it returns is called.
func (s *silences) watch(l *workload.Load) (stop func()) {
	s.now, s.longest = make(map[string]time.Duration), make(map[string][]time.Duration)
	ended, watched := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(watched)
		ticker := time.NewTicker(10 * time.Millisecond)
		defer ticker.Stop()
		last, done := time.Now(), l.Done()
		for {
			select {
			case <-ended:
				return
			case <-ticker.C:
			}
			if n := l.Done(); n != done {
				last, done = time.Now(), n
			}
			s.note(time.Since(last))
		}
	}()
	return func() {
		close(ended)
		<-watched
	}
}

func (s *silences) note(silence time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, longest := range s.now {
		s.now[name] = max(longest, silence)
	}
}

// summary returns the median and the maximum.
func (s *silences) summary(name string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := slices.Sorted(slices.Values(s.longest[name]))
	if len(all) == 0 {
		return "?"
	}
	return fmt.Sprintf("%.2f s, at most %.2f s", all[len(all)/2].Seconds(), all[len(all)-1].Seconds())
}
