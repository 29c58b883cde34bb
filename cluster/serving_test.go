package cluster

import (
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/cluster/internal/metrics"
	"github.com/glotpod/ident/cluster/internal/topology"
	"github.com/glotpod/ident/cluster/ownership"
	"github.com/glotpod/ident/cluster/partition"
)

func TestStartServing(t *testing.T) {
	lease := partition.Lease{Partition: 2, Epoch: 5}
	consuming, lost := ownership.Event(ownership.Consuming{Partition: 2, Epoch: 5}), ownership.Event(ownership.LeaseLost{Partition: 2, Epoch: 5})

	bubble(t, "consumes_the_queue_and_reports_it", &fakeStore{}, func(t *testing.T, s *testSession) {
		s.session.StartServing(ownership.Consume{Lease: lease})
		synctest.Wait()
		if c := s.channel(); c.consumed != PartitionQueue(2) || c.exclusive {
			t.Errorf("it consumes %q, exclusively: %t", c.consumed, c.exclusive)
		}
		if posted := s.posted(); !slices.Equal(posted, []ownership.Event{consuming}) {
			t.Errorf("the core got %v", posted)
		}
		if s.session.slots.accepting(2) == nil || s.session.slots.accepting(1) != nil {
			t.Error("it does not accept requests for the one partition alone")
		}
	})

	bubble(t, "consumes_a_classic_queue_exclusively", &fakeStore{}, func(t *testing.T, s *testSession) {
		s.session.o.QueueType = topology.Classic
		s.session.StartServing(ownership.Consume{Lease: lease})
		synctest.Wait()
		if !s.channel().exclusive {
			t.Error("another consumer could get requests as well")
		}
	})

	notHeld := &fakeStore{takeOver: func([]partition.Lease) ([]actor.TakenOver, error) { return nil, nil }}
	bubble(t, "reports_a_lease_that_is_not_held", notHeld, func(t *testing.T, s *testSession) {
		s.session.StartServing(ownership.Consume{Lease: lease})
		synctest.Wait()
		if posted := s.posted(); !slices.Equal(posted, []ownership.Event{lost}) {
			t.Errorf("the core got %v", posted)
		}
		if s.session.slots.accepting(2) != nil || s.channel().isConsumed() {
			t.Error("it serves the partition")
		}
		if s.session.StartServing(ownership.Consume{Lease: lease}); s.opened() != 1 {
			t.Errorf("%d channels were opened", s.opened())
		}
		if synctest.Wait(); s.opened() != 1 {
			t.Error("its channel is not used again")
		}
	})

	for name, code := range map[string]int{"a_missing_queue_is_declared_and_tried_again": amqp.NotFound, "another_consumer_is_waited_for": amqp.AccessRefused} {
		bubble(t, name, &fakeStore{}, func(t *testing.T, s *testSession) {
			failures := 3
			s.setUp = func(c *fakeChannel) {
				if failures > 0 {
					failures--
					c.consumeErr = []error{&amqp.Error{Code: code}}
				}
			}
			begun := time.Now()
			s.session.StartServing(ownership.Consume{Lease: lease})
			time.Sleep(consumeFor)
			synctest.Wait()
			if posted := s.posted(); !slices.Equal(posted, []ownership.Event{consuming}) {
				t.Errorf("the core got %v after %v", posted, time.Since(begun))
			}
			if s.opened() != 4 {
				t.Errorf("%d channels were opened", s.opened())
			}
		})
	}

	bubble(t, "gives_up_after_a_while", &fakeStore{}, func(t *testing.T, s *testSession) {
		s.setUp = func(c *fakeChannel) { c.consumeErr = []error{&amqp.Error{Code: amqp.NotFound}} }
		s.session.StartServing(ownership.Consume{Lease: lease})
		time.Sleep(consumeFor - consumeEvery)
		if posted := s.posted(); len(posted) > 0 {
			t.Errorf("the core got %v too early", posted)
		}
		time.Sleep(3 * consumeEvery)
		if posted := s.posted(); !slices.Equal(posted, []ownership.Event{lost}) {
			t.Errorf("the core got %v", posted)
		}
	})

	bubble(t, "any_other_error_is_final", &fakeStore{}, func(t *testing.T, s *testSession) {
		s.setUp = func(c *fakeChannel) { c.consumeErr = []error{errors.New("the connection is lost")} }
		s.session.StartServing(ownership.Consume{Lease: lease})
		synctest.Wait()
		if posted := s.posted(); !slices.Equal(posted, []ownership.Event{lost}) || s.opened() != 1 {
			t.Errorf("the core got %v after %d attempts", posted, s.opened())
		}
	})

	bubble(t, "abandoned_in_the_meantime", &fakeStore{}, func(t *testing.T, s *testSession) {
		s.setUp = func(c *fakeChannel) { c.consumeErr = []error{&amqp.Error{Code: amqp.NotFound}} }
		s.session.StartServing(ownership.Consume{Lease: lease})
		synctest.Wait()
		s.session.Abandon(2)
		time.Sleep(consumeFor)
		if posted := s.posted(); len(posted) > 0 || s.session.slots.accepting(2) != nil {
			t.Errorf("the core got %v", posted)
		}
	})

	bubble(t, "waits_for_the_reads_of_a_deposed_holder", &fakeStore{}, func(t *testing.T, s *testSession) {
		s.session.StartServing(ownership.Consume{Lease: lease, WriteFrom: time.Now().Add(time.Second)})
		time.Sleep(time.Second - 1)
		if synctest.Wait(); len(s.posted()) > 0 || s.session.slots.accepting(2) != nil {
			t.Error("it serves the partition too early")
		}
		if s.channel().isConsumed() {
			t.Error("deliveries come that nobody takes")
		}
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		if posted := s.posted(); !slices.Equal(posted, []ownership.Event{consuming}) || s.session.slots.accepting(2) == nil {
			t.Errorf("the core got %v", posted)
		}
	})

	bubble(t, "abandoned_while_it_waits", &fakeStore{}, func(t *testing.T, s *testSession) {
		s.session.StartServing(ownership.Consume{Lease: lease, WriteFrom: time.Now().Add(time.Second)})
		synctest.Wait()
		s.session.Abandon(2)
		synctest.Wait()
		if s.session.slots.accepting(2) != nil || s.channel().isConsumed() || len(s.posted()) > 0 {
			t.Error("it serves the partition")
		}
	})

	bubble(t, "a_consumer_that_the_broker_cancels_loses_the_lease", &fakeStore{}, func(t *testing.T, s *testSession) {
		s.serve(2)
		s.channel().Cancel("", false)
		time.Sleep(time.Second) // which EndCause takes a part of
		if posted := s.posted(); !slices.Equal(posted, []ownership.Event{ownership.LeaseLost{Partition: 2, Epoch: 1}}) {
			t.Errorf("the core got %v", posted)
		}
	})
}

