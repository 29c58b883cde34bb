package notify

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/cluster/internal/publish"
	"github.com/glotpod/ident/cluster/ownership"
	"github.com/glotpod/ident/cluster/partition"
)

var (
	errDown = errors.New("down")
	errLost = publish.ErrLost
)

// A fakePublisher records what is published. By default the broker accepts all at once.
type fakePublisher struct {
	mu        sync.Mutex // guards the following fields
	published []string   // bodies, since the last check
	messages  []*publish.Message
	manual    bool                    // decide decides
	decision  func(body string) error // nil: accepts all
	probes    []string                // bodies of those that were sent as probes
	lost      context.CancelFunc      // ends Run with an error
	connects  int
}

// A prober publishes probes.
type prober struct{ *fakePublisher }

func (p prober) Publish(m *publish.Message) {
	p.mu.Lock()
	p.probes = append(p.probes, string(m.Publishing.Body))
	p.mu.Unlock()
	p.fakePublisher.Publish(m)
}

func (p *fakePublisher) Publish(m *publish.Message) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.published, p.messages = append(p.published, string(m.Publishing.Body)), append(p.messages, m)
	if p.manual {
		return
	}
	var err error
	if p.decision != nil {
		err = p.decision(string(m.Publishing.Body))
	}
	go m.Settled(err)
}

func (p *fakePublisher) ResetDeadlines() {}

func (p *fakePublisher) Run(ctx context.Context) error {
	p.mu.Lock()
	lost, lose := context.WithCancel(ctx)
	p.lost = lose
	p.mu.Unlock()
	<-lost.Done()
	return errDown
}

func (p *fakePublisher) connect(context.Context) (*Connection, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.connects++
	return &Connection{
		Publisher: p,
		NewProber: func() Publisher { return prober{p} },
		Blocked:   func() bool { return false },
		Close:     func() {},
	}, nil
}

// take returns the bodies that were published since the last call.
func (p *fakePublisher) take() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	published := p.published
	p.published = nil
	return published
}

// decide decides on the n-th message.
func (p *fakePublisher) decide(n int, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	go p.messages[n].Settled(err)
}

// set changes the publisher.
func (p *fakePublisher) set(change func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change()
}

// refuse makes the broker refuse the notifications with some bodies; none: all.
func (p *fakePublisher) refuse(bodies ...string) {
	p.set(func() {
		p.decision = func(body string) error {
			if len(bodies) == 0 || slices.Contains(bodies, body) {
				return publish.ErrRefused
			}
			return nil
		}
	})
}

// lose loses the connection.
func (p *fakePublisher) lose() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lost()
}

// A fakeOutbox has rows until they are confirmed.
type fakeOutbox struct {
	mu      sync.Mutex // guards the following fields
	rows    []actor.PendingNotification
	since   map[int64]time.Time // when a row was committed; zero: long ago
	notHeld map[int]bool        // partitions with lost leases
	err     error

	rowsRead int
	reading  func() // called once, while a page is read; nil: nothing is
}

func (o *fakeOutbox) ReadNotifications(_ context.Context, number int, after int64, limit int) (page []actor.PendingNotification, more bool, _ error) {
	defer func() {
		if f := o.reading; f != nil {
			o.reading = nil
			f()
		}
	}()
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.err != nil {
		return nil, false, o.err
	}
	first, _ := slices.BinarySearchFunc(o.rows, after+1, byID)
	for _, x := range o.rows[first:] {
		if x.Lease.Partition == number {
			if page = append(page, x); len(page) == limit {
				break
			}
		}
	}
	o.rowsRead += len(page)
	return page, len(page) == limit, nil
}

func (o *fakeOutbox) SurveyNotifications(partitions []int, limit int) (all []actor.StoredNotification) {
	o.mu.Lock()
	defer o.mu.Unlock()
	count := make(map[int]int)
	for _, x := range o.rows {
		if slices.Contains(partitions, x.Lease.Partition) && count[x.Lease.Partition] < limit {
			count[x.Lease.Partition]++
			all = append(all, actor.StoredNotification{Partition: x.Lease.Partition, Position: x.Position, UserID: x.UserID, Age: time.Since(o.since[x.Position])})
		}
	}
	return all
}

