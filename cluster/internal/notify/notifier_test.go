package notify

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/glotpod/ident/cluster/partition"
)

func TestSend(t *testing.T) {
	notifying(t, "in_order_and_deleted_when_accepted", func(s *setup) {
		for id := range int64(10) {
			s.commit(id+1, 1+id%2)
		}
		s.wantPublished("1", "2", "3", "4", "5", "6", "7", "8", "9", "10")
		s.wantLeft()
		if m := s.channel.messages[6]; m.DeliveryMode != amqp.Persistent || m.MessageId != notification(7, 1).MessageID.String() || m.ContentType != "application/json" {
			s.Errorf("the message is %+v", m)
		}
		if sent, lag := valueOf(s.metrics.Sent), valueOf(s.metrics.Lag); sent != 10 || lag != 10 {
			s.Errorf("%v were sent, %v lags measured", sent, lag)
		}
	})

	notifying(t, "is_pending_until_confirmed", func(s *setup) {
		s.channel.manual = true
		s.commit(1, 1)
		s.commit(2, 1)
		s.wantLeft(1, 2)
		if pending, _ := s.notifier.Backlog(); pending != 2 {
			s.Errorf("%d are pending", pending)
		}
		s.channel.decide(0, true)
		s.wantLeft(2)
		s.channel.decide(1, true)
		s.wantLeft()
		if pending, _ := s.notifier.Backlog(); pending != 0 {
			s.Errorf("%d are pending", pending)
		}
	})

	notifying(t, "blocks_while_too_many_bytes_are_pending", func(s *setup) {
		s.channel.manual = true
		large := notification(1, 1)
		large.Body = make([]byte, maxPendingBytes+1) // is sent alone
		s.notifier.Send(large)
		sent := false
		s.running.Go(func() { s.notifier.Send(notification(2, 1)); sent = true })
		if synctest.Wait(); sent {
			s.Error("a second one was sent")
		}
		s.channel.decide(0, true)
		if synctest.Wait(); !sent {
			s.Error("the second one waits when the first one is confirmed")
		}
		s.channel.decide(1, true)
	})

	notifying(t, "blocks_while_too_many_are_pending", func(s *setup) {
		s.channel.manual = true
		count := 0
		s.running.Go(func() {
			for id := range int64(4 * maxPending) {
				s.notifier.Send(notification(id+1, 1))
				count++
			}
		})
		if synctest.Wait(); count < maxPending || count > 3*maxPending {
			s.Errorf("%d were sent without a confirmation", count)
		}
	})

	notifying(t, "returns_after_the_end", func(s *setup) {
		s.cancel()
		s.running.Wait()
		for id := range int64(2 * maxPending) {
			s.commit(id+1, 1)
		}
		if n := len(s.outbox.left()); n != 2*maxPending {
			s.Errorf("%d are left in the outbox", n)
		}
	})
}

func TestFlushAndFinish(t *testing.T) {
	other := int64(2)
	for partition.Of(other, partitions) == partition.Of(1, partitions) {
		other++
	}
	number := partition.Of(1, partitions)

	notifying(t, "flush_waits_for_its_partition_alone", func(s *setup) {
		s.channel.manual = true
		s.commit(1, 1)
		s.commit(2, other)
		synctest.Wait()
		var flushed atomic.Int64
		for range 2 {
			s.running.Go(func() {
				if err := s.notifier.Flush(s.Context(), number); err != nil {
					s.Error(err)
				}
				flushed.Add(1)
			})
			synctest.Wait()
		}
		if flushed.Load() > 0 {
			s.Error("flushed while one is pending")
		}
		s.channel.decide(0, true)
		if synctest.Wait(); flushed.Load() != 2 {
			s.Errorf("%d of 2 are flushed", flushed.Load())
		}
		ctx, cancel := context.WithTimeout(s.Context(), time.Second)
		defer cancel()
		if err := s.notifier.Flush(ctx, partition.Of(other, partitions)); !errors.Is(err, context.DeadlineExceeded) {
			s.Errorf("the error is %v", err)
		}
	})

	notifying(t, "flush_ends_with_the_notifier", func(s *setup) {
		s.channel.manual = true
		s.commit(1, 1)
		synctest.Wait()
		s.channel.set(func() { s.channel.pending = nil })
		s.cancel()
		if err := s.notifier.Flush(s.Context(), number); err != nil && !errors.Is(err, amqp.ErrClosed) {
			s.Errorf("the error is %v", err)
		}
	})

	notifying(t, "finish_waits_for_all", func(s *setup) {
		s.channel.manual = true
		s.commit(1, 1)
		s.commit(2, other)
		finished := false
		s.running.Go(func() { s.notifier.Finish(s.Context()); finished = true })
		synctest.Wait()
		s.channel.decide(0, true)
		if synctest.Wait(); finished {
			s.Error("finished while one is pending")
		}
		s.channel.decide(1, true)
		if synctest.Wait(); !finished {
			s.Error("not finished when all are confirmed")
		}
		s.wantLeft()
	})
}

