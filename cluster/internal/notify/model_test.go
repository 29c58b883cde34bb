package notify

import (
	"context"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"
	"pgregory.net/rapid"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/cluster/internal/publish"
	"github.com/glotpod/ident/cluster/ownership"
	"github.com/glotpod/ident/cluster/partition"
)

const modelUsers = 5

// A model is a partition whose log, database, broker and subscriber are in memory. Its owner is
// a notifier.
type model struct {
	*rapid.T
	broker   *fakePublisher
	outbox   *fakeOutbox
	notifier *Notifier
	lease    partition.Lease
	stop     func() // ends the notifier

	outcomes map[*publish.Message]*bool            // what became of messages: whether the subscriber has got them
	unsent   []actor.PendingNotification           // committed and not passed to Send
	missed   bool                                  // a change was committed, and the notifier was not told
	flush    *actor.NotificationProgress           // is being written
	own      map[int64][]actor.PendingNotification // the changes of each user
}

// A noDeadline has no deadline, which is not allowed in a synctest bubble.
type noDeadline struct{ rapid.TB }

// TestProgress: whatever is committed, confirmed, refused, missed, lost or written late, the next
// owner finds each change that the subscriber has not got in its place. In the end everything is
// notified, and a next owner finds nothing.
func TestProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rapid.Check(noDeadline{t}, func(r *rapid.T) {
			m := &model{T: r, broker: &fakePublisher{manual: true}, outbox: &fakeOutbox{stored: make(map[int]actor.NotificationProgress)},
				outcomes: make(map[*publish.Message]*bool), own: make(map[int64][]actor.PendingNotification), stop: func() {}}
			defer func() { m.stop() }()
			m.crash(r)
			r.Repeat(map[string]func(*rapid.T){
				"commit": m.commit, "commit and send": m.commitAndSend, "send": m.send, "lose": m.lose, "miss": m.miss,
				"accept": m.accept, "accept again": m.accept, "refuse": m.refuse, "disconnect": m.disconnect, "wait": m.wait,
				"begin flush": m.beginFlush, "end flush": m.endFlush, "crash": m.crash, "hand over": m.handOver, "": m.check,
			})
			m.settle()
		})
	})
}

func (m *model) add() {
	m.miss(nil)
	position := m.lease.Epoch * 1000
	if n := len(m.outbox.rows); n > 0 {
		position = max(position, m.outbox.rows[n-1].Position+rapid.Int64Range(1, 2).Draw(m.T, "gap"))
	}
	x := notification(position, userOf(0, rapid.IntRange(0, modelUsers-1).Draw(m.T, "user")))
	x.RoutingKey = rapid.SampledFrom([]string{"a", "a", "b"}).Draw(m.T, "key")
	m.outbox.store(x)
	m.own[x.UserID] = append(m.own[x.UserID], x)
	x.Lease = m.lease
	m.unsent = append(m.unsent, x)
}

// commit is a change that a page may have before the notifier is told.
func (m *model) commit(*rapid.T) { m.add() }

func (m *model) commitAndSend(*rapid.T) { m.add(); m.send(nil) }

func (m *model) send(*rapid.T) {
	for _, x := range m.unsent {
		m.notifier.Send(x)
	}
	m.unsent = nil
}

// lose is a change whose attempt has an unknown outcome.
func (m *model) lose(*rapid.T) {
	m.send(nil)
	m.add()
	m.unsent, m.missed = nil, true
}

// miss finds out that a change was committed by an attempt of unknown outcome.
func (m *model) miss(*rapid.T) {
	if m.missed {
		m.missed = false
		m.notifier.Missed(m.lease)
	}
}

// messages returns what was published.
func (m *model) messages() []*publish.Message {
	m.broker.mu.Lock()
	defer m.broker.mu.Unlock()
	return m.broker.messages
}

// draw returns a message of which the broker has not said what became of it.
func (m *model) draw() *publish.Message {
	synctest.Wait()
	var open []*publish.Message
	for _, x := range m.messages() {
		if m.outcomes[x] == nil {
			open = append(open, x)
		}
	}
	if len(open) == 0 {
		return nil
	}
	return open[rapid.IntRange(0, len(open)-1).Draw(m.T, "message")]
}

func (m *model) decide(x *publish.Message, err error) {
	if x != nil {
		routed := err == nil
		m.outcomes[x] = &routed
		x.Settled(err)
	}
}

func (m *model) accept(*rapid.T) { m.decide(m.draw(), nil) }

func (m *model) refuse(*rapid.T) {
	m.decide(m.draw(), rapid.SampledFrom([]error{publish.ErrRefused, publish.ErrUnconfirmed, &publish.RejectedError{Cause: amqp.ErrClosed}}).Draw(m.T, "why"))
}

// disconnect loses the connection. Some of the messages have arrived nevertheless.
func (m *model) disconnect(*rapid.T) {
	synctest.Wait()
	for _, x := range m.messages() {
		if m.outcomes[x] == nil {
			m.decide(x, errLost)
			*m.outcomes[x] = rapid.Bool().Draw(m.T, "arrived")
		}
	}
	m.broker.lose()
}

func (m *model) wait(*rapid.T) {
	time.Sleep(time.Duration(rapid.IntRange(1, 40).Draw(m.T, "time")) * 500 * time.Millisecond)
	synctest.Wait()
}

func (m *model) beginFlush(*rapid.T) {
	p, ok := m.notifier.Progress(m.lease)
	if !ok || m.flush != nil {
		return
	}
	m.flush = &p
	known := m.outbox.rows[:len(m.outbox.rows)-len(m.unsent)]
	if n := len(known); n > 0 && !m.missed && known[n-1].Position > p.Last {
		m.Fatalf("%d was sent, and the last one is %d", known[n-1].Position, p.Last)
	}
}

