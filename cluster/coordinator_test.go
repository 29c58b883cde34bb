package cluster

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap/zaptest"

	"github.com/glotpod/ident/cluster/ownership"
	"github.com/glotpod/ident/cluster/partition"
)

// A fakeExecutor records commands.
type fakeExecutor struct {
	mu       sync.Mutex // guards the following fields
	commands []string
	messages int
	started  []partition.Lease
}

func (e *fakeExecutor) add(format string, args ...any) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.commands = append(e.commands, fmt.Sprintf(format, args...))
}

func (e *fakeExecutor) broadcast(ownership.Message) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.messages++
}

func (e *fakeExecutor) send(to ownership.Member, _ ownership.Message) { e.add("send to %s", to.Name) }
func (e *fakeExecutor) probe(m ownership.Member)                      { e.add("probe %s", m.Name) }
func (e *fakeExecutor) handOver(h ownership.HandOver)                 { e.add("hand over %d", h.Partition) }
func (e *fakeExecutor) abandon(partition int)                         { e.add("abandon %d", partition) }
func (e *fakeExecutor) reconnect(why string)                          { e.add("reconnect: %s", why) }

func (e *fakeExecutor) startServing(l partition.Lease) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.started = append(e.started, l)
}

// take returns the commands and leases since the last call.
func (e *fakeExecutor) take() (commands []string, started []partition.Lease) {
	e.mu.Lock()
	defer e.mu.Unlock()
	commands, started = e.commands, e.started
	e.commands, e.started = nil, nil
	return commands, started
}

func (e *fakeExecutor) broadcasts() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.messages
}

// coordinated runs a test with a coordinator that runs, in a synctest bubble.
func coordinated(t *testing.T, name string, store *fakeStore, test func(*testing.T, *coordinator)) {
	t.Helper()
	t.Run(name, func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			cfg := ownership.DefaultConfig()
			cfg.Name, cfg.Start, cfg.Partitions, cfg.QueueType = "one", 1, testPartitions, "quorum"
			c, err := newCoordinator(cfg, store, zaptest.NewLogger(t), func(ownership.StopReason, string) {})
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			var running sync.WaitGroup
			running.Go(func() { c.run(ctx) })
			test(t, c)
			cancel()
			running.Wait()
		})
	})
}

// settle attaches an executor and waits until all partitions are served.
func settle(t *testing.T, c *coordinator) *fakeExecutor {
	t.Helper()
	e := new(fakeExecutor)
	c.attach(e, 1)
	serveStarted(t, c, e)
	return e
}

// serveStarted answers the commands to serve until the instance has all partitions.
func serveStarted(t *testing.T, c *coordinator, e *fakeExecutor) {
	t.Helper()
	for range 100 {
		time.Sleep(100 * time.Millisecond)
		_, started := e.take()
		for _, l := range started {
			c.post(ownership.Consuming(l))
		}
		if status, _ := c.status(); status.State == ownership.Ready && status.Settled() {
			return
		}
	}
	t.Fatal("the instance does not get its partitions")
}

// held returns how many partitions the core believes to have a lease of.
func held(c *coordinator) (n int) {
	status, _ := c.status()
	for _, p := range status.Partitions {
		if p.Epoch != 0 {
			n++
		}
	}
	return n
}

