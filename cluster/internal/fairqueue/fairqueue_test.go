package fairqueue

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

// A numbered request is the n-th of its caller.
type numbered struct {
	caller string
	n      int
}

// A model plays callers that send requests, and a service that completes them in any order. It knows
// what is under way, and starts what the queue lets it start, like Run.
type model struct {
	*rapid.T
	queue    *Queue[string, numbered]
	limit    int
	most     int // the highest limit that there was
	now      time.Time
	added    map[string]int
	started  map[string]int // all of them have started, in order
	underWay []numbered
	pending  *numbered            // next has returned it, and start is not called yet
	asked    map[string]time.Time // or had a request completed
}

func (m *model) begin(r numbered) {
	if m.started[r.caller]++; m.started[r.caller] != r.n {
		m.Fatalf("request %d of caller %s starts as its number %d", r.n, r.caller, m.started[r.caller])
	}
	m.underWay = append(m.underWay, r)
	if len(m.underWay) > 2*m.most {
		m.Fatalf("%d requests are under way, with a limit of %d at most", len(m.underWay), m.most)
	}
}

func (m *model) count(caller string) (n int) {
	for _, r := range m.underWay {
		if r.caller == caller {
			n++
		}
	}
	return n
}

func (m *model) add(*rapid.T) {
	name := rapid.SampledFrom([]string{"a", "b", "c"}).Draw(m.T, "caller")
	m.added[name]++
	m.asked[name] = m.now
	r := numbered{name, m.added[name]}
	if atOnce, closed := m.queue.Add(name, r, m.now); closed {
		m.Fatal("the queue is closed")
	} else if atOnce {
		m.begin(r)
	}
}

func (m *model) next(*rapid.T) {
	if m.pending != nil {
		r := *m.pending
		m.pending = nil
		m.begin(r)
	}
	if r, ok := m.queue.next(m.now); ok {
		m.pending = &r
	}
}

func (m *model) done(t *rapid.T) {
	if len(m.underWay) == 0 {
		t.Skip("nothing is under way")
	}
	i := rapid.IntRange(0, len(m.underWay)-1).Draw(m.T, "which")
	caller := m.underWay[i].caller
	m.underWay = slices.Delete(m.underWay, i, i+1)
	m.asked[caller] = m.now
	m.queue.Done(caller, m.now)
}

// check starts what may start, and then checks that whatever waits has to.
func (m *model) check(*rapid.T) {
	if rapid.IntRange(0, 7).Draw(m.T, "start all") > 0 {
		return
	}
	m.queue.mu.Lock()
	m.queue.forgetLocked(m.now)
	m.queue.mu.Unlock()
	for m.next(nil); m.pending != nil; m.next(nil) {
	}
	floods := 0
	for _, c := range m.queue.callers {
		if c.isFlood {
			floods++
		}
	}
	if m.queue.floods != floods {
		m.Fatalf("%d callers flood according to the queue, in fact %d", m.queue.floods, floods)
	}
	waiting := 0
	for name, n := range m.added {
		if n == m.started[name] {
			continue
		}
		waiting += n - m.started[name]
		others := false // somebody else has asked a short time ago, or has requests here
		for other, at := range m.asked {
			others = others || other != name && (m.now.Sub(at) <= 2*asksFor || m.count(other) > 0 || m.added[other] > m.started[other])
		}
		c := m.queue.callers[name]
		switch own := m.count(name); {
		case c.isFlood && others && m.now.Before(c.restsUntil):
			if rest := c.restsUntil.Sub(m.now); rest > restAtMost {
				m.Fatalf("caller %s rests for %v", name, rest)
			}
		case own == 0 && len(m.underWay) < 2*m.limit:
			m.Fatalf("caller %s waits and has nothing under way; all together have %d, with a limit of %d", name, len(m.underWay), m.limit)
		case len(m.underWay) >= m.limit:
		case !others:
			m.Fatalf("caller %s waits with %d under way, and is the only one that asks; the limit is %d", name, own, m.limit)
		case own < m.limit/floodShares || own < m.limit/shares && !c.isFlood:
			m.Fatalf("caller %s waits with %d under way, less than its share of %d", name, own, m.limit)
		}
	}
	if n := m.queue.Waiting(); n != waiting {
		m.Fatalf("%d requests wait according to the queue, in fact %d", n, waiting)
	}
}

