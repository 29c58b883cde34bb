package membership_test

import (
	"fmt"
	"strconv"
	"testing"
)

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

// The time until each of many members has received a heartbeat of each. With the interval of
// package ownership, which grows with their number, all of them send one in n × 10 ms.
func BenchmarkHeartbeats(b *testing.B) {
	for _, n := range []int{3, 10, 30, 100} {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			s := newSite(b)
			peers := make([]*peer, n)
			for i := range peers {
				peers[i] = s.join(member(fmt.Sprintf("ident-%02d", i), 1, 1), nil)
			}
			seq := int64(0)
			for b.Loop() {
				for _, p := range peers {
					p.Broadcast(message(p.self, seq))
				}
				for _, p := range peers {
					for range peers {
						p.next()
					}
				}
				seq++
			}
			b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N*n*n), "µs/delivery")
		})
	}
}
