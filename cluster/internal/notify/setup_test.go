package notify

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"sync"
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
	notHeld map[int]bool        // partitions with lost leases
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
