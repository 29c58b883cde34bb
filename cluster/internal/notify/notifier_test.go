package notify

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/cluster/ownership"
	"github.com/glotpod/ident/cluster/partition"
)

var errDown = errors.New("down")

// A confirmation is decided by a value in its channel.
type confirmation chan bool

func (c confirmation) WaitContext(ctx context.Context) (bool, error) {
	select {
	case accepted := <-c:
		return accepted, nil
	case <-ctx.Done():
		return false, ctx.Err()
	}
}

// A fakeChannel records what is published. By default the broker accepts all at once.
type fakeChannel struct {
	mu        sync.Mutex // guards the following fields
	manual    bool       // the test decides confirmations
	refuses   func(body string) bool
	published []string // bodies
	messages  []amqp.Publishing
	pending   []confirmation
	err       error
	closed    bool
}

func (c *fakeChannel) Publish(exchange, key string, m amqp.Publishing) (Confirmation, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if exchange != "amq.topic" || key != "notifications.user.patch" {
		return nil, errors.New("published elsewhere")
	}
	if c.err != nil {
		return nil, c.err
	}
	c.published, c.messages = append(c.published, string(m.Body)), append(c.messages, m)
	decided := make(confirmation, 1)
	if c.manual {
		c.pending = append(c.pending, decided)
	} else {
		decided <- c.refuses == nil || !c.refuses(string(m.Body))
	}
	return decided, nil
}

func (c *fakeChannel) IsClosed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closed
}

// take returns the bodies that were published since the last call.
func (c *fakeChannel) take() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	published := c.published
	c.published = nil
	return published
}

// decide decides the n-th pending confirmation.
func (c *fakeChannel) decide(n int, accepted bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pending[n] <- accepted
}

// set changes the channel.
func (c *fakeChannel) set(change func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change()
}

// A fakeOutbox has rows until they are confirmed.
type fakeOutbox struct {
	mu      sync.Mutex // guards the following fields
	rows    []actor.PendingNotification
	since   map[int64]time.Time // when a row was committed; zero: long ago
	notHeld map[int]bool        // partitions whose leases are lost
	err     error
	reads   int
}

func (o *fakeOutbox) PendingNotifications(_ context.Context, partitions []int, after int64, age time.Duration, limit int) (page []actor.PendingNotification, _ error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.reads++
	if o.err != nil {
		return nil, o.err
	}
	for _, x := range o.rows {
		if x.ID > after && (x.Partition < 0 || slices.Contains(partitions, x.Partition)) && time.Since(o.since[x.ID]) >= age && len(page) < limit {
			page = append(page, x)
		}
	}
	return page, nil
}

func (o *fakeOutbox) TakeOver(ctx context.Context, by ownership.Member, leases []partition.Lease, limit int) (held []partition.Lease, left []actor.PendingNotification, err error) {
	var partitions []int
	for _, l := range leases {
		partitions = append(partitions, l.Partition)
		if !o.notHeld[l.Partition] && by.Name == "one" {
			held = append(held, l)
		}
	}
	left, err = o.PendingNotifications(ctx, partitions, 0, 0, limit)
	return held, left, err
}

func (o *fakeOutbox) ConfirmNotifications(ids ...int64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.rows = slices.DeleteFunc(o.rows, func(x actor.PendingNotification) bool { return slices.Contains(ids, x.ID) })
}

// left returns the ids of the stored notifications.
func (o *fakeOutbox) left() (ids []int64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, x := range o.rows {
		ids = append(ids, x.ID)
	}
	return ids
}

// store adds a row.
func (o *fakeOutbox) store(x actor.PendingNotification, since time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.rows = append(o.rows, x)
	if o.since == nil {
		o.since = make(map[int64]time.Time)
	}
	o.since[x.ID] = since
}

const partitions = 4

// notification returns a notification of a user, with its id as its body.
func notification(id, user int64) actor.PendingNotification {
	return actor.PendingNotification{
		ID: id, UserID: user, Partition: partition.Of(user, partitions), MessageID: uuid.UUID{15: byte(id)},
		RoutingKey: "notifications.user.patch", Body: []byte(strconv.FormatInt(id, 10)),
	}
}

// A setup is a running notifier.
type setup struct {
	*testing.T
	notifier *Notifier
	channel  *fakeChannel
	outbox   *fakeOutbox
	logs     *observer.ObservedLogs
	metrics  Metrics
	disowned sync.Map // partitions
	cancel   context.CancelFunc
	running  sync.WaitGroup
}

// commit stores a notification and sends it, as the store does after a commit.
func (s *setup) commit(id, user int64) {
	s.outbox.store(notification(id, user), time.Now())
	s.notifier.Send(notification(id, user))
}

// wantPublished checks what was published since the last check.
func (s *setup) wantPublished(want ...string) {
	s.Helper()
	synctest.Wait()
	if got := s.channel.take(); !slices.Equal(got, want) {
		s.Errorf("published were %v, want %v", got, want)
	}
}

// wantLeft checks what is in the outbox.
func (s *setup) wantLeft(want ...int64) {
	s.Helper()
	synctest.Wait()
	if got := s.outbox.left(); !slices.Equal(got, want) {
		s.Errorf("the outbox has %v, want %v", got, want)
	}
}

func valueOf(m prometheus.Metric) float64 {
	var written dto.Metric
	m.Write(&written)
	return written.GetCounter().GetValue() + written.GetGauge().GetValue() + float64(written.GetHistogram().GetSampleCount())
}

// notifying runs a test with a notifier that runs, in a synctest bubble.
func notifying(t *testing.T, name string, test func(*setup)) {
	t.Helper()
	t.Run(name, func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			core, logs := observer.New(zapcore.DebugLevel)
			s := &setup{T: t, channel: new(fakeChannel), outbox: new(fakeOutbox), logs: logs, metrics: Metrics{
				Sent:    prometheus.NewCounter(prometheus.CounterOpts{Name: "sent"}),
				Refused: prometheus.NewCounter(prometheus.CounterOpts{Name: "refused"}),
				Lag:     prometheus.NewHistogram(prometheus.HistogramOpts{Name: "lag"}),
				Overdue: prometheus.NewGauge(prometheus.GaugeOpts{Name: "overdue"}),
			}}
			s.notifier = New(s.channel, Options{
				Self: ownership.Member{Name: "one"}, Outbox: s.outbox, Partitions: partitions, Metrics: s.metrics, Log: zap.New(core),
				Owns: func(p int) bool { _, disowned := s.disowned.Load(p); return !disowned },
			})
			ctx, cancel := context.WithCancel(t.Context())
			s.cancel = cancel
			s.running.Go(func() { s.notifier.Run(ctx) })
			test(s)
			cancel()
			s.running.Wait()
		})
	})
}

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
		time.Sleep(2 * longestRetryPause)
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
