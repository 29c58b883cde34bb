package membership_test

import "testing"

// The time that a message takes from one member to another.
func BenchmarkBroadcast(b *testing.B) {
	s := newSite(b)
	from, to := s.join(member("a", 1, 1), nil), s.join(member("b", 1, 1), nil)
	seq := int64(0)
	for b.Loop() {
		from.Broadcast(message(from.self, seq))
		to.next()
		from.next()
		seq++
	}
}

// The time that it takes to find that a member is gone.
func BenchmarkProbe(b *testing.B) {
	s := newSite(b)
	p := s.join(member("a", 1, 1), nil)
	for b.Loop() {
		p.Probe(member("unknown", 1, 1))
		p.next()
		p.flush() // the question is closed
	}
}