func (o *fakeOutbox) TakeOver(_ context.Context, by ownership.Member, leases []partition.Lease) (held []partition.Lease, backlog []int, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.err != nil {
		return nil, nil, o.err
	}
	for _, l := range leases {
		if !o.notHeld[l.Partition] && by.Name == "one" {
			held = append(held, l)
		}
		if slices.ContainsFunc(o.rows, func(x actor.PendingNotification) bool { return x.Lease.Partition == l.Partition }) {
			backlog = append(backlog, l.Partition)
		}
	}
	return held, backlog, nil
}

func (o *fakeOutbox) ConfirmNotifications(keys ...actor.NotificationKey) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, key := range keys {
		if i, found := slices.BinarySearchFunc(o.rows, key.Position, byID); found && o.rows[i].Key() == key {
			o.rows = slices.Delete(o.rows, i, i+1)
		}
	}
}

func byID(x actor.PendingNotification, id int64) int { return cmp.Compare(x.Position, id) }

// remove deletes rows, as an operator does.
func (o *fakeOutbox) remove(ids ...int64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.rows = slices.DeleteFunc(o.rows, func(x actor.PendingNotification) bool { return slices.Contains(ids, x.Position) })
}

// readRows returns how many rows were read.
func (o *fakeOutbox) readRows() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.rowsRead
}

// set changes the outbox.
func (o *fakeOutbox) set(change func()) {
	o.mu.Lock()
	defer o.mu.Unlock()
	change()
}

// storeSorted adds a row with an id that may be lower than others.
func (o *fakeOutbox) storeSorted(x actor.PendingNotification) {
	o.store(x, time.Now())
	o.set(func() {
		slices.SortFunc(o.rows, func(a, b actor.PendingNotification) int { return cmp.Compare(a.Position, b.Position) })
	})
}

// left returns the ids of the stored notifications.
func (o *fakeOutbox) left() (ids []int64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, x := range o.rows {
		ids = append(ids, x.Position)
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
	o.since[x.Position] = since
}

const partitions = 4

// notification returns a notification of a user, with its id as its body.
func notification(id, user int64) actor.PendingNotification {
	return actor.PendingNotification{
		Position: id, UserID: user, Lease: partition.Lease{Partition: partition.Of(user, partitions)},
		RoutingKey: "notifications.user.patch", Body: []byte(strconv.FormatInt(id, 10)),
	}
}

func messageID(id, user int64) string {
	n := notification(id, user)
	return n.MessageID().String()
}

// A setup is a running notifier.
type setup struct {
	*testing.T
	notifier *Notifier
	broker   *fakePublisher
	outbox   *fakeOutbox
	logs     *observer.ObservedLogs
	metrics  Metrics
	cancel   context.CancelFunc
	running  sync.WaitGroup
}

// commit stores a notification and sends it, as the store does after a commit.
func (s *setup) commit(id, user int64) {
	s.outbox.store(notification(id, user), time.Now())
	s.notifier.Send(notification(id, user))
}

// takeOver takes a partition over.
func (s *setup) takeOver(number int, epoch int64) {
	s.Helper()
	if err := s.notifier.TakeOver(s.Context(), partition.Lease{Partition: number, Epoch: epoch}); err != nil {
		s.Fatal(err)
	}
}

// wantPublished checks what was published since the last check.
func (s *setup) wantPublished(want ...string) {
	s.Helper()
	synctest.Wait()
	if got := s.broker.take(); !slices.Equal(got, want) {
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
			s := &setup{T: t, broker: new(fakePublisher), outbox: new(fakeOutbox), logs: logs, metrics: Metrics{
				Sent:    prometheus.NewCounter(prometheus.CounterOpts{Name: "sent"}),
				Refused: prometheus.NewCounter(prometheus.CounterOpts{Name: "refused"}),
				Lag:     prometheus.NewHistogram(prometheus.HistogramOpts{Name: "lag"}),
				Overdue: prometheus.NewGauge(prometheus.GaugeOpts{Name: "overdue"}),
				Oldest:  prometheus.NewGauge(prometheus.GaugeOpts{Name: "oldest"}),
			}}
			s.notifier = New(Options{
				Self: ownership.Member{Name: "one"}, Outbox: s.outbox, Partitions: partitions, Connect: s.broker.connect,
				Metrics: s.metrics, Log: zap.New(core),
			})
			ctx, cancel := context.WithCancel(t.Context())
			s.cancel = cancel
			s.running.Go(func() { s.notifier.Run(ctx) })
			for p := range partitions {
				s.takeOver(p, 1)
			}
			synctest.Wait()
			test(s)
			cancel()
			s.running.Wait()
		})
	})
}
