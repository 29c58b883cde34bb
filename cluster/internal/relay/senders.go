package relay

import (
	"sync"

	"github.com/glotpod/ident/cluster/partition"
)

// maxSenders bounds from how many instances one partition accepts requests. Instances of the
// past count until there are too many; then all ask again.
const maxSenders = 1024

// Senders says which relayed requests a partition accepts under one lease: those whose ask was
// answered, without a gap. It is safe for concurrent use. The zero Senders accept nothing.
type Senders struct {
	mu   sync.Mutex // guards the following field
	next map[partition.Member]expected
}

// expected is the request that is accepted next.
type expected struct{ ask, place int64 }

// Answer notes that an ask is answered.
func (s *Senders) Answer(from partition.Member, ask int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.next == nil || len(s.next) >= maxSenders {
		s.next = make(map[partition.Member]expected)
	}
	s.next[from] = expected{ask: ask}
}

// Accept reports whether a request is accepted. If it is not, later ones are not until the next ask.
func (s *Senders) Accept(from partition.Member, q *Request) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	next, known := s.next[from]
	if !known || next.ask != q.Ask {
		return false
	}
	if next.place != q.Place {
		delete(s.next, from)
		return false
	}
	next.place++
	s.next[from] = next
	return true
}

// Refuse has no other request accepted that has the ask of this one.
func (s *Senders) Refuse(from partition.Member, q *Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.next[from].ask == q.Ask {
		delete(s.next, from)
	}
}
