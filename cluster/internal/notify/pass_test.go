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

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/cluster/internal/publish"
	"github.com/glotpod/ident/cluster/partition"
)

func TestSurvey(t *testing.T) {
	notifying(t, "counts_users_and_partitions", func(s *setup) {
		measure := func(what string, overdue int, oldest time.Duration) {
			s.Helper()
			time.Sleep(surveyEvery)
			synctest.Wait()
			if n, age := valueOf(s.metrics.Overdue), time.Duration(valueOf(s.metrics.Oldest)*1e9); n != float64(overdue) || (age-oldest).Abs() > surveyEvery {
				s.Errorf("%s: %v are overdue, the oldest one for %v", what, n, age)
			}
		}
		commit := func(id, user int64) {
			x := notification(id, user)
			x.CommittedAt = time.Now()
			s.commitThis(x)
		}
		s.broker.manual = true
		commit(1, 1)
		commit(2, 1)
		measure("at once", 0, 0)
		time.Sleep(overdueAge)
		measure("pending", 1, overdueAge+2*surveyEvery)
		s.broker.decide(0, &publish.RejectedError{Cause: amqp.ErrClosed})
		measure("held back", 1, overdueAge+3*surveyEvery)
		s.broker.set(func() { s.broker.manual = false })
		s.broker.decide(1, nil)
		time.Sleep(longestPause)
		measure("confirmed", 0, 0)
		s.outbox.set(func() { s.outbox.err = errDown })
		s.notifier.Missed(s.leases[0])
		time.Sleep(overdueAge)
		measure("left to the log", 1, overdueAge+surveyEvery)
		s.outbox.set(func() { s.outbox.err = nil })
		time.Sleep(retryEvery)
		measure("in the end", 0, 0)
	})

	notifying(t, "a_pass_gets_younger_as_it_goes_on", func(s *setup) {
		const atOnce, after = maxPending / 2, 2 * time.Hour
		s.broker.manual = true
		old, young := time.Now(), time.Now().Add(after)
		for id := range int64(3 * atOnce) {
			x := notification(id+1, 1)
			if x.CommittedAt = old; id >= atOnce {
				x.CommittedAt = young
			}
			s.outbox.store(x)
		}
		s.takeOver(partition.Of(1, partitions), 2)
		time.Sleep(after)
		for i := range atOnce {
			s.broker.decide(i, nil)
		}
		time.Sleep(2 * surveyEvery)
		synctest.Wait()
		if age := time.Duration(valueOf(s.metrics.Oldest) * 1e9); s.notifier.Backlog().Behind != 1 || age > time.Minute {
			s.Errorf("the oldest one was committed %v ago, and the backlog is %+v", age, s.notifier.Backlog())
		}
	})
}

