package notify

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/glotpod/ident/cluster/partition"
)

func TestOverdue(t *testing.T) {
	notifying(t, "is_sent_and_counted", func(s *setup) {
		s.outbox.store(notification(1, 1), time.Now())
		time.Sleep(overdueAge - time.Second)
		s.wantPublished() // it may be on its way
		time.Sleep(overdueEvery)
		s.wantPublished("1")
		s.wantLeft()
		if n := valueOf(s.metrics.Overdue); n != 1 {
			s.Errorf("%v are overdue", n)
		}
		time.Sleep(overdueEvery)
		if n := valueOf(s.metrics.Overdue); n != 0 {
			s.Errorf("%v are overdue after they were sent", n)
		}
	})

	notifying(t, "pending_ones_are_not_sent_twice", func(s *setup) {
		s.channel.manual = true
		s.commit(1, 1)
		s.wantPublished("1")
		time.Sleep(time.Minute)
		s.wantPublished()
		s.channel.decide(0, true)
	})

	notifying(t, "an_outage_of_the_database_is_waited_for", func(s *setup) {
		s.outbox.store(notification(1, 1), time.Time{})
		s.outbox.mu.Lock()
		s.outbox.err = errDown
		s.outbox.mu.Unlock()
		time.Sleep(time.Minute)
		s.wantPublished()
		s.outbox.mu.Lock()
		s.outbox.err = nil
		s.outbox.mu.Unlock()
		time.Sleep(overdueEvery)
		s.wantPublished("1")
	})
}

func TestCatchUp(t *testing.T) {
	lease := partition.Lease{Partition: partition.Of(1, partitions), Epoch: 3}

	notifying(t, "sends_all_pages_in_order", func(s *setup) {
		const n = 2*outboxPage + 7
		for id := range int64(n) {
			s.outbox.store(notification(id+1, 1), time.Time{})
		}
		if err := s.notifier.CatchUp(s.Context(), lease); err != nil {
			s.Fatal(err)
		}
		published := s.channel.take()
		if len(published) != n || !slices.IsSortedFunc(published, func(a, b string) int { return len(a) - len(b) }) || published[n-1] != strconv.Itoa(n) {
			s.Errorf("%d were published", len(published))
		}
		s.wantLeft()
	})

	notifying(t, "of_a_lost_lease_fails", func(s *setup) {
		s.outbox.store(notification(1, 1), time.Time{})
		s.outbox.notHeld = map[int]bool{lease.Partition: true}
		if err := s.notifier.CatchUp(s.Context(), lease); !errors.Is(err, errLeaseLost) {
			s.Errorf("the error is %v", err)
		}
		s.wantPublished()
	})

	notifying(t, "rows_without_a_partition_are_the_users", func(s *setup) {
		x, other := notification(1, 1), notification(2, 2)
		for partition.Of(other.UserID, partitions) == lease.Partition {
			other.UserID++
		}
		x.Partition, other.Partition = -1, -1
		s.outbox.store(x, time.Time{})
		s.outbox.store(other, time.Time{})
		if err := s.notifier.CatchUp(s.Context(), lease); err != nil {
			s.Fatal(err)
		}
		s.wantPublished("1")
	})

	notifying(t, "gives_up_on_a_full_queue", func(s *setup) {
		s.channel.refuses = func(string) bool { return true }
		users := int64(0)
		for id := int64(1); id <= 3*outboxPage; id++ {
			user := id
			for users++; partition.Of(users, partitions) != lease.Partition; users++ {
			}
			user = users
			s.outbox.store(notification(id, user), time.Time{})
		}
		if err := s.notifier.CatchUp(s.Context(), lease); err != nil {
			s.Fatal(err)
		}
		if published := s.channel.take(); len(published) > outboxPage {
			s.Errorf("%d were published", len(published))
		}
		if _, heldBack := s.notifier.Backlog(); heldBack != 3*outboxPage {
			s.Errorf("%d users are held back", heldBack)
		}
	})

	notifying(t, "waits_for_what_is_pending_of_an_earlier_lease", func(s *setup) {
		s.channel.manual = true
		s.commit(1, 1)
		s.wantPublished("1")
		var err error = errDown
		s.running.Go(func() { err = s.notifier.CatchUp(s.Context(), lease) })
		if synctest.Wait(); !errors.Is(err, errDown) {
			s.Error("it does not wait")
		}
		s.channel.decide(0, true)
		if synctest.Wait(); err != nil {
			s.Error(err)
		}
		s.wantPublished()
	})

	notifying(t, "fails_with_the_database", func(s *setup) {
		s.outbox.err = errDown
		if err := s.notifier.CatchUp(s.Context(), lease); !errors.Is(err, errDown) {
			s.Errorf("the error is %v", err)
		}
	})

	notifying(t, "fails_with_the_channel", func(s *setup) {
		s.outbox.store(notification(1, 1), time.Time{})
		s.channel.set(func() { s.channel.err = amqp.ErrClosed })
		if err := s.notifier.CatchUp(s.Context(), lease); !errors.Is(err, amqp.ErrClosed) {
			s.Errorf("the error is %v", err)
		}
		s.wantLeft(1)
	})

	notifying(t, "ends_with_its_context", func(s *setup) {
		ctx, cancel := context.WithCancel(s.Context())
		cancel()
		if err := s.notifier.CatchUp(ctx, lease); !errors.Is(err, context.Canceled) {
			s.Errorf("the error is %v", err)
		}
	})

	notifying(t, "ends_with_the_notifier", func(s *setup) {
		s.cancel()
		s.running.Wait()
		if err := s.notifier.CatchUp(s.Context(), lease); !errors.Is(err, amqp.ErrClosed) {
			s.Errorf("the error is %v", err)
		}
	})
}

func TestLostChannel(t *testing.T) {
	notifying(t, "leaves_the_rest_to_the_outbox", func(s *setup) {
		s.channel.manual = true
		s.commit(1, 1)
		s.commit(2, 2)
		synctest.Wait()
		s.channel.set(func() { s.channel.closed = true })
		s.channel.decide(0, false) // amqp091-go says so of all when the channel is lost
		synctest.Wait()
		s.wantLeft(1, 2)
		if _, users := s.notifier.Backlog(); users != 0 || valueOf(s.metrics.Refused) != 0 {
			s.Errorf("%d users are held back", users)
		}
	})

	notifying(t, "ends_run", func(s *setup) {
		s.channel.set(func() { s.channel.err = amqp.ErrClosed })
		s.commit(1, 1)
		s.running.Wait()
		s.wantLeft(1)
	})
}