func TestHandOver(t *testing.T) {
	command := ownership.HandOver{Lease: partition.Lease{Partition: 2, Epoch: 1}, To: ownership.Member{Name: "two"}}
	user := userOf(2, 0)

	bubble(t, "ends_the_lease_after_the_last_request", &fakeStore{}, func(t *testing.T, s *testSession) {
		release := make(chan struct{})
		s.store.commit = func(partition.Lease, []*actor.Write) ([]actor.Outcome, error) {
			<-release
			return []actor.Outcome{{UserID: user, Applied: true}}, nil
		}
		s.serve(2)
		c := s.channel()
		c.deliveries <- forwarded(patch(1, user))
		c.deliveries <- forwarded(patch(2, user))
		synctest.Wait()
		s.session.HandOver(command)
		synctest.Wait()
		if s.session.slots.accepting(2) != nil {
			t.Error("it accepts requests from the router")
		}
		if ends := s.leaseEnds(); len(ends) > 0 {
			t.Fatal("the lease ends while a request is in flight")
		}
		close(release)
		synctest.Wait()
		ends := s.leaseEnds()
		if len(ends) != 1 || ends[0].handOver != command {
			t.Fatalf("leases that are ended: %v", ends)
		}
		if sent, acked := c.sent(), c.acks(); len(sent) != 2 || len(acked) != 1 || acked[0] != 2 {
			t.Errorf("%d replies were sent, %v acknowledged", len(sent), acked)
		}
		if c.IsClosed() {
			t.Error("the channel is not kept")
		}
		ends[0].done()
		if posted := s.posted(); len(posted) > 0 {
			t.Errorf("the core got %v", posted)
		}
	})

	bubble(t, "waits_for_pending_notifications", &fakeStore{}, func(t *testing.T, s *testSession) {
		s.serve(2)
		s.session.notifier.Send(actor.PendingNotification{Position: 1, UserID: user, Lease: command.Lease, Body: []byte("{}")})
		synctest.Wait()
		s.session.HandOver(command)
		synctest.Wait()
		if ends := s.leaseEnds(); len(ends) > 0 {
			t.Error("the lease ends while a notification is pending")
		}
		s.notifications.accept(0)
		synctest.Wait()
		if ends := s.leaseEnds(); len(ends) != 1 {
			t.Error("the lease does not end")
		}
	})

	for name, other := range map[string]ownership.HandOver{
		"of_an_older_lease_is_ignored":    {Lease: partition.Lease{Partition: 2, Epoch: 0}},
		"of_another_partition_is_ignored": {Lease: partition.Lease{Partition: 1, Epoch: 1}},
	} {
		bubble(t, name, &fakeStore{}, func(t *testing.T, s *testSession) {
			s.serve(2)
			s.session.HandOver(other)
			synctest.Wait()
			if ends := s.leaseEnds(); len(ends) > 0 || s.session.slots.accepting(2) == nil {
				t.Errorf("leases that are ended: %v", ends)
			}
		})
	}

	bubble(t, "after_abandon_is_ignored", &fakeStore{}, func(t *testing.T, s *testSession) {
		s.serve(2)
		s.session.Abandon(2)
		s.session.HandOver(command)
		synctest.Wait()
		if ends := s.leaseEnds(); len(ends) > 0 {
			t.Errorf("leases that are ended: %v", ends)
		}
	})

	bubble(t, "that_cannot_cancel_loses_the_lease", &fakeStore{}, func(t *testing.T, s *testSession) {
		s.serve(2)
		s.channel().cancelErr = amqp.ErrClosed
		s.session.HandOver(command)
		synctest.Wait()
		if posted := s.posted(); !slices.Equal(posted, []ownership.Event{ownership.LeaseLost{Partition: 2, Epoch: 1}}) {
			t.Errorf("the core got %v", posted)
		}
	})

	bubble(t, "is_broken_off_by_abandon", &fakeStore{}, func(t *testing.T, s *testSession) {
		release := make(chan struct{})
		defer close(release)
		s.store.commit = func(partition.Lease, []*actor.Write) ([]actor.Outcome, error) {
			<-release
			return []actor.Outcome{{UserID: user, Applied: true}}, nil
		}
		s.serve(2)
		s.channel().deliveries <- forwarded(patch(1, user))
		synctest.Wait()
		s.session.HandOver(command)
		synctest.Wait()
		s.session.Abandon(2)
		synctest.Wait()
		if ends := s.leaseEnds(); len(ends) > 0 {
			t.Errorf("leases that are ended: %v", ends)
		}
	})
}