func TestRefused(t *testing.T) {
	notifying(t, "holds_back_its_user_alone", func(s *setup) {
		s.channel.refuses = func(body string) bool { return body == "1" || body == "3" }
		s.commit(1, 1)
		synctest.Wait()
		s.commit(2, 2)
		s.commit(3, 1)
		s.wantPublished("1", "2")
		s.wantLeft(1, 3)
		if _, users := s.notifier.Backlog(); users != 1 || valueOf(s.metrics.Refused) != 1 || s.logs.Len() != 1 {
			s.Errorf("%d users are held back, and the log has %v", users, s.logs.All())
		}
	})

	notifying(t, "is_sent_again_in_order_until_accepted", func(s *setup) {
		s.channel.refuses = func(string) bool { return true }
		for id := range int64(3) {
			s.commit(id+1, 1)
			synctest.Wait()
		}
		s.wantPublished("1")
		time.Sleep(retryEvery)
		s.wantPublished("1") // the others follow only after it
		s.channel.set(func() { s.channel.refuses = nil })
		time.Sleep(2 * retryEvery)
		s.wantPublished("1", "2", "3")
		s.wantLeft()
		time.Sleep(2 * retryEvery)
		if _, users := s.notifier.Backlog(); users != 0 {
			s.Errorf("%d users are held back", users)
		}
		s.commit(4, 1)
		s.wantPublished("4")
	})

	notifying(t, "later_ones_on_their_way_are_sent_again", func(s *setup) {
		s.channel.manual = true
		s.commit(1, 1)
		s.commit(2, 1)
		s.wantPublished("1", "2")
		s.channel.set(func() { s.channel.manual = false })
		s.channel.decide(0, false)
		s.channel.decide(1, true)
		s.wantLeft(1, 2) // 2 has overtaken 1, so it must follow it again
		time.Sleep(retryEvery)
		s.wantPublished("1", "2")
		s.wantLeft()
	})

	notifying(t, "what_no_key_opens_holds_back_later_ones", func(s *setup) {
		sealed := notification(1, 1)
		sealed.Body = nil
		s.outbox.store(sealed, time.Time{})
		s.outbox.store(notification(2, 1), time.Time{})
		s.outbox.store(notification(3, 2), time.Time{})
		if err := s.notifier.CatchUp(s.Context(), partition.Lease{Partition: sealed.Partition, Epoch: 1}); err != nil {
			s.Fatal(err)
		}
		time.Sleep(overdueEvery + time.Second)
		s.wantPublished("3")
		s.wantLeft(1, 2)
		s.outbox.ConfirmNotifications(1) // an operator has deleted it
		time.Sleep(2 * longestHeldBackPause)
		s.wantPublished("2")
		s.wantLeft()
	})

	notifying(t, "of_a_partition_that_has_moved_is_left", func(s *setup) {
		s.channel.refuses = func(string) bool { return true }
		s.commit(1, 1)
		s.wantPublished("1")
		s.disowned.Store(partition.Of(1, partitions), true)
		time.Sleep(time.Minute)
		s.wantPublished()
		s.wantLeft(1)
	})
}