// TestModel compares the queue with a model: requests of a caller start in order, none is lost or
// started twice, the limit holds, and no request waits that need not.
func TestModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limit := rapid.IntRange(1, 12).Draw(t, "limit")
		m := &model{
			T: t, limit: limit, most: limit, now: time.Now(), queue: New[string](limit, func(numbered) {}),
			added: make(map[string]int), started: make(map[string]int), asked: make(map[string]time.Time),
		}
		m.queue.SetRoom(rapid.SampledFrom([]int{0, 1000}).Draw(t, "room"))
		t.Repeat(map[string]func(*rapid.T){
			"add":  m.add,
			"next": m.next,
			"done": m.done,
			"time passes": func(*rapid.T) {
				m.now = m.now.Add(time.Duration(rapid.IntRange(0, 1500).Draw(t, "ms")) * time.Millisecond)
			},
			"limit": func(*rapid.T) {
				m.limit = rapid.IntRange(1, 12).Draw(t, "limit")
				m.queue.SetLimit(m.limit)
				m.most = max(m.most, m.limit)
			},
			"flood": func(*rapid.T) {
				for _, name := range []string{"a", "b", "c"} {
					if c := m.queue.callers[name]; c != nil {
						m.queue.setFloodLocked(c, rapid.Bool().Draw(t, name))
						m.queue.wake.Notify()
					}
				}
			},
			"": m.check,
		})
		// Everything is completed in the end.
		for range 10_000 {
			for m.next(nil); m.pending != nil; m.next(nil) {
			}
			if len(m.underWay) == 0 && m.queue.Waiting() == 0 {
				break
			}
			if m.now = m.now.Add(restAtMost); len(m.underWay) == 0 {
				continue
			}
			m.done(t)
		}
		for name, n := range m.added {
			if m.started[name] != n {
				t.Fatalf("%d of %d requests of caller %s have started", m.started[name], n, name)
			}
		}
		m.now = m.now.Add(3 * asksFor)
		m.queue.Add("f", numbered{}, m.now)
		if n := len(m.queue.callers); n != 1 {
			t.Fatalf("the queue remembers %d callers, of which one asks", n)
		}
	})
}

// TestRun checks what callers notice of a queue that runs.
func TestRun(t *testing.T) {
	const limit = 8
	// Each request is under way until a value comes from complete.
	begin := func(t *testing.T) (q *Queue[string, numbered], started *[]numbered) {
		started = new([]numbered)
		q = New[string](limit, func(r numbered) { *started = append(*started, r) })
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { defer close(ended); q.Run(ctx) }()
		t.Cleanup(func() { stop(); <-ended })
		return q, started
	}
	flood := func(t *testing.T, q *Queue[string, numbered], requests int) {
		for n := range requests {
			if atOnce, _ := q.Add("flood", numbered{"flood", n}, time.Now()); atOnce != (n < limit) {
				t.Fatalf("request %d of the only caller has started at once: %t", n, atOnce)
			}
		}
	}
	t.Run("another_caller_does_not_wait_for_a_flood", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			q, started := begin(t)
			flood(t, q, 1000)
			for range 100 {
				if atOnce, _ := q.Add("other", numbered{}, time.Now()); !atOnce {
					t.Fatal("it waits")
				}
				q.Done("other", time.Now())
			}
			synctest.Wait()
			if len(*started) != 0 {
				t.Errorf("%d more requests of the flood have started, beyond the limit", len(*started))
			}
		})
	})
	t.Run("a_flood_keeps_to_its_share_while_others_ask", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			q, started := begin(t)
			flood(t, q, 1000)
			q.Add("other", numbered{}, time.Now())
			q.Done("other", time.Now())
			for range limit {
				q.Done("flood", time.Now())
			}
			synctest.Wait()
			if n := len(*started); n != limit/shares {
				t.Errorf("%d requests of the flood are under way, want %d", n, limit/shares)
			}
			time.Sleep(2 * asksFor)
			q.Done("flood", time.Now())
			synctest.Wait()
			if n := len(*started); n != limit+1 {
				t.Errorf("%d requests of the flood have started when the other caller asks no more, want %d", n, limit+1)
			}
		})
	})
	t.Run("callers_take_turns", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			q, started := begin(t)
			flood(t, q, 100)
			names := []string{"a", "b", "c"}
			for n := range 5 {
				for _, name := range names {
					if n == 0 {
						q.Add(name, numbered{name, 0}, time.Now()) // has one under way from now on
					} else {
						q.Add(name, numbered{name, n}, time.Now())
					}
				}
			}
			for range limit {
				q.Done("flood", time.Now())
			}
			synctest.Wait()
			for _, name := range names {
				if n := len(slices.DeleteFunc(slices.Clone(*started), func(r numbered) bool { return r.caller != name })); n != 1 {
					t.Errorf("%d requests of %s have started beside its first one, want 1: its share is %d", n, name, limit/shares)
				}
			}
		})
	})
	t.Run("a_request_does_not_overtake_the_one_that_starts", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var q *Queue[string, int]
			var started []int
			q = New[string](1, func(n int) {
				if n == 1 {
					q.Done("caller", time.Now()) // so that there is room for another one
					if atOnce, _ := q.Add("caller", 2, time.Now()); atOnce {
						t.Error("it has overtaken the request before it")
					}
				}
				started = append(started, n)
			})
			ctx, stop := context.WithCancel(t.Context())
			defer stop()
			go q.Run(ctx)
			q.Add("caller", 0, time.Now())
			q.Add("caller", 1, time.Now())
			q.Done("caller", time.Now())
			synctest.Wait()
			if !slices.Equal(started, []int{1, 2}) {
				t.Errorf("%v have started", started)
			}
		})
	})
	t.Run("a_closed_queue_starts_nothing", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			q, started := begin(t)
			flood(t, q, limit+3)
			waiting := q.Close()
			if got := fmt.Sprint(waiting); got != fmt.Sprint([]numbered{{"flood", limit}, {"flood", limit + 1}, {"flood", limit + 2}}) {
				t.Errorf("it returns %s", got)
			}
			q.Done("flood", time.Now())
			if _, closed := q.Add("other", numbered{}, time.Now()); !closed {
				t.Error("it takes a request in")
			}
			synctest.Wait()
			if len(*started) != 0 {
				t.Errorf("%d requests have started", len(*started))
			}
		})
	})
}
