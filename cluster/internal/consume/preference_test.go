package consume

import (
	"slices"
	"testing"
	"time"
)

// A sharing simulates a queue that instances share. Callers keep a number of requests in flight.
type sharing struct {
	now       time.Time
	latency   time.Duration // of a request
	instances []*sharer
	callers   int
	changes   int // of consumers
}

// A sharer is an instance. A frozen one receives requests and completes none.
type sharer struct {
	*Preference
	priority, prefetch int
	ends               []time.Time // of its requests
	received           int         // since the test has set it to 0
	frozen, gone       bool
	cpu                float64
}

func share(instances int, latency time.Duration) *sharing {
	s := &sharing{now: time.Unix(1, 0), latency: latency}
	for range instances {
		x := &sharer{Preference: NewPreference(256, s.now)}
		x.consume()
		s.instances = append(s.instances, x)
	}
	return s
}

func (x *sharer) consume() { x.priority, x.prefetch = x.Consumer() }

// next returns the instance that gets the next request: of those with room and the highest
// priority, one of those with the fewest requests. It returns nil if none has room.
func (s *sharing) next() (to *sharer) {
	for _, x := range s.instances {
		if x.gone || len(x.ends) >= x.prefetch {
			continue
		}
		if to == nil || x.priority > to.priority || x.priority == to.priority && x.received < to.received {
			to = x
		}
	}
	return to
}

// run has callers keep inFlight requests in flight for d. Requests that an instance has when it freezes are
// sent again by their callers.
func (s *sharing) run(d time.Duration, inFlight int) {
	for _, x := range s.instances {
		x.received = 0
	}
	for end := s.now.Add(d); s.now.Before(end); s.now = s.now.Add(time.Millisecond) {
		flying := 0
		for _, x := range s.instances {
			x.ends = slices.DeleteFunc(x.ends, func(end time.Time) bool {
				over := !x.frozen && !end.After(s.now)
				if over {
					x.End()
				}
				return over
			})
			if !x.frozen {
				flying += len(x.ends)
			}
		}
		for ; flying < inFlight; flying++ {
			x := s.next()
			if x == nil {
				break
			}
			x.received++
			x.ends = append(x.ends, s.now.Add(s.latency))
			if !x.frozen && x.Begin(s.now) {
				s.changes++
				x.consume()
			}
			if x.NoteCallers(s.now, s.callers) {
				s.changes++
				x.consume()
			}
			if x.frozen {
				flying-- // its caller sends it again
			}
		}
		if s.now.UnixMilli()%1000 == 0 {
			s.tick()
		}
	}
}

func (s *sharing) tick() {
	present := 0
	for _, x := range s.instances {
		if !x.gone {
			present++
		}
	}
	for _, x := range s.instances {
		if !x.frozen && !x.gone && x.Tick(s.now, present, x.cpu, true) {
			s.changes++
			x.consume()
		}
	}
}

// received returns how many requests each instance has received in the last run, in descending order.
func (s *sharing) received() (all []int) {
	for _, x := range s.instances {
		all = append(all, x.received)
	}
	slices.SortFunc(all, func(a, b int) int { return b - a })
	return all
}

// first returns the instance that has received most in the last run.
func (s *sharing) first() *sharer {
	return slices.MaxFunc(s.instances, func(a, b *sharer) int { return a.received - b.received })
}

func (s *sharing) asking() (n int) {
	for _, x := range s.instances {
		if x.priority > 0 {
			n++
		}
	}
	return n
}