func TestTakeOver(t *testing.T) {
	lease := partition.Lease{Partition: partition.Of(1, partitions), Epoch: 3}

	notifying(t, "sends_all_pages_in_order", func(s *setup) {
		const n = 2*outboxPage + 7
		for id := range int64(n) {
			s.outbox.store(notification(id+1, 1))
		}
		s.takeOver(lease.Partition, 3)
		s.commit(n+1, 1) // before the others are sent
		s.wantLeft()
		published := s.broker.take()
		if len(published) != n+1 || !slices.IsSortedFunc(published, func(a, b string) int { return len(a) - len(b) }) || published[n] != strconv.Itoa(n+1) {
			s.Errorf("%d were published", len(published))
		}
		s.commit(n+2, 1)
		s.wantPublished(strconv.Itoa(n + 2))
		if b := s.notifier.Backlog(); b != (Backlog{}) {
			s.Errorf("the backlog is %+v", b)
		}
	})

	notifying(t, "waits_for_no_subscriber_and_reads_no_backlog", func(s *setup) {
		s.broker.refuse()
		const n = 6 * outboxPage
		for id, user := int64(1), int64(1); id <= n; user++ {
			if partition.Of(user, partitions) != lease.Partition {
				continue
			}
			for range 10 {
				s.outbox.store(notification(id, user))
				id++
			}
		}
		begun := time.Now()
		s.takeOver(lease.Partition, 3)
		if took := time.Since(begun); took > 0 {
			s.Errorf("it took %v", took)
		}
		synctest.Wait()
		s.broker.take()
		rows := s.outbox.readRows()
		time.Sleep(10 * time.Minute)
		if sent, read := len(s.broker.take()), s.outbox.readRows()-rows; sent > 25 || read > 25 {
			s.Errorf("in ten minutes %d were sent and %d read", sent, read)
		}
		s.broker.set(func() { s.broker.decision = nil })
		time.Sleep(longestPause + time.Second)
		s.wantLeft()
	})

	notifying(t, "of_a_lost_lease_fails", func(s *setup) {
		s.outbox.set(func() { s.outbox.notHeld = map[int]bool{lease.Partition: true} })
		s.notifier.Abandon(partition.Lease{Partition: lease.Partition, Epoch: 1})
		s.outbox.store(notification(1, 1))
		if err := s.notifier.TakeOver(s.Context(), lease); !errors.Is(err, errLeaseLost) {
			s.Errorf("the error is %v", err)
		}
		time.Sleep(time.Minute)
		s.wantPublished()
	})

	notifying(t, "does_not_repeat_what_is_pending_of_an_earlier_lease", func(s *setup) {
		s.broker.manual = true
		s.commit(1, 1)
		s.wantPublished("1")
		s.takeOver(lease.Partition, 3)
		s.commit(2, 1)
		s.wantPublished("2")
		s.broker.decide(0, nil)
		s.broker.decide(1, nil)
		s.wantLeft()
	})

	notifying(t, "fails_with_the_database", func(s *setup) {
		s.outbox.set(func() { s.outbox.err = errDown })
		if err := s.notifier.TakeOver(s.Context(), lease); !errors.Is(err, errDown) {
			s.Errorf("the error is %v", err)
		}
	})

	notifying(t, "ends_with_its_context", func(s *setup) {
		ctx, cancel := context.WithCancel(s.Context())
		cancel()
		if err := s.notifier.TakeOver(ctx, lease); !errors.Is(err, context.Canceled) {
			s.Errorf("the error is %v", err)
		}
	})

	notifying(t, "ends_with_the_notifier", func(s *setup) {
		s.cancel()
		s.running.Wait()
		if err := s.notifier.TakeOver(s.Context(), lease); !errors.Is(err, amqp.ErrClosed) {
			s.Errorf("the error is %v", err)
		}
	})
}

// userOf returns the n-th user of a partition, from 0 on.
func userOf(number, n int) int64 {
	for user := int64(1); ; user++ {
		if partition.Of(user, partitions) == number {
			if n == 0 {
				return user
			}
			n--
		}
	}
}

func TestLostConnection(t *testing.T) {
	notifying(t, "the_rest_is_sent_over_the_next_one", func(s *setup) {
		s.broker.manual = true
		s.commit(1, 1)
		s.commit(2, 2)
		s.commit(3, 1)
		s.wantPublished("1", "2", "3")
		s.broker.set(func() { s.broker.manual = false })
		s.broker.decide(2, nil) // the last one is accepted
		synctest.Wait()
		s.broker.decide(1, errLost)
		s.broker.decide(0, errLost)
		s.broker.lose()
		synctest.Wait()
		s.commit(4, 1)
		time.Sleep(longestConnectPause)
		s.wantLeft()
		published := s.broker.take()
		slices.Sort(published)
		if !slices.Equal(published, []string{"1", "2", "3", "4"}) {
			s.Errorf("published were %v", published)
		}
		if b := s.notifier.Backlog(); b != (Backlog{}) || valueOf(s.metrics.Refused) != 0 {
			s.Errorf("the backlog is %+v", b)
		}
		s.commit(5, 1)
		s.wantPublished("5")
	})
}