func TestAbandon(t *testing.T) {
	user := userOf(2, 0)

	bubble(t, "closes_the_channel_without_replies", &fakeStore{}, func(t *testing.T, s *testSession) {
		release := make(chan struct{})
		s.store.commit = func(partition.Lease, []*actor.Write) ([]actor.Outcome, error) {
			<-release
			return nil, errDown
		}
		p := s.serve(2)
		c := s.channel()
		c.deliveries <- forwarded(patch(1, user))
		synctest.Wait()
		s.session.Abandon(2)
		if s.session.slots.accepting(2) != nil || p.ctx.Err() == nil {
			t.Error("it serves the partition")
		}
		synctest.Wait() // the channel is closed
		close(release)
		synctest.Wait()
		if !c.IsClosed() || len(c.sent())+len(c.acks()) > 0 {
			t.Errorf("%d replies were sent, %d requests acknowledged", len(c.sent()), len(c.acks()))
		}
		if n := metrics.Count(s.session.metrics.Lost); n != 1 {
			t.Errorf("%d partitions count as lost", n)
		}
		if n := valueOf(s.session.metrics.Requests.WithLabelValues("patch", metrics.WayForwarded, metrics.OutcomeLeft)); n != 1 {
			t.Errorf("%v requests count as left", n)
		}
	})

	bubble(t, "reads_nothing_from_memory_afterwards", &fakeStore{}, func(t *testing.T, s *testSession) {
		p := s.serve(2)
		s.session.Abandon(2)
		if err := p.users.Get(user, func([]byte, error) {}); !isStopped(err) {
			t.Errorf("a read returns %v", err)
		}
	})

	bubble(t, "nothing_is_abandoned_twice", &fakeStore{}, func(t *testing.T, s *testSession) {
		s.serve(2)
		s.session.Abandon(2)
		s.session.Abandon(2)
		s.session.Abandon(1)
		synctest.Wait()
		if n := metrics.Count(s.session.metrics.Lost); n != 1 {
			t.Errorf("%d partitions count as lost", n)
		}
	})

	bubble(t, "the_partition_can_be_served_again", &fakeStore{}, func(t *testing.T, s *testSession) {
		s.serve(2)
		s.session.Abandon(2)
		s.session.StartServing(ownership.Consume{Lease: partition.Lease{Partition: 2, Epoch: 3}})
		synctest.Wait()
		if p := s.session.slots.accepting(2); p == nil || p.lease.Epoch != 3 {
			t.Error("it is not served again")
		}
	})
}