func TestCoordinator(t *testing.T) {
	coordinated(t, "claims_and_serves_all_partitions", &fakeStore{}, func(t *testing.T, c *coordinator) {
		e := new(fakeExecutor)
		c.attach(e, 1)
		var served []int
		for range 20 {
			time.Sleep(100 * time.Millisecond)
			_, started := e.take()
			for _, l := range started {
				if l.Epoch != 1 {
					t.Errorf("serves %+v", l)
				}
				served = append(served, l.Partition)
				c.post(ownership.Consuming(l))
			}
		}
		slices.Sort(served)
		if !slices.Equal(served, []int{0, 1, 2, 3}) || held(c) != 4 {
			t.Errorf("serves %v", served)
		}
		if e.broadcasts() < 2 {
			t.Error("no heartbeats are sent")
		}
		if since := c.sinceClaim(0); since <= 0 || since > 3*time.Second {
			t.Errorf("claimed %v ago", since)
		}
	})

	coordinated(t, "without_a_session_nothing_is_claimed", &fakeStore{claim: func([]ownership.Claim) ([]ownership.Event, error) {
		panic("claimed")
	}}, func(t *testing.T, c *coordinator) {
		time.Sleep(time.Minute)
		if n := held(c); n > 0 {
			t.Errorf("%d partitions are held", n)
		}
	})

	coordinated(t, "detach_abandons_before_it_returns", &fakeStore{}, func(t *testing.T, c *coordinator) {
		e := settle(t, c)
		e.take()
		c.detach(e)
		commands, _ := e.take()
		abandoned := 0
		for _, command := range commands {
			if strings.HasPrefix(command, "abandon") {
				abandoned++
			}
		}
		if abandoned != testPartitions {
			t.Errorf("the commands are %v", commands)
		}
		time.Sleep(time.Minute)
		if commands, started := e.take(); len(commands)+len(started) > 0 {
			t.Errorf("after detach the commands are %v and %v", commands, started)
		}
	})

	coordinated(t, "detach_of_another_session_changes_nothing", &fakeStore{}, func(t *testing.T, c *coordinator) {
		settle(t, c)
		c.detach(new(fakeExecutor))
		if n := held(c); n != testPartitions {
			t.Errorf("%d partitions are held", n)
		}
	})

	coordinated(t, "a_lost_lease_is_claimed_again", &fakeStore{}, func(t *testing.T, c *coordinator) {
		e := settle(t, c)
		c.post(ownership.LeaseLost{Partition: 2, Epoch: 1})
		time.Sleep(100 * time.Millisecond)
		if n := held(c); n == testPartitions {
			t.Error("the lease is still held")
		}
		serveStarted(t, c, e)
	})

	attempts := 0
	coordinated(t, "a_failed_claim_is_tried_again", &fakeStore{claim: func(claims []ownership.Claim) ([]ownership.Event, error) {
		if attempts++; attempts < 4 {
			return nil, errDown
		}
		return new(fakeStore).Claim(context.Background(), claims)
	}}, func(t *testing.T, c *coordinator) {
		settle(t, c)
		synctest.Wait()
		if attempts < 4 {
			t.Errorf("%d attempts", attempts)
		}
	})

	surveys := 0
	coordinated(t, "a_failed_survey_is_tried_again", &fakeStore{survey: func() ([]ownership.Row, error) {
		surveys++
		return nil, errDown
	}}, func(t *testing.T, c *coordinator) {
		c.attach(new(fakeExecutor), 1)
		time.Sleep(time.Minute)
		synctest.Wait()
		if surveys < 2 {
			t.Errorf("%d surveys", surveys)
		}
	})

	coordinated(t, "leaves_when_asked_to", &fakeStore{}, func(t *testing.T, c *coordinator) {
		e := settle(t, c)
		e.take()
		c.post(ownership.LeaveRequested{})
		for range 100 {
			time.Sleep(100 * time.Millisecond)
			commands, _ := e.take()
			for _, command := range commands {
				var p int
				if n, _ := fmt.Sscanf(command, "hand over %d", &p); n == 1 {
					c.endLease(ownership.HandOver{Partition: p, Epoch: 1}, func() {})
				}
			}
		}
		select {
		case <-c.left:
		default:
			t.Errorf("it has not left, and holds %d partitions", held(c))
		}
	})

	t.Run("status_ends_with_run", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			cfg := ownership.DefaultConfig()
			cfg.Name, cfg.Start, cfg.Partitions = "one", 1, 1
			c, err := newCoordinator(cfg, &fakeStore{}, zaptest.NewLogger(t), nil)
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			c.run(ctx)
			if _, ok := c.status(); ok {
				t.Error("there is a status")
			}
		})
	})

	t.Run("a_wrong_configuration_is_an_error", func(t *testing.T) {
		if _, err := newCoordinator(ownership.Config{}, &fakeStore{}, zaptest.NewLogger(t), nil); err == nil {
			t.Error("there is a coordinator")
		}
	})
}

func TestBlockedBroker(t *testing.T) {
	claims := 0
	counting := &fakeStore{claim: func(all []ownership.Claim) ([]ownership.Event, error) {
		claims += len(all)
		return new(fakeStore).Claim(context.Background(), all)
	}}
	coordinated(t, "nothing_is_decided_until_it_is_unblocked", counting, func(t *testing.T, c *coordinator) {
		e := settle(t, c)
		c.setBlocked(e, true)
		synctest.Wait()
		before, claimed := e.broadcasts(), claims
		c.post(ownership.LeaseLost{Partition: 1, Epoch: 1})
		time.Sleep(time.Minute)
		synctest.Wait()
		if n := held(c); n != testPartitions || claims != claimed {
			t.Errorf("%d partitions are held while it is blocked, and %d claims were made", n, claims-claimed)
		}
		if n := e.broadcasts(); n != before {
			t.Errorf("%d messages were sent while it is blocked", n-before)
		}
		c.setBlocked(e, false)
		time.Sleep(time.Second)
		synctest.Wait()
		if claims == claimed {
			t.Error("the postponed event is forgotten: the lost partition is not claimed")
		}
	})

	coordinated(t, "messages_of_members_are_dropped", &fakeStore{}, func(t *testing.T, c *coordinator) {
		e := settle(t, c)
		c.setBlocked(e, true)
		c.post(ownership.MessageReceived{Message: ownership.Message{From: ownership.Member{Name: "two"}}})
		synctest.Wait()
		c.setBlocked(e, false)
		if status, _ := c.status(); len(status.Members) > 0 {
			t.Errorf("the members are %v", status.Members)
		}
	})

	coordinated(t, "of_another_session_changes_nothing", &fakeStore{}, func(t *testing.T, c *coordinator) {
		e := settle(t, c)
		c.setBlocked(new(fakeExecutor), true)
		before := e.broadcasts()
		time.Sleep(10 * time.Second)
		if e.broadcasts() == before {
			t.Error("nothing is sent")
		}
	})

	coordinated(t, "detach_unblocks", &fakeStore{}, func(t *testing.T, c *coordinator) {
		e := settle(t, c)
		c.setBlocked(e, true)
		c.detach(e)
		e = new(fakeExecutor)
		c.attach(e, 2)
		serveStarted(t, c, e)
	})
}