// TestReplacedChannel: what waits while the channel is replaced does not overtake what was lost with
// the old one.
func TestReplacedChannel(t *testing.T) {
	for _, outcome := range []error{publish.ErrLost, publish.ErrUnconfirmed} {
		notifying(t, outcome.Error(), func(s *setup) {
			s.broker.manual = true
			s.commit(1, 1)
			s.wantPublished("1")
			replaced := make(chan struct{})
			s.broker.set(func() { s.broker.manual, s.broker.replacing = false, replaced })
			s.commit(2, 1)
			s.commit(3, 2)
			synctest.Wait()
			s.broker.decide(0, outcome)
			synctest.Wait()
			close(replaced)
			time.Sleep(longestPause)
			synctest.Wait()
			published := s.broker.take()
			if i, j := slices.Index(published, "1"), slices.Index(published, "2"); i < 0 || j < i {
				s.Errorf("published again: %q", published)
			}
			s.wantLeft()
		})
	}
}

func TestMissed(t *testing.T) {
	notifying(t, "is_sent_before_later_ones", func(s *setup) {
		s.outbox.store(notification(1, 1))
		s.notifier.Missed(s.leases[partition.Of(1, partitions)])
		s.commit(2, 1)
		s.wantPublished("1", "2")
		s.wantLeft()
	})
}

// An outboxThatCommits commits while a page is read.
type outboxThatCommits struct {
	*fakeOutbox
	before, after func()
}

func (o *outboxThatCommits) ReadNotifications(ctx context.Context, number int, after int64, limit int) ([]actor.PendingNotification, bool, error) {
	o.before()
	defer o.after()
	return o.fakeOutbox.ReadNotifications(ctx, number, after, limit)
}

