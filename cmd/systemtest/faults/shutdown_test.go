package faults

import (
	"fmt"
	"os"
	"testing"

	"github.com/glotpod/ident/cmd/systemtest/harness"
)

// traffic is requests that were sent without waiting for replies.
type traffic struct {
	c       *harness.Caller
	creates []*harness.Request // each of a new user
	chains  []*harness.Request // patches of a few users, each of which applies once, after the one before
	gets    []*harness.Request
}

// startTraffic sends so many requests of each kind.
func startTraffic(t *testing.T, s *harness.Site, each int) *traffic {
	t.Helper()
	x := &traffic{c: s.NewCaller(t)}
	chained := []dict{x.c.Create(t, harness.NewUser()), x.c.Create(t, harness.NewUser()), x.c.Create(t, harness.NewUser())}
	for i := range each {
		u := chained[i%len(chained)]
		name := fmt.Sprintf("s3cret %d", i)
		x.creates = append(x.creates, x.c.NewRequest("create", harness.NewUser("github", "facebook")))
		x.chains = append(x.chains, x.c.NewRequest("patch", harness.Patch(u, op("test", "/name", u["name"]), op("replace", "/name", name))))
		u["name"] = name
		x.gets = append(x.gets, x.c.NewRequest("get", dict{"user_id": chained[0]["id"]}))
		for _, m := range []*harness.Request{x.creates[i], x.chains[i], x.gets[i]} {
			// Half of them have but reply_to and correlation_id.
			if i%2 == 0 {
				m.MessageId = ""
			}
			x.c.Send(t, m)
		}
	}
	return x
}

// size is the number of requests.
func (x *traffic) size() int { return len(x.creates) + len(x.chains) + len(x.gets) }

// answered returns how many requests have replies.
func (x *traffic) answered() (n int) {
	for _, all := range [][]*harness.Request{x.creates, x.chains, x.gets} {
		for _, m := range all {
			if len(x.c.Replies(m.CorrelationId)) > 0 {
				n++
			}
		}
	}
	return n
}

// check waits for all replies and fails unless each request was applied once.
func (x *traffic) check(t *testing.T, s *harness.Site) {
	t.Helper()
	ids := make(map[any]bool)
	for _, m := range x.creates {
		// A second application would be a conflict.
		ids[x.c.AwaitReply(t, m).Result(t).(dict)["user_id"]] = true
	}
	for _, m := range x.chains {
		// A second application, or one out of turn, would fail its test.
		x.c.AwaitReply(t, m).Result(t)
	}
	for _, m := range x.gets {
		x.c.AwaitReply(t, m).Result(t)
	}
	want := len(x.creates) + 3
	if len(ids) != len(x.creates) || s.Count(t, "SELECT count(*) FROM users") != want {
		t.Errorf("%d creates made %d users", len(x.creates), len(ids))
	}
	if n := s.Count(t, "SELECT count(*) FROM services"); n != 2*len(x.creates)+3 {
		t.Errorf("there are %d services", n)
	}
}

func TestStop(t *testing.T) {
	t.Parallel()
	t.Run("under_load", testStopUnderLoad)
	t.Run("killed", testStopKilled)
	t.Run("idle", testStopIdle)
}

func testStopUnderLoad(t *testing.T) {
	t.Parallel()
	for _, rounds := range []int{1, 40} { // of how many requests are answered first
		t.Run(fmt.Sprintf("after %d answers", rounds), func(t *testing.T) {
			t.Parallel()
			s := harness.NewSite(t)
			v := s.Serve(t, harness.Settings{"amqp.prefetch": "100"})
			heard := s.Subscribe(t)
			x := startTraffic(t, s, 400)
			harness.Eventually(t, "some requests have replies", func() bool { return x.answered() >= rounds })
			v.Stop(t)

			left := 0
			harness.Eventually(t, "each request has a reply or is in the queue", func() bool {
				left = x.c.DeclareQueue(t).Messages // replies and requests may still be on their way
				return x.answered()+left == x.size()
			})
			if left == 0 {
				t.Log("all were answered before the end: this has shown little")
			}
			for range left {
				d, ok, err := x.c.Channel.Get(harness.RequestQueue, false)
				if err != nil || !ok || d.Redelivered {
					t.Fatalf("a request that waits: %v, %v, taken before: %v", ok, err, d.Redelivered)
				}
			}
			// Each commit was notified: the database knows that, and the notifications are there.
			if n := s.Unnotified(t); n > 0 {
				t.Errorf("%d notifications were not sent", n)
			}
			changes := s.Count(t, "SELECT count(*) FROM users")
			for range changes {
				heard.Next(t)
			}

			if err := x.c.Channel.Nack(0, true, true); err != nil {
				t.Fatal(err)
			}
			s.Serve(t)
			x.check(t, s)
		})
	}
}

func testStopKilled(t *testing.T) {
	t.Parallel()
	s := harness.NewSite(t)
	v := s.Serve(t)
	x := startTraffic(t, s, 400)
	for _, answers := range []int{1, 300, 600} {
		harness.Eventually(t, "some requests have replies", func() bool { return x.answered() >= answers })
		v.Kill(t)
		v = s.Serve(t)
	}
	x.check(t, s)
}

// SIGTERM and SIGINT stop the instance.
func testStopIdle(t *testing.T) {
	t.Parallel()
	s := harness.NewSite(t)
	for range 3 {
		s.Serve(t).Stop(t)
	}
	v := s.Serve(t)
	if err := v.Cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if status := v.AwaitExit(t, harness.GiveUpTimeout); status != 0 {
		t.Errorf("SIGINT ended the instance with %d", status)
	}
}