// TestReadLeases: all read leases are renewed at once, and a lease that has ended is reported.
func TestReadLeases(t *testing.T) {
	asked := 0
	store := &fakeStore{ended: func(leases []partition.Lease) (ended []partition.Lease) {
		asked++
		for _, l := range leases {
			if l.Partition == 3 {
				ended = append(ended, l)
			}
		}
		return ended
	}}
	bubble(t, "are_renewed_together", store, func(t *testing.T, s *testSession) {
		one, two, three := s.serve(1), s.serve(2), s.serve(3)
		if one.reads.Stands() {
			t.Error("memory may be read before the database was asked")
		}
		synctest.Wait()
		if asked != 1 || !one.reads.Stands() || !two.reads.Stands() || three.reads.Stands() {
			t.Errorf("the database was asked %d times", asked)
		}
		if posted := s.posted(); !slices.Equal(posted, []ownership.Event{ownership.LeaseLost{Partition: 3, Epoch: 1}}) {
			t.Errorf("the core got %v", posted)
		}
	})

	bubble(t, "end_with_a_hand_over", store, func(t *testing.T, s *testSession) {
		p := s.serve(3)
		p.handingOver.Store(true)
		p.reads.Stands()
		if synctest.Wait(); len(s.posted()) > 0 {
			t.Error("the core got that a lease is lost")
		}
	})
}

func TestSlot(t *testing.T) {
	t.Run("works_in_order_one_at_a_time", func(t *testing.T) {
		var x partitionSlot
		var running sync.WaitGroup
		var done []int
		for i := range 100 {
			x.enqueue(&running, func() { done = append(done, i) }) // a race, if two run at a time
		}
		running.Wait()
		if len(done) != 100 || !slices.IsSorted(done) {
			t.Errorf("done was %v", done)
		}
	})

	t.Run("work_may_enqueue_more", func(t *testing.T) {
		var x partitionSlot
		var running sync.WaitGroup
		var done []string
		x.enqueue(&running, func() {
			x.enqueue(&running, func() { done = append(done, "second") })
			done = append(done, "first")
		})
		running.Wait()
		x.enqueue(&running, func() { done = append(done, "third") })
		running.Wait()
		if strings.Join(done, " ") != "first second third" {
			t.Errorf("done was %v", done)
		}
	})

	t.Run("only_the_latest_lease_is_cancelled", func(t *testing.T) {
		var x partitionSlot
		x.cancelLease() // there is none
		first, second := 0, 0
		x.setCancel(func() { first++ })
		x.setCancel(func() { second++ })
		if x.cancelLease(); first != 0 || second != 1 {
			t.Errorf("cancelled %d and %d times", first, second)
		}
	})
}