func TestPass(t *testing.T) {
	notifying(t, "confirmed_while_a_page_is_read", func(s *setup) {
		s.broker.manual = true
		s.commit(1, 1)
		s.wantPublished("1")
		s.outbox.reading = func() { s.broker.messages[0].Settled(nil) } // the page has it
		s.notifier.Missed(s.leases[notification(1, 1).Lease.Partition])
		s.wantPublished()
		s.wantLeft()
	})

	notifying(t, "repeats_nothing_that_is_not_stored_yet", func(s *setup) {
		number := partition.Of(1, partitions)
		s.broker.refuse("1")
		s.commit(1, userOf(number, 0))
		for id := range int64(100) {
			s.commit(id+2, userOf(number, 1+int(id)%7))
		}
		synctest.Wait()
		s.broker.take()
		s.broker.set(func() { s.broker.decision = nil })
		s.notifier.Missed(s.leases[number])
		time.Sleep(longestPause)
		s.wantPublished("1")
		s.wantLeft()
	})

	notifying(t, "finds_what_is_committed_while_a_page_is_read", func(s *setup) {
		number := partition.Of(1, partitions)
		const rows = 3 * outboxPage
		for id := range int64(rows) {
			s.outbox.store(notification(id+1, userOf(number, int(id)%2)))
		}
		last, sent := int64(rows), int64(rows)
		add := func(send bool) { // a page may have what was not sent yet
			last++
			s.outbox.store(notification(last, userOf(number, int(last)%3)))
			for ; send && sent < last; sent++ {
				x := notification(sent+1, userOf(number, int(sent+1)%3))
				x.Lease = s.leases[number]
				s.notifier.Send(x)
			}
		}
		reads := 0
		s.notifier.o.Outbox = &outboxThatCommits{s.outbox, func() {
			if reads++; reads < 20 {
				add(reads%3 == 0)
			}
		}, func() {
			if reads < 20 {
				add(reads%2 == 0)
			}
		}}
		s.takeOver(number, 2)
		synctest.Wait()
		add(true)
		s.wantLeft()
		var got []int64
		for _, body := range s.broker.take() {
			id, _ := strconv.ParseInt(body, 10, 64)
			got = append(got, id)
		}
		if int64(len(got)) != last || !slices.IsSorted(got) {
			s.Errorf("%d of %d were published", len(got), last)
		}
		if b := s.notifier.Backlog(); b != (Backlog{}) {
			s.Errorf("the backlog is %+v", b)
		}
	})

	notifying(t, "follows_one_that_stopped_if_a_gate_has_opened_meanwhile", func(s *setup) {
		number := partition.Of(1, partitions)
		s.notifier.state.maxSkipped = 3
		s.broker.manual = true
		s.commit(1, 1)
		synctest.Wait()
		s.broker.decide(0, publish.ErrRefused)
		s.wantPublished("1", "1") // the probe is pending
		for id := range int64(9) {
			s.commit(id+2, 1)
		}
		reads := 0
		s.outbox.maxRows = 2
		s.notifier.o.Outbox = &outboxThatCommits{s.outbox, func() {
			if reads++; reads == 3 {
				s.broker.manual = false
				s.broker.messages[1].Settled(nil)
			}
		}, func() {}}
		s.notifier.Missed(s.leases[number])
		s.wantPublished("2", "3", "4", "5", "6", "7", "8", "9", "10")
		s.wantLeft()
	})

	notifying(t, "probes_no_notification_before_an_earlier_one_of_its_user", func(s *setup) {
		number := partition.Of(1, partitions)
		blocker, user := userOf(number, 0), userOf(number, 1)
		s.notifier.state.maxSkipped = 1
		s.broker.manual = true
		for id, of := range []int64{blocker, blocker, blocker, user, user} {
			x := notification(int64(id+1), of)
			if of == user {
				x.RoutingKey = "other"
			}
			s.commitThis(x)
		}
		s.wantPublished("1", "2", "3", "4", "5")
		decide := func(n int, err error) {
			s.broker.decide(n, err)
			synctest.Wait()
		}
		decide(0, publish.ErrRefused)
		decide(1, nil)
		decide(2, nil)
		s.wantPublished("1") // the first probe
		decide(5, publish.ErrRefused)
		decide(3, publish.ErrRefused)
		s.notifier.Missed(s.leases[number])
		synctest.Wait() // the pass has stopped before 4
		s.broker.manual = false
		decide(4, publish.ErrRefused)
		s.wantPublished()
		time.Sleep(longestPause)
		s.wantPublished("1", "2", "3", "4", "5")
		s.wantLeft()
	})

	notifying(t, "finds_a_change_of_a_held_user_that_is_committed_while_a_page_is_read", func(s *setup) {
		s.broker.refuse()
		s.commit(1, 1)
		s.wantPublished("1", "1")
		s.outbox.remove(1)
		commit := func() {
			s.broker.set(func() { s.broker.decision = nil })
			s.commit(2, 1)
		}
		s.outbox.set(func() { // while the pass looks for what the probe has not found
			s.outbox.reading = func() { s.outbox.reading = commit }
		})
		time.Sleep(2 * longestPause)
		s.wantPublished("2")
		s.wantLeft()
	})

	notifying(t, "stops_when_too_many_are_held_back", func(s *setup) {
		number := partition.Of(1, partitions)
		s.broker.refuse("1")
		for id := range int64(maxSkipped + 20*outboxPage) {
			s.outbox.store(notification(id+1, 1))
		}
		s.takeOver(number, 2)
		synctest.Wait()
		if b := s.notifier.Backlog(); s.outbox.readRows() > maxSkipped+15*outboxPage || b.Behind != 1 {
			s.Errorf("%d rows were read, and the backlog is %+v", s.outbox.readRows(), b)
		}
		s.broker.set(func() { s.broker.decision = nil })
		time.Sleep(longestPause + time.Second)
		s.wantLeft()
	})
}
