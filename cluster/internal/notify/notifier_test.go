package notify

import (
	"errors"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/glotpod/ident/cluster/internal/publish"
	"github.com/glotpod/ident/cluster/partition"
)

func TestSend(t *testing.T) {
	notifying(t, "in_order_and_deleted_when_accepted", func(s *setup) {
		for id := range int64(10) {
			s.commit(id+1, 1+id%2)
		}
		s.wantPublished("1", "2", "3", "4", "5", "6", "7", "8", "9", "10")
		s.wantLeft()
		if m := s.broker.messages[6].Publishing; m.DeliveryMode != amqp.Persistent || m.MessageId != messageID(7, 1) || m.ContentType != "application/json" {
			s.Errorf("the message is %+v", m)
		}
		if sent, lag := valueOf(s.metrics.Sent), valueOf(s.metrics.Lag); sent != 10 || lag != 10 {
			s.Errorf("%v were sent, %v lags measured", sent, lag)
		}
	})

	notifying(t, "is_pending_until_confirmed", func(s *setup) {
		s.broker.manual = true
		s.commit(1, 1)
		s.commit(2, 1)
		s.wantLeft(1, 2)
		if b := s.notifier.Backlog(); b.Pending != 2 {
			s.Errorf("%d are pending", b.Pending)
		}
		s.broker.decide(0, nil)
		s.wantLeft(2)
		s.broker.decide(1, nil)
		s.wantLeft()
		if b := s.notifier.Backlog(); b != (Backlog{}) {
			s.Errorf("the backlog is %+v", b)
		}
	})

	notifying(t, "too_many_bytes_are_left_to_the_outbox", func(s *setup) {
		s.broker.manual = true
		large := notification(1, 1)
		large.Body = make([]byte, maxPendingBytes+1) // is sent alone
		s.commitThis(large)
		s.commit(2, 1)
		s.wantPublished(string(large.Body))
		s.broker.set(func() { s.broker.manual = false })
		s.broker.decide(0, nil)
		s.wantPublished("2")
		s.wantLeft()
	})

	notifying(t, "too_many_are_left_to_the_outbox", func(s *setup) {
		s.broker.manual = true
		const n = 3 * maxPending
		for id := range int64(n) {
			s.commit(id+1, 1)
		}
		synctest.Wait()
		if published := s.broker.take(); len(published) != maxPending {
			s.Errorf("%d were published", len(published))
		}
		if b := s.notifier.Backlog(); b.Pending != maxPending || b.Behind != 1 {
			s.Errorf("the backlog is %+v", b)
		}
		s.broker.set(func() { s.broker.manual = false })
		for i := range maxPending {
			s.broker.decide(i, nil)
		}
		s.commit(n+1, 1)
		s.wantLeft()
		for i, body := range s.broker.take() {
			if body != strconv.Itoa(maxPending+i+1) {
				s.Fatalf("%s was published as number %d", body, maxPending+i+1)
			}
		}
		s.commit(n+2, 1)
		s.wantPublished(strconv.Itoa(n + 2))
		if b := s.notifier.Backlog(); b != (Backlog{}) {
			s.Errorf("the backlog is %+v", b)
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

func TestRelease(t *testing.T) {
	lease := partition.Lease{Partition: partition.Of(1, partitions), Epoch: 1}
	other := int64(2)
	for partition.Of(other, partitions) == lease.Partition {
		other++
	}

	notifying(t, "waits_for_its_partition_alone", func(s *setup) {
		s.broker.manual = true
		s.commit(1, 1)
		s.commit(2, other)
		synctest.Wait()
		released := false
		s.running.Go(func() {
			if err := s.notifier.Release(s.Context(), lease); err != nil {
				s.Error(err)
			}
			released = true
		})
		if synctest.Wait(); released {
			s.Error("released while one is pending")
		}
		s.broker.decide(0, nil)
		if synctest.Wait(); !released {
			s.Error("not released when none is pending")
		}
		s.wantLeft(2)
		s.broker.decide(1, nil)
	})

	notifying(t, "waits_for_a_second_at_most", func(s *setup) {
		s.broker.manual = true
		s.commit(1, 1)
		s.wantPublished("1")
		begun := time.Now()
		if err := s.notifier.Release(s.Context(), lease); err != nil || time.Since(begun) != releaseTimeout {
			s.Errorf("after %v: %v", time.Since(begun), err)
		}
		s.wantLeft(1)
		s.broker.decide(0, publish.ErrUnconfirmed)
		synctest.Wait()
		if b := s.notifier.Backlog(); b != (Backlog{}) {
			s.Errorf("the backlog is %+v", b)
		}
	})

	notifying(t, "sends_nothing_afterwards", func(s *setup) {
		s.broker.refuse()
		s.commit(1, 1)
		s.wantPublished("1", "1") // and the first probe
		if err := s.notifier.Release(s.Context(), lease); err != nil {
			s.Error(err)
		}
		s.outbox.store(notification(2, 1))
		s.broker.set(func() { s.broker.decision = nil })
		time.Sleep(time.Minute)
		s.wantPublished()
		s.wantLeft(1, 2)
		s.takeOver(lease.Partition, 3)
		s.wantPublished("1", "2")
		s.notifier.Abandon(lease) // an older lease
		s.commit(3, 1)
		s.wantPublished("3")
		s.notifier.Abandon(partition.Lease{Partition: lease.Partition, Epoch: 3})
		s.commit(4, 1)
		s.wantPublished()
	})
}

func TestRefused(t *testing.T) {
	notifying(t, "holds_back_its_user_alone", func(s *setup) {
		s.broker.manual = true
		s.commit(1, 1)
		s.commit(2, 2)
		s.wantPublished("1", "2")
		s.broker.decide(0, &publish.RejectedError{Cause: amqp.ErrClosed})
		synctest.Wait()
		s.commit(3, 1)
		s.commit(4, 2)
		s.wantPublished("4")
		s.broker.decide(1, nil)
		s.broker.decide(2, nil)
		s.wantLeft(1, 3)
		if b := s.notifier.Backlog(); b.HeldBack != 1 || valueOf(s.metrics.Refused) != 1 || s.logs.Len() != 1 {
			s.Errorf("the backlog is %+v, and the log has %v", b, s.logs.All())
		}
		s.broker.set(func() { s.broker.manual = false })
		time.Sleep(2 * firstPause)
		s.wantPublished("1", "3")
		s.wantLeft()
	})

	for name, refusal := range map[string]error{"refused": publish.ErrRefused, "unconfirmed": publish.ErrUnconfirmed} {
		notifying(t, name+"_are_probed_with_one", func(s *setup) {
			s.broker.set(func() { s.broker.decision = func(string) error { return refusal } })
			for id := range int64(100) {
				s.commit(id+1, id+1)
			}
			synctest.Wait()
			s.broker.take()
			for id := range int64(1000) {
				s.commit(id+101, 1+id%200)
				if id%100 == 99 {
					synctest.Wait()
				}
			}
			time.Sleep(time.Minute)
			copies := 0
			if errors.Is(refusal, publish.ErrRefused) {
				copies = 100 // the first one of each user that is not held back yet
			}
			var published []string
			s.broker.set(func() { // at one moment: a probe is published either before or after it
				published, s.broker.published = s.broker.published, nil
				s.broker.decision = nil
			})
			if len(published) < copies || len(published) > copies+8 {
				s.Errorf("%d were published in a minute", len(published))
			}
			time.Sleep(longestPause + time.Second)
			s.wantLeft()
			last := make(map[int64]int)
			for _, body := range s.broker.take() {
				id, _ := strconv.Atoi(body)
				user := int64(id)
				if id > 100 {
					user = 1 + (user-101)%200
				}
				if id <= last[user] {
					s.Errorf("%d after %d", id, last[user])
				}
				last[user] = id
			}
			if b := s.notifier.Backlog(); b != (Backlog{}) {
				s.Errorf("the backlog is %+v", b)
			}
		})
	}

	notifying(t, "other_routing_keys_go_on", func(s *setup) {
		s.broker.set(func() {
			s.broker.decision = func(body string) error {
				if body == "gone" {
					return publish.ErrRefused
				}
				return nil
			}
		})
		gone := notification(1, 1)
		gone.RoutingKey, gone.Body = "notifications.user.delete", []byte("gone")
		s.commitThis(gone)
		synctest.Wait()
		s.broker.take()
		s.commit(2, 2)
		s.commit(3, 1) // after the one that is held back
		s.wantPublished("2")
		s.wantLeft(1, 3)
		s.broker.set(func() { s.broker.decision = nil })
		time.Sleep(2 * firstPause)
		s.wantPublished("gone", "3")
		s.wantLeft()
	})

	notifying(t, "later_ones_on_their_way_are_sent_again", func(s *setup) {
		s.broker.manual = true
		s.commit(1, 1)
		s.commit(2, 1)
		s.commit(3, 1)
		s.wantPublished("1", "2", "3")
		s.broker.set(func() { s.broker.manual = false })
		s.broker.decide(2, nil)
		s.wantLeft(1, 2, 3) // an earlier one may be refused
		s.broker.decide(0, publish.ErrRefused)
		s.broker.decide(1, nil)
		s.wantPublished("1", "2", "3") // 2 and 3 have overtaken 1, so they must follow it again
		s.wantLeft()
	})

	notifying(t, "what_no_key_opens_holds_back_later_ones", func(s *setup) {
		sealed := notification(1, 1)
		sealed.Body = nil
		s.outbox.store(sealed)
		s.outbox.store(notification(2, 1))
		s.outbox.store(notification(3, 2))
		for p := range partitions {
			s.takeOver(p, 2)
		}
		s.commit(4, 1)
		s.commit(5, 2)
		s.wantPublished("3", "5")
		time.Sleep(time.Minute)
		s.wantPublished()
		s.wantLeft(1, 2, 4)
		s.outbox.remove(1) // an operator has deleted it
		time.Sleep(2 * longestPause)
		s.wantPublished("2", "4")
		s.wantLeft()
	})

	notifying(t, "a_deleted_one_does_not_stop_its_key", func(s *setup) {
		s.broker.refuse()
		s.commit(1, 1)
		s.commit(2, 2)
		synctest.Wait()
		s.outbox.remove(1, 2)
		s.broker.set(func() { s.broker.decision = nil })
		time.Sleep(longestPause)
		s.commit(3, 1)
		time.Sleep(longestPause)
		s.wantLeft()
		if b := s.notifier.Backlog(); b != (Backlog{}) {
			s.Errorf("the backlog is %+v", b)
		}
	})
}