// endFlush ends a flush, which may be lost.
func (m *model) endFlush(*rapid.T) {
	if m.flush != nil && rapid.IntRange(0, 4).Draw(m.T, "lost") > 0 {
		before := m.outbox.stored[0]
		for user, position := range before.HeldBack {
			if now, held := m.flush.HeldBack[user]; held && now < position {
				m.Fatalf("user %d was held back from %d on, and then from %d on", user, position, now)
			}
		}
		if m.flush.Notified < before.Notified {
			m.Fatalf("the position goes from %d to %d", before.Notified, m.flush.Notified)
		}
		m.outbox.set(func() { m.outbox.stored[0] = *m.flush })
	}
	m.flush = nil
}

// crash has another owner take the partition over.
func (m *model) crash(*rapid.T) {
	m.stop()
	m.lease = partition.Lease{Epoch: m.lease.Epoch + 1, Holder: ownership.Member{Name: "one"}}
	m.unsent, m.missed, m.flush = nil, false, nil
	m.notifier = New(Options{Self: m.lease.Holder, Outbox: m.outbox, Partitions: partitions, Connect: m.broker.connect, Metrics: newMetrics(), Log: zap.NewNop()})
	m.notifier.state.maxSkipped = rapid.SampledFrom([]int{1, 3, maxSkipped}).Draw(m.T, "may be skipped")
	m.outbox.set(func() {
		m.outbox.maxRows = rapid.SampledFrom([]int{1, 2, 0}).Draw(m.T, "rows of a page")
		m.outbox.delay = rapid.SampledFrom([]time.Duration{0, 700 * time.Millisecond}).Draw(m.T, "delay")
	})
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { m.notifier.Run(ctx) })
	m.stop = func() { cancel(); running.Wait() }
	if err := m.notifier.TakeOver(ctx, m.lease); err != nil {
		m.Fatal(err)
	}
}

// handOver has the owner release the partition. If nothing waits, the next owner finds nothing
// that was confirmed.
func (m *model) handOver(*rapid.T) {
	m.send(nil)
	m.miss(nil)
	synctest.Wait()
	b := m.notifier.Backlog()
	if err := m.notifier.Release(context.Background(), m.lease); err != nil {
		m.Fatal(err)
	}
	for range rapid.IntRange(0, 3).Draw(m.T, "settled after the release") {
		if rapid.Bool().Draw(m.T, "accepted") {
			m.accept(nil)
		} else {
			m.refuse(nil)
		}
	}
	m.flush = nil
	p, _ := m.notifier.Progress(m.lease)
	m.outbox.set(func() { m.outbox.stored[0] = p })
	m.check(nil)
	for _, position := range m.outbox.left() {
		if b.Behind+b.HeldBack == 0 && m.isNotified(position) && !m.follows(position) {
			m.Fatalf("%d was notified, and the next owner finds it: stored is %+v", position, p)
		}
	}
	m.notifier.Abandon(m.lease)
	m.crash(nil)
}

// notified returns how many of the changes of a user the subscriber has got in their order.
func (m *model) notified(user int64) (n int) {
	for _, x := range m.messages() {
		if routed := m.outcomes[x]; routed != nil && *routed && n < len(m.own[user]) && string(x.Publishing.Body) == string(m.own[user][n].Body) {
			n++
		}
	}
	return n
}

func (m *model) userOf(position int64) int64 {
	i := slices.IndexFunc(m.outbox.rows, func(x actor.PendingNotification) bool { return x.Position == position })
	return m.outbox.rows[i].UserID
}

func (m *model) isNotified(position int64) bool {
	user := m.userOf(position)
	n := m.notified(user)
	return n > 0 && m.own[user][n-1].Position >= position
}

// follows reports whether the broker has confirmed a notification before an earlier one of its
// user, or whether it arrived and was not confirmed.
func (m *model) follows(position int64) bool {
	for _, x := range m.messages() {
		if n, _ := strconv.ParseInt(string(x.Publishing.Body), 10, 64); n <= position && m.userOf(n) == m.userOf(position) && (m.outcomes[x] == nil || !*m.outcomes[x]) {
			return true
		}
	}
	return false
}

// check is called after each of the above.
func (m *model) check(*rapid.T) {
	left := m.outbox.left()
	for _, x := range m.outbox.rows {
		if _, found := slices.BinarySearch(left, x.Position); !found && !m.isNotified(x.Position) {
			m.Fatalf("%d of user %d was not notified, and stored is %+v", x.Position, x.UserID, m.outbox.stored[0])
		}
	}
}

// settle has the subscriber take everything.
func (m *model) settle() {
	m.outbox.set(func() { m.outbox.maxRows, m.outbox.delay = 0, 0 })
	m.send(nil)
	m.miss(nil)
	for range 100 {
		for synctest.Wait(); ; synctest.Wait() {
			i := slices.IndexFunc(m.messages(), func(x *publish.Message) bool { return m.outcomes[x] == nil })
			if i < 0 {
				break
			}
			m.decide(m.messages()[i], nil)
		}
		time.Sleep(time.Second)
	}
	m.flush = nil
	for range 2 {
		if p, ok := m.notifier.Progress(m.lease); ok {
			m.outbox.set(func() { m.outbox.stored[0] = p })
		}
	}
	m.check(nil)
	if left, b := m.outbox.left(), m.notifier.Backlog(); len(left) > 0 || len(m.outbox.stored[0].HeldBack) > 0 || b != (Backlog{}) {
		m.Fatalf("everything was accepted, and left are %v, stored is %+v, the backlog %+v", left, m.outbox.stored[0], b)
	}
}