func TestPreference(t *testing.T) {
	const latency = 20 * time.Millisecond

	t.Run("one_instance_gets_all_requests_under_load", func(t *testing.T) {
		s := share(3, latency)
		s.run(5*time.Second, 100) // 5,000 per second
		s.run(3*time.Second, 100)
		if got := s.received(); got[1] != 0 || s.asking() != 1 {
			t.Errorf("they received %v; %d ask for all", got, s.asking())
		}
		if got := s.first().prefetch; got < 120 || got > 150 {
			t.Errorf("its prefetch count is %d", got)
		}
		if got := s.first().UnderWay(256); got != 3*256 {
			t.Errorf("it may have %d requests under way, want as many as three instances", got)
		}
	})

	t.Run("each_gets_its_share_of_a_low_load", func(t *testing.T) {
		for name, s := range map[string]*sharing{"few_in_flight": share(3, latency/20), "low_rate": share(3, 50*latency)} {
			s.run(10*time.Second, 7)
			if got := s.first().UnderWay(256); got != 256 {
				t.Errorf("%s: an instance may have %d requests under way, want 256", name, got)
			}
			if got := s.received(); got[0]-got[2] > 1 || s.asking() != 0 {
				t.Errorf("%s: they received %v; %d ask for all", name, got, s.asking())
			}
		}
	})

	t.Run("each_gets_its_share_again_when_the_load_is_over", func(t *testing.T) {
		s := share(3, latency)
		s.run(5*time.Second, 100)
		s.run(time.Second, 1)
		if s.asking() != 1 {
			t.Errorf("%d ask for all after a short pause", s.asking())
		}
		s.run(3*time.Second, 1)
		s.run(3*time.Second, 1)
		if got := s.received(); got[0]-got[2] > 1 || s.asking() != 0 {
			t.Errorf("they received %v; %d ask for all", got, s.asking())
		}
	})

	t.Run("the_others_get_what_one_has_no_room_for", func(t *testing.T) {
		s := share(4, 100*time.Millisecond)
		s.run(6*time.Second, 400)
		s.run(4*time.Second, 400)
		if got := s.received(); got[0] < got[1] || got[1] < 1000 || got[2] != 0 {
			t.Errorf("they received %v", got)
		}
	})

	t.Run("the_prefetch_count_follows_the_load", func(t *testing.T) {
		s := share(3, latency)
		s.run(3*time.Second, 60)
		s.run(5*time.Second, 130)
		if got := s.first().prefetch; got < 130 {
			t.Errorf("under more load it is %d", got)
		}
		s.run(3*time.Second, 30)
		if got := s.first().prefetch; got > 60 {
			t.Errorf("under less load it is %d", got)
		}
	})

	t.Run("a_frozen_instance_keeps_few_requests_from_the_others", func(t *testing.T) {
		s := share(3, latency)
		s.run(5*time.Second, 60)
		first := s.first()
		first.frozen = true
		s.run(time.Second, 60)
		if first.received > 30 {
			t.Errorf("it received %d requests while it was frozen", first.received)
		}
		if got := s.first(); got == first || got.received < 1000 {
			t.Errorf("they received %v", s.received())
		}
	})

	t.Run("another_takes_over_from_one_that_leaves", func(t *testing.T) {
		s := share(3, latency)
		s.run(3*time.Second, 100)
		s.first().gone = true
		s.run(2*time.Second, 100)
		s.run(2*time.Second, 100)
		if got := s.received(); got[1] != 0 {
			t.Errorf("they received %v", got)
		}
	})

	t.Run("a_busy_instance_gets_its_share", func(t *testing.T) {
		s := share(3, latency)
		s.run(3*time.Second, 100)
		busy := s.first()
		busy.cpu = 0.9
		s.run(2*time.Second, 100)
		busy.cpu = 0
		s.run(10*time.Second, 100)
		if busy.priority != 0 || s.first() == busy {
			t.Errorf("its priority is %d, and it received %d of %v", busy.priority, busy.received, s.received())
		}
	})

	t.Run("an_instance_that_fails_gets_its_share_at_once", func(t *testing.T) {
		s := share(3, latency)
		s.run(3*time.Second, 100)
		failing := s.first()
		if !failing.NoteFailure(s.now) || failing.NoteFailure(s.now) {
			t.Error("another consumer is needed once")
		}
		failing.consume()
		s.run(2*time.Second, 100)
		s.run(10*time.Second, 100)
		if failing.priority != 0 || failing.received > 0 {
			t.Errorf("its priority is %d, and it received %d of %v", failing.priority, failing.received, s.received())
		}
	})

	t.Run("no_instance_changes_its_mind_all_the_time", func(t *testing.T) {
		for _, instances := range []int{2, 3, 10} {
			s := share(instances, latency)
			s.run(3*time.Second, 300)
			before := s.changes
			for inFlight := 300; inFlight > 10; inFlight -= 10 { // the prefetch count of the first one is too low, or too high
				s.run(2*time.Second, inFlight)
			}
			if n := s.changes - before; n > 15 {
				t.Errorf("%d instances changed their consumers %d times in a minute", instances, n)
			}
		}
	})

	t.Run("an_instance_has_room_for_several_callers_who_ask_for_much", func(t *testing.T) {
		for _, instances := range []int{1, 3} {
			s := share(instances, latency)
			s.run(5*time.Second, 1000)
			if got := s.first().prefetch; got > 256 {
				t.Errorf("of %d, one caller: the prefetch count is %d", instances, got)
			}
			s.callers = 2
			s.run(2*time.Second, 1000)
			s.run(time.Second, 1000)
			if got := s.first().prefetch; got != 8*256 {
				t.Errorf("of %d, two callers: the prefetch count is %d", instances, got)
			}
			s.callers = 1
			s.run(crowdedFor+2*time.Second, 1000)
			for _, x := range s.instances {
				if x.prefetch > 256 {
					t.Errorf("of %d, one caller again: a prefetch count is %d", instances, x.prefetch)
				}
			}
			s.run(2*time.Second, 20)
			s.callers = 2
			s.run(3*time.Second, 20)
			if got := s.first().prefetch; got > 256 {
				t.Errorf("of %d, two callers who ask for little: the prefetch count is %d", instances, got)
			}
		}
	})

	t.Run("an_instance_alone_does_not_ask", func(t *testing.T) {
		s := share(1, latency)
		s.run(3*time.Second, 100)
		if s.asking() != 0 {
			t.Error("it asks for all")
		}
	})
}
