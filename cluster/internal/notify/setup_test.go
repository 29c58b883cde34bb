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
	replacing chan struct{}           // Publish waits until it is closed; nil: it does not
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
	if p.replacing != nil {
		<-p.replacing
	}
	if !m.Wanted() {
		m.Settled(publish.ErrLost)
		return
	}
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

// A fakeOutbox has a log, and stores the progress of partitions.
type fakeOutbox struct {
	mu      sync.Mutex // guards the following fields
	rows    []actor.PendingNotification
	stored  map[int]actor.NotificationProgress // by partition
	notHeld map[int]bool                       // partitions with lost leases
	err     error

	rowsRead int
	reading  func()        // called once, while a page is read; nil: nothing is
	delay    time.Duration // of what was read
	maxRows  int           // of a page; 0: no limit
}

// isLeft reports whether a row may not be confirmed, as far as is stored.
func (o *fakeOutbox) isLeft(x *actor.PendingNotification) bool {
	p := o.stored[x.Lease.Partition]
	first, held := p.HeldBack[x.UserID]
	return x.Position > p.Notified || held && x.Position >= first
}

func (o *fakeOutbox) ReadNotifications(_ context.Context, number int, after int64, limit int) (page []actor.PendingNotification, more bool, _ error) {
	o.mu.Lock()
	delay := o.delay
	defer func() {
		if f := o.reading; f != nil {
			o.reading = nil
			f()
		}
		time.Sleep(delay)
	}()
	if o.maxRows > 0 {
		limit = min(limit, o.maxRows)
	}
	defer o.mu.Unlock()
	if o.err != nil {
		return nil, false, o.err
	}
	first, _ := slices.BinarySearchFunc(o.rows, after+1, byID)
	for _, x := range o.rows[first:] {
		if x.Lease.Partition == number && o.isLeft(&x) {
			x.Lease = partition.Lease{Partition: number}
			if page = append(page, x); len(page) == limit {
				break
			}
		}
	}
	o.rowsRead += len(page)
	return page, len(page) == limit, nil
}

func (o *fakeOutbox) TakeOver(_ context.Context, by ownership.Member, leases []partition.Lease) (all []actor.TakenOver, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.err != nil {
		return nil, o.err
	}
	for _, l := range leases {
		if o.notHeld[l.Partition] || by.Name != "one" {
			continue
		}
		t := actor.TakenOver{Lease: l, NotificationProgress: o.stored[l.Partition]}
		t.HasLater = slices.ContainsFunc(o.rows, func(x actor.PendingNotification) bool {
			return x.Lease.Partition == l.Partition && x.Position > t.Notified
		})
		all = append(all, t)
	}
	return all, nil
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

// left returns the ids of the notifications that a next owner would find.
func (o *fakeOutbox) left() (ids []int64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for i := range o.rows {
		if o.isLeft(&o.rows[i]) {
			ids = append(ids, o.rows[i].Position)
		}
	}
	return ids
}

// store adds a row.
func (o *fakeOutbox) store(x actor.PendingNotification) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.rows = append(o.rows, x)
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
	leases   [partitions]partition.Lease
	logs     *observer.ObservedLogs
	metrics  Metrics
	cancel   context.CancelFunc
	running  sync.WaitGroup
}

// commit stores a notification and sends it, as the store does after a commit.
func (s *setup) commit(id, user int64) { s.commitThis(notification(id, user)) }

func (s *setup) commitThis(x actor.PendingNotification) {
	s.outbox.store(x)
	x.Lease = s.leases[x.Lease.Partition]
	s.notifier.Send(x)
}

// flush stores the progress, as the store does each second.
func (s *setup) flush() {
	for p, lease := range s.leases {
		if progress, ok := s.notifier.Progress(lease); ok {
			s.outbox.set(func() { s.outbox.stored[p] = progress })
		}
	}
}

// takeOver takes a partition over.
func (s *setup) takeOver(number int, epoch int64) {
	s.Helper()
	s.leases[number] = partition.Lease{Partition: number, Epoch: epoch}
	if err := s.notifier.TakeOver(s.Context(), s.leases[number]); err != nil {
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

// wantLeft checks what the next owners would find.
func (s *setup) wantLeft(want ...int64) {
	s.Helper()
	synctest.Wait()
	s.flush()
	if got := s.outbox.left(); !slices.Equal(got, want) {
		s.Errorf("left are %v, want %v", got, want)
	}
}

func valueOf(m prometheus.Metric) float64 {
	var written dto.Metric
	m.Write(&written)
	return written.GetCounter().GetValue() + written.GetGauge().GetValue() + float64(written.GetHistogram().GetSampleCount())
}

func newMetrics() Metrics {
	return Metrics{
		Sent:    prometheus.NewCounter(prometheus.CounterOpts{Name: "sent"}),
		Refused: prometheus.NewCounter(prometheus.CounterOpts{Name: "refused"}),
		Lag:     prometheus.NewHistogram(prometheus.HistogramOpts{Name: "lag"}),
		Overdue: prometheus.NewGauge(prometheus.GaugeOpts{Name: "overdue"}),
		Oldest:  prometheus.NewGauge(prometheus.GaugeOpts{Name: "oldest"}),
	}
}

// notifying runs a test with a notifier that runs, in a synctest bubble.
func notifying(t *testing.T, name string, test func(*setup)) {
	t.Helper()
	t.Run(name, func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			core, logs := observer.New(zapcore.DebugLevel)
			s := &setup{T: t, broker: new(fakePublisher), outbox: &fakeOutbox{stored: make(map[int]actor.NotificationProgress)}, logs: logs, metrics: newMetrics()}
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