func TestPost(t *testing.T) {
	c, err := newCoordinator(ownership.Config{Name: "one", Partitions: 1, Heartbeat: 4, SuspectAfter: 8, Debounce: 1, Spacing: 1, MaxMembers: 1},
		&fakeStore{}, zaptest.NewLogger(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	for range maxInputs {
		c.post(ownership.Tick{})
	}
	c.post(ownership.MessageReceived{}, ownership.LeaseLost{Partition: 0, Epoch: 1}, ownership.MessageReceived{})
	inputs := c.inputs.Take()
	if len(inputs) != maxInputs+1 || inputs[maxInputs] != any(ownership.LeaseLost{Partition: 0, Epoch: 1}) {
		t.Errorf("%d inputs wait", len(inputs))
	}
	c.post(ownership.MessageReceived{})
	if n := c.inputs.Len(); n != 1 {
		t.Errorf("%d inputs wait after they were taken", n)
	}
}

func TestLeaseEnds(t *testing.T) {
	h := ownership.HandOver{Partition: 3, Epoch: 7, To: ownership.Member{Name: "two"}}

	attempts := 0
	store := &fakeStore{handOver: func(all []ownership.HandOver) ([]ownership.HandedOver, error) {
		if attempts++; attempts < 3 {
			return nil, errDown
		}
		return new(fakeStore).HandOver(context.Background(), all)
	}}
	coordinated(t, "are_tried_until_the_database_confirms", store, func(t *testing.T, c *coordinator) {
		begun := time.Now()
		var ended time.Duration
		c.endLease(h, func() { ended = time.Since(begun) })
		time.Sleep(10 * handOverRetryEvery)
		synctest.Wait()
		if ended != 2*handOverRetryEvery || attempts != 3 {
			t.Errorf("ended after %v and %d attempts", ended, attempts)
		}
	})

	coordinated(t, "stop_with_the_coordinator", &fakeStore{handOver: func([]ownership.HandOver) ([]ownership.HandedOver, error) {
		return nil, errDown
	}}, func(t *testing.T, c *coordinator) {
		c.endLease(h, func() { t.Error("the lease has ended") })
		time.Sleep(time.Second)
	})

	var sizes []int
	gate := &fakeStore{}
	coordinated(t, "that_wait_are_ended_together", gate, func(t *testing.T, c *coordinator) {
		block := make(chan struct{})
		gate.handOver = func(all []ownership.HandOver) ([]ownership.HandedOver, error) {
			<-block
			sizes = append(sizes, len(all))
			return new(fakeStore).HandOver(context.Background(), all)
		}
		done := 0
		for range 3 {
			c.endLease(h, func() { done++ })
			synctest.Wait()
		}
		close(block)
		synctest.Wait()
		if !slices.Equal(sizes, []int{1, 2}) || done != 3 {
			t.Errorf("ended %d in batches of %v", done, sizes)
		}
	})
}

func TestReleases(t *testing.T) {
	var released []partition.Lease
	fails := true
	store := &fakeStore{release: func(leases []partition.Lease) error {
		if fails {
			fails = false
			return errDown
		}
		released = append(released, leases...)
		return nil
	}}
	coordinated(t, "go_on_after_a_failure", store, func(t *testing.T, c *coordinator) {
		c.releases.Put(partition.Lease{Partition: 1, Epoch: 2})
		synctest.Wait()
		c.releases.Put(partition.Lease{Partition: 3, Epoch: 4})
		synctest.Wait()
		if !slices.Equal(released, []partition.Lease{{Partition: 3, Epoch: 4}}) {
			t.Errorf("released were %v", released)
		}
	})
}

func TestStoppedError(t *testing.T) {
	for reason, want := range map[ownership.StopReason]string{
		ownership.Superseded:       "a newer instance has this one's name: start 2",
		ownership.ParametersDiffer: "this instance and the cluster disagree: start 2",
	} {
		if got := (&StoppedError{reason, "start 2"}).Error(); got != want {
			t.Errorf("%v: %q", reason, got)
		}
	}
}
