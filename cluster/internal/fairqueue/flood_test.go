package fairqueue

import (
	"testing"
	"time"
)

// A service has a queue, and completes everything that is under way at once, as a group commit does.
type service struct {
	*Queue[string, string]
	t        *testing.T
	now      time.Time
	underWay []string // the callers
}

func newService(t *testing.T, limit, room int) *service {
	s := &service{Queue: New[string](limit, func(string) {}), t: t, now: time.Now()}
	s.SetRoom(room)
	return s
}

func (s *service) add(caller string, requests int) {
	for range requests {
		if atOnce, _ := s.Add(caller, caller, s.now); atOnce {
			s.underWay = append(s.underWay, caller)
		}
	}
	for request, ok := s.next(); ok; request, ok = s.next() {
		s.underWay = append(s.underWay, request)
	}
}

// complete returns how many requests of a caller were completed.
func (s *service) complete(caller string) (completed int) {
	s.now = s.now.Add(10 * time.Millisecond)
	for _, from := range s.underWay {
		if from == caller {
			completed++
		}
		s.Done(from, s.now)
	}
	s.underWay = nil
	return completed
}

func (s *service) of(caller string) (n int) {
	for _, from := range s.underWay {
		if from == caller {
			n++
		}
	}
	return n
}

func (s *service) want(what string, caller string, underWay int) {
	s.t.Helper()
	if n := s.of(caller); n != underWay {
		s.t.Errorf("%s, %d requests of the %s are under way, want %d", what, n, caller, underWay)
	}
}

// TestFlood has a caller send more than it may have under way, and others that send one request after
// another.
func TestFlood(t *testing.T) {
	const limit, room, share, floodShare = 64, 512, 16, 4
	// A flood sends a request for each one that was completed.
	flood := func(s *service, rounds int, others ...string) {
		for range rounds {
			for _, other := range others {
				s.add(other, 1)
			}
			s.add("flood", s.complete("flood"))
		}
	}
	t.Run("has_a_small_share_while_another_caller_asks", func(t *testing.T) {
		s := newService(t, limit, room)
		s.add("other", 1)
		s.add("flood", 100)
		s.want("at first", "flood", share)
		flood(s, 3*judgeAfter, "other")
		s.want("in the end", "flood", floodShare)
	})
	t.Run("has_all_while_it_is_alone", func(t *testing.T) {
		s := newService(t, limit, room)
		s.add("flood", 100)
		flood(s, 3*judgeAfter)
		s.want("in the end", "flood", limit)
	})
	t.Run("has_its_share_while_all_others_flood_too", func(t *testing.T) {
		s := newService(t, limit, room)
		s.add("other", 1)
		s.add("flood", 100)
		s.add("second", 100)
		for range 3 * judgeAfter {
			flood, second := s.of("flood"), s.of("second")
			s.complete("")
			s.add("flood", flood)
			s.add("second", second)
		}
		s.now = s.now.Add(2 * asksFor)
		s.complete("")
		s.add("flood", 1)
		s.want("in the end", "flood", share)
		s.want("in the end", "second", share)
	})
	t.Run("has_its_share_again_when_nothing_waits", func(t *testing.T) {
		for phase := range 60 {
			s := newService(t, limit, room)
			s.add("other", 1)
			s.add("flood", 100)
			flood(s, 3*judgeAfter+phase, "other")
			for len(s.underWay) > 0 {
				s.complete("")
				s.add("other", 0)
			}
			s.add("other", 1)
			s.add("flood", 100)
			s.want("when it begins again", "flood", share)
		}
	})
	t.Run("is_none_with_little_more_than_its_share", func(t *testing.T) {
		s := newService(t, limit, room)
		s.add("other", 1)
		s.add("busy", share*5/4)
		for range 100 * judgeAfter {
			s.add("other", 1)
			s.add("busy", s.complete("busy"))
			s.want("all the time", "busy", share)
		}
	})
	// It has come in a pause. What comes now is three quarters of what can be carried out.
	t.Run("a_backlog_that_shrinks_is_no_flood", func(t *testing.T) {
		s := newService(t, limit, room)
		s.add("other", 1)
		s.add("busy", 200)
		for s.Waiting() > 0 {
			s.want("while the backlog shrinks", "busy", share)
			s.add("other", 1)
			s.add("busy", s.complete("busy")*3/4)
		}
	})
	// Nobody can pass what the broker has not delivered.
	t.Run("a_backlog_that_fills_the_room_is_worked_off_fast", func(t *testing.T) {
		s := newService(t, limit, room)
		s.add("other", 1)
		s.add("flood", room-1)
		flood(s, 3*judgeAfter, "other")
		s.want("in the end", "flood", share)
	})
	// The callers do not wait for replies. For half a second, everything takes twice as long. Without room,
	// nobody counts as a flood.
	t.Run("a_busy_caller_recovers_from_a_pause", func(t *testing.T) {
		backlog := func(t *testing.T, room int, rate float64) (most, until int) {
			s := newService(t, limit, room)
			coming := 0.0
			for step := range 20_000 { // each of 10 ms
				s.add("other", 1)
				for coming += rate * share; coming >= 1; coming-- {
					s.add("busy", 1)
				}
				if step < 1000 || step >= 1050 || step%2 == 0 {
					s.complete("")
				}
				if n := s.Waiting(); n > share {
					most, until = max(most, n), step
				}
			}
			return most, until
		}
		for _, rate := range []float64{0.3, 0.7, 0.9, 0.96, 0.98} { // of what its share can do
			most, until := backlog(t, room, rate)
			usualMost, usual := backlog(t, 0, rate)
			if most > usualMost+room || until > 1050+4*max(usual-1050, 0) {
				t.Errorf("with %v of what it could have, up to %d requests wait, until step %d, instead of %d until step %d", rate, most, until, usualMost, usual)
			}
		}
	})
}
