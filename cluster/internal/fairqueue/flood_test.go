package fairqueue

import (
	"context"
	"maps"
	"sync"
	"testing"
	"testing/synctest"
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
	for request, ok := s.next(s.now); ok; request, ok = s.next(s.now) {
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
	// underWay counts in how many of the next 90 rounds the flood has so many requests under way.
	underWay := func(s *service, others ...string) map[int]int {
		rounds := make(map[int]int)
		for range 90 {
			flood(s, 1, others...)
			rounds[s.of("flood")]++
		}
		return rounds
	}
	for name, c := range map[string]struct {
		requests int
		want     map[int]int
	}{
		"has_a_small_share_and_rests_while_another_caller_asks": {2*share + 2*floodShare, map[int]int{floodShare: 10, 0: 80}},
		"rests_less_with_less_than_twice_its_share":             {share*3/2 + floodShare, map[int]int{floodShare: 18, 0: 72}},
	} {
		t.Run(name, func(t *testing.T) {
			s := newService(t, limit, room)
			s.add("other", 1)
			s.add("flood", c.requests)
			s.want("at first", "flood", share)
			flood(s, 3*judgeAfter, "other")
			if got := underWay(s, "other"); !maps.Equal(got, c.want) {
				t.Errorf("in the end, so many are under way in so many rounds: %v, want %v", got, c.want)
			}
		})
	}
	t.Run("has_its_share_while_others_ask_once_in_a_while", func(t *testing.T) {
		s := newService(t, limit, room)
		s.add("other", 1)
		s.add("flood", 100)
		for range 10 {
			flood(s, 1, "other")
			s.want("when the other caller asks", "flood", share)
			flood(s, 30)
			s.want("after that", "flood", share)
		}
		if !s.Precedes("other") || s.Precedes("flood") {
			t.Error("the other caller has to wait for the flood")
		}
		flood(s, 2, "other")
		if rounds := underWay(s, "other"); rounds[0] == 0 || rounds[share] > 0 {
			t.Errorf("when the other caller asks often, so many are under way in so many rounds: %v", rounds)
		}
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
	t.Run("has_its_share_again_after_a_pause", func(t *testing.T) {
		s := newService(t, limit, room)
		s.add("other", 1)
		s.add("flood", 100)
		flood(s, 4*judgeAfter, "other")
		for len(s.underWay) > 0 || s.Waiting() > 0 {
			s.complete("")
			s.add("other", 0)
		}
		s.now = s.now.Add(2 * asksFor)
		s.add("other", 1)
		s.add("flood", 100)
		s.want("when it begins again", "flood", share)
	})
	t.Run("is_none_with_less_than_its_share", func(t *testing.T) {
		s := newService(t, limit, room)
		s.add("other", 1)
		s.add("busy", share-1)
		for range 100 * judgeAfter {
			s.add("other", 1)
			s.add("busy", s.complete("busy"))
			s.want("all the time", "busy", share-1)
		}
	})
	// What it sends is a quarter of what its share can do, and more than a caller gets that is held back.
	t.Run("that_does_not_wait_for_replies_is_spared_longer_each_time", func(t *testing.T) {
		s := newService(t, limit, room)
		s.add("other", 1)
		s.add("busy", 100)
		var spared []time.Duration
		last := s.now
		for range 15_000 {
			before := s.callers["busy"].isFlood
			s.add("other", 1)
			switch completed := s.complete("busy"); {
			case before:
				s.add("busy", share/4)
			case s.Waiting() <= 100:
				s.add("busy", completed)
			}
			switch floods := s.callers["busy"].isFlood; {
			case floods && !before:
				spared = append(spared, s.now.Sub(last))
				last = s.now
			case before && !floods:
				if held := s.now.Sub(last); held > 3*judgeWithin {
					t.Errorf("it was held back for %v", held)
				}
				last = s.now
			}
		}
		if len(spared) < 4 {
			t.Fatalf("it was spared %d times", len(spared)-1)
		}
		for i, d := range spared[1:] {
			if want := sparedFor << i; d < want || d > want+want/2 {
				t.Errorf("number %d, it was spared for %v, want %v", i, d, want)
			}
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
	// Each request takes 150 ms, so a caller that waits for no replies has its share here at 420 per second.
	t.Run("a_caller_of_a_slow_service_waits_little_longer", func(t *testing.T) {
		wait := func(room int) (longest time.Duration, held bool) {
			s := newService(t, 256, room)
			var sent []time.Time
			var started [][]string // in each step of 10 ms
			coming := 0.0
			for step := range 10_000 {
				s.now = s.now.Add(10 * time.Millisecond)
				if step >= 15 {
					for _, from := range started[step-15] {
						if s.Done(from, s.now); from == "busy" {
							held = held || s.callers["busy"].isFlood
							longest = max(longest, s.now.Sub(sent[0]))
							sent = sent[1:]
						}
					}
				}
				s.add("other", 1)
				if step%500 == 0 {
					coming += 50
				}
				for coming += 4.05; coming >= 1; coming-- {
					sent = append(sent, s.now)
					s.add("busy", 1)
				}
				started = append(started, s.underWay)
				s.underWay = nil
			}
			return longest, held
		}
		longest, held := wait(2048)
		usual, _ := wait(0)
		if !held || longest > usual+2*time.Second {
			t.Errorf("a request took up to %v, and %v if nobody floods", longest, usual)
		}
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

// TestWakes has the queue run by itself: what is held back goes on when its time has come, though nobody asks.
func TestWakes(t *testing.T) {
	const limit, requests = 64, 40
	// run has a flood, and another caller that asks every 20 ms until the flood is held back for a while and stop
	// returns true. Each request of the flood takes as long as takes returns. run returns how many of them
	// begin in the second after that, and when the first one does.
	run := func(t *testing.T, takes func(held bool) time.Duration, stop func(underWay, slow int) bool) (began int, first time.Duration) {
		completed := make(chan string, 2*requests)
		var q *Queue[string, string]
		underWay, slow, asked, held, counting := 0, 0, 0, false, false
		var stopped time.Time
		begin := func(from string) {
			took := time.Millisecond
			if from == "flood" {
				underWay++
				if took = takes(held); held {
					slow++
				}
				if counting {
					if began++; began == 1 {
						first = time.Since(stopped)
					}
				}
			}
			time.AfterFunc(took, func() { completed <- from })
		}
		started := make(chan string, 2*requests)
		q = New[string](limit, func(from string) { started <- from })
		q.SetRoom(8 * limit)
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { q.Run(ctx) })
		defer running.Wait()
		defer cancel()
		add := func(from string) {
			if atOnce, _ := q.Add(from, from, time.Now()); atOnce {
				begin(from)
			}
		}
		for range requests {
			add("flood")
		}
		asks := time.NewTicker(20 * time.Millisecond)
		defer asks.Stop()
		var end <-chan time.Time
		for {
			select {
			case from := <-started:
				begin(from)
			case from := <-completed:
				q.Done(from, time.Now())
				if from == "flood" {
					underWay--
					add("flood")
				}
			case <-asks.C:
				if held = q.Floods() > 0; held {
					asked++
				}
				if asked > 10 && stop(underWay, slow) {
					asks.Stop()
					counting, stopped, end = true, time.Now(), time.After(time.Second)
					continue
				}
				add("other")
			case <-end:
				return began, first
			}
		}
	}
	t.Run("a_caller_goes_on_after_a_rest", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			began, first := run(t, func(bool) time.Duration { return 10 * time.Millisecond }, func(underWay, _ int) bool { return underWay == 0 })
			if most := int(time.Second / (10 * time.Millisecond) * limit / shares); began < most/2 || first > restAtMost {
				t.Errorf("after %v the first of %d requests has begun in a second in which nobody else asks; %d are possible", first, began, most)
			}
		})
	})
	t.Run("a_caller_has_its_share_when_others_ask_no_more", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			takes := func(held bool) time.Duration {
				if held {
					return time.Minute
				}
				return 10 * time.Millisecond
			}
			began, _ := run(t, takes, func(underWay, slow int) bool { return underWay == slow && slow == limit/floodShares })
			if want := limit/shares - limit/floodShares; began != want {
				t.Errorf("%d requests have begun in a second in which nobody else asks, beside those that take long, want %d", began, want)
			}
		})
	})
}
