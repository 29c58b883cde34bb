package coordinate

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap/zaptest"

	"github.com/glotpod/ident/cluster/ownership"
	"github.com/glotpod/ident/cluster/partition"
)

func TestCoordinator(t *testing.T) {
	coordinated(t, "claims_and_serves_all_partitions", &fakeStore{}, func(t *testing.T, c *Coordinator) {
		e := &fakeExecutor{of: c}
		c.Attach(e, 1)
		var served []int
		for range 20 {
			time.Sleep(100 * time.Millisecond)
			_, started := e.take()
			for _, l := range started {
				if l.Epoch != 1 {
					t.Errorf("serves %+v", l)
				}
				served = append(served, l.Partition)
				c.Post(ownership.Consuming{Partition: l.Partition, Epoch: l.Epoch})
			}
		}
		slices.Sort(served)
		if !slices.Equal(served, []int{0, 1, 2, 3}) || held(c) != 4 {
			t.Errorf("serves %v", served)
		}
		if e.broadcasts() < 2 {
			t.Error("no heartbeats are sent")
		}
		if since := c.SinceClaim(0); since <= 0 || since > 3*time.Second {
			t.Errorf("claimed %v ago", since)
		}
	})

	coordinated(t, "without_a_session_nothing_is_claimed", &fakeStore{claim: func([]ownership.Claim) ([]ownership.Event, error) {
		panic("claimed")
	}}, func(t *testing.T, c *Coordinator) {
		time.Sleep(time.Minute)
		if n := held(c); n > 0 {
			t.Errorf("%d partitions are held", n)
		}
	})

	coordinated(t, "detach_abandons_before_it_returns", &fakeStore{}, func(t *testing.T, c *Coordinator) {
		e := settle(t, c)
		e.take()
		c.Detach(e)
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

	coordinated(t, "detach_of_another_session_changes_nothing", &fakeStore{}, func(t *testing.T, c *Coordinator) {
		settle(t, c)
		c.Detach(new(fakeExecutor))
		if n := held(c); n != testPartitions {
			t.Errorf("%d partitions are held", n)
		}
	})

	coordinated(t, "a_lost_lease_is_claimed_again", &fakeStore{}, func(t *testing.T, c *Coordinator) {
		e := settle(t, c)
		c.Post(ownership.LeaseLost{Partition: 2, Epoch: 1})
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
	}}, func(t *testing.T, c *Coordinator) {
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
	}}, func(t *testing.T, c *Coordinator) {
		c.Attach(&fakeExecutor{of: c}, 1)
		time.Sleep(time.Minute)
		synctest.Wait()
		if surveys < 2 {
			t.Errorf("%d surveys", surveys)
		}
	})

	coordinated(t, "leaves_when_asked_to", &fakeStore{}, func(t *testing.T, c *Coordinator) {
		e := settle(t, c)
		e.take()
		c.Post(ownership.LeaveRequested{})
		for range 100 {
			time.Sleep(100 * time.Millisecond)
			commands, _ := e.take()
			for _, command := range commands {
				var p int
				if n, _ := fmt.Sscanf(command, "hand over %d", &p); n == 1 {
					c.EndLease(ownership.HandOver{Lease: partition.Lease{Partition: p, Epoch: 1}}, func() {})
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
			c, err := New(cfg, &fakeStore{}, zaptest.NewLogger(t), nil)
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			c.Run(ctx)
			if _, ok := c.Status(); ok {
				t.Error("there is a status")
			}
		})
	})

	t.Run("a_wrong_configuration_is_an_error", func(t *testing.T) {
		if _, err := New(ownership.Config{}, &fakeStore{}, zaptest.NewLogger(t), nil); err == nil {
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
	coordinated(t, "nothing_is_decided_until_it_is_unblocked", counting, func(t *testing.T, c *Coordinator) {
		e := settle(t, c)
		c.SetBlocked(e, true)
		synctest.Wait()
		before, claimed := e.broadcasts(), claims
		c.Post(ownership.LeaseLost{Partition: 1, Epoch: 1})
		time.Sleep(time.Minute)
		synctest.Wait()
		if n := held(c); n != testPartitions || claims != claimed {
			t.Errorf("%d partitions are held while it is blocked, and %d claims were made", n, claims-claimed)
		}
		if n := e.broadcasts(); n != before {
			t.Errorf("%d messages were sent while it is blocked", n-before)
		}
		c.SetBlocked(e, false)
		time.Sleep(time.Second)
		synctest.Wait()
		if claims == claimed {
			t.Error("the postponed event is forgotten: the lost partition is not claimed")
		}
	})

	coordinated(t, "messages_of_members_are_dropped", &fakeStore{}, func(t *testing.T, c *Coordinator) {
		e := settle(t, c)
		c.SetBlocked(e, true)
		c.Post(ownership.MessageReceived{Message: ownership.Message{From: ownership.Member{Name: "two"}}})
		synctest.Wait()
		c.SetBlocked(e, false)
		if status, _ := c.Status(); len(status.Members) > 0 {
			t.Errorf("the members are %v", status.Members)
		}
	})

	coordinated(t, "of_another_session_changes_nothing", &fakeStore{}, func(t *testing.T, c *Coordinator) {
		e := settle(t, c)
		c.SetBlocked(new(fakeExecutor), true)
		before := e.broadcasts()
		time.Sleep(10 * time.Second)
		if e.broadcasts() == before {
			t.Error("nothing is sent")
		}
	})

	coordinated(t, "detach_unblocks", &fakeStore{}, func(t *testing.T, c *Coordinator) {
		e := settle(t, c)
		c.SetBlocked(e, true)
		c.Detach(e)
		e = &fakeExecutor{of: c}
		c.Attach(e, 2)
		serveStarted(t, c, e)
	})
}

func TestPost(t *testing.T) {
	c, err := New(ownership.Config{Name: "one", Partitions: 1, Heartbeat: 4, Debounce: 1, Spacing: 1, MaxMembers: 1},
		&fakeStore{}, zaptest.NewLogger(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	for range maxInputs {
		c.Post(ownership.Tick{})
	}
	c.Post(ownership.MessageReceived{}, ownership.LeaseLost{Partition: 0, Epoch: 1}, ownership.MessageReceived{})
	inputs := c.inputs.Take()
	if len(inputs) != maxInputs+1 || inputs[maxInputs] != any(ownership.LeaseLost{Partition: 0, Epoch: 1}) {
		t.Errorf("%d inputs wait", len(inputs))
	}
	c.Post(ownership.MessageReceived{})
	if n := c.inputs.Len(); n != 1 {
		t.Errorf("%d inputs wait after they were taken", n)
	}
}
