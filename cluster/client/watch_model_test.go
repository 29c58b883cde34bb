package client

import (
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// A watchModel is a log of changes in memory, a queue that loses, repeats and delays notifications,
// and a subscriber with a copy of the users: the sequence of the last change of each user.
type watchModel struct {
	t *testing.T

	mu     sync.Mutex // guards the following fields
	rng    *rand.Rand
	log    []Change        // a position is how many of them it has
	latest map[int64]int64 // the sequence of each user's last change
	failed float64         // how many of the readings of the log fail
	queue  chan amqp.Delivery
	isLost bool // the connection of the queue

	users     map[int64]int64 // what Handle has made of the changes
	durable   map[int64]int64 // what the next process will have of users
	atOnce    bool            // Handle makes it durable, not Save
	saved     string
	caughtUp  int // how many changes the log had when the subscriber caught up
	processes int // that have watched
}

const modelUsers = 6

// errFull is an error of Handle.
var errFull = errors.New("full")

func (m *watchModel) randomUser() int64 { return 1 + m.rng.Int64N(modelUsers) }

func (m *watchModel) sleep(most time.Duration) {
	m.mu.Lock()
	d := time.Duration(m.rng.Int64N(int64(most)))
	m.mu.Unlock()
	time.Sleep(d)
}

// commit adds a change of a user to the log. It is notified once, twice, late or never.
func (m *watchModel) commit() {
	id := m.randomUser()
	m.latest[id]++
	c := Change{UserID: id, Sequence: m.latest[id], Operation: "patch", Ops: []Op{}}
	m.log = append(m.log, c)
	for range m.rng.IntN(3) {
		m.notify(&c, time.Duration(m.rng.IntN(2)*m.rng.IntN(2000))*time.Millisecond)
	}
}

// notify delivers a notification after some time, unless the connection is lost until then.
func (m *watchModel) notify(_ *Change, after time.Duration) {
	queue := m.queue
	time.AfterFunc(after, func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		if queue == m.queue && !m.isLost && len(queue) < cap(queue) {
			queue <- amqp.Delivery{Acknowledger: acknowledger{}}
		}
	})
}

type acknowledger struct{}

func (acknowledger) Ack(uint64, bool) error        { return nil }
func (acknowledger) Nack(uint64, bool, bool) error { return nil }
func (acknowledger) Reject(uint64, bool) error     { return nil }

// cut loses the connection of the queue.
func (m *watchModel) cut() {
	if m.queue != nil && !m.isLost {
		m.isLost = true
		close(m.queue)
	}
}

// Changes implements changeLog.
func (m *watchModel) Changes(_ context.Context, after string, _ int) (*ChangePage, error) {
	m.sleep(50 * time.Millisecond)
	defer m.sleep(50 * time.Millisecond) // further changes may be made
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.rng.Float64() < m.failed {
		return nil, ErrNoReply
	}
	from, err := strconv.Atoi(after)
	if err != nil {
		return nil, err
	}
	to := min(len(m.log), from+1+m.rng.IntN(4))
	return &ChangePage{Changes: slices.Clone(m.log[from:to]), After: strconv.Itoa(to), More: to < len(m.log)}, nil
}

// handle brings a change into the copy. It must be the user's next one, or a repeated one.
func (m *watchModel) handle(_ context.Context, c *Change) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.rng.IntN(30) == 0 {
		return errFull
	}
	if c.Sequence > m.users[c.UserID]+1 {
		m.t.Errorf("number %d of user %d is handled after number %d", c.Sequence, c.UserID, m.users[c.UserID])
	}
	m.users[c.UserID] = c.Sequence
	return nil
}

// save makes the copy durable. It must have all changes before the position.
func (m *watchModel) save(_ context.Context, after string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	at, err := strconv.Atoi(after)
	if err != nil {
		return err
	}
	for _, c := range m.log[:at] {
		if m.users[c.UserID] < c.Sequence {
			m.t.Errorf("position %s is saved before number %d of user %d is handled", after, c.Sequence, c.UserID)
		}
	}
	m.saved = after
	if !m.atOnce {
		m.durable = maps.Clone(m.users)
	}
	return nil
}

func (m *watchModel) onCaughtUp() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.caughtUp, _ = strconv.Atoi(m.saved)
}

// snapshot lists the users, while changes are made.
func (m *watchModel) snapshot() {
	m.durable, m.saved = make(map[int64]int64), strconv.Itoa(len(m.log))
	for id := range int64(modelUsers) {
		m.durable[id+1] = m.latest[id+1]
		m.commit()
	}
}

// watch watches until ctx ends: with a new connection after each interruption, in a new process
// after each error of Handle.
func (m *watchModel) watch(ctx context.Context) {
	for ctx.Err() == nil {
		m.mu.Lock()
		m.processes++
		m.users = m.durable
		if m.atOnce = m.rng.IntN(2) == 0; !m.atOnce {
			m.users = maps.Clone(m.durable)
		}
		w := &watcher{client: &Client{}, log: m, position: m.saved, o: WatchOptions{Handle: m.handle, Save: m.save, CaughtUp: m.onCaughtUp}}
		m.mu.Unlock()
		err := errInterrupted
		for errors.Is(err, errInterrupted) {
			m.mu.Lock()
			m.queue, m.isLost = make(chan amqp.Delivery, watchPrefetch), false
			queue := m.queue
			m.mu.Unlock()
			err = w.follow(ctx, queue, func() bool {
				m.mu.Lock()
				defer m.mu.Unlock()
				return m.isLost
			})
		}
		if !errors.Is(err, errFull) && ctx.Err() == nil {
			m.t.Fatalf("it ends with %v", err)
		}
	}
}

// Each change after the position is handled in its user's order, whatever becomes of its
// notification, and no position is saved before the changes up to it were handled.
func TestWatchModel(t *testing.T) {
	processes := 0
	for seed := range uint64(200) {
		synctest.Test(t, func(t *testing.T) {
			m := &watchModel{t: t, rng: rand.New(rand.NewPCG(seed, 0)), latest: make(map[int64]int64), failed: 0.1}
			for range 20 {
				m.commit()
			}
			m.snapshot()
			ctx, cancel := context.WithCancel(t.Context())
			var watching sync.WaitGroup
			watching.Go(func() { m.watch(ctx) })
			for range 60 {
				m.sleep(500 * time.Millisecond)
				m.mu.Lock()
				if m.commit(); m.rng.IntN(10) == 0 {
					m.cut()
				}
				m.mu.Unlock()
			}
			m.mu.Lock()
			m.failed = 0
			m.mu.Unlock()
			time.Sleep(readEvery + 10*time.Second)
			cancel()
			watching.Wait()
			if !maps.Equal(m.users, m.latest) || m.caughtUp != len(m.log) {
				t.Errorf("seed %d: after %d of %d changes the copy is %v, not %v", seed, m.caughtUp, len(m.log), m.users, m.latest)
			}
			processes += m.processes
		})
		if t.Failed() {
			break
		}
	}
	if processes < 500 {
		t.Errorf("there were %d processes", processes)
	}
}

// A notification is noticed at once after a pause, and any number of them within the pause only
// once. Without one, the log is read every minute.
func TestWatchReads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &watchModel{t: t, rng: rand.New(rand.NewPCG(1, 0)), latest: make(map[int64]int64), queue: make(chan amqp.Delivery, 1000)}
		m.saved, m.users = "0", make(map[int64]int64)
		var reads []time.Duration
		begin := time.Now()
		w := &watcher{client: &Client{}, log: m, position: "0", o: WatchOptions{Handle: m.handle, CaughtUp: func() {
			reads = append(reads, time.Since(begin).Truncate(time.Second))
		}}}
		ctx, cancel := context.WithCancel(t.Context())
		var watching sync.WaitGroup
		watching.Go(func() { w.follow(ctx, m.queue, func() bool { return false }) })
		time.Sleep(10*time.Second + time.Millisecond)
		for range 500 { // in half a second
			m.notify(nil, 0)
			time.Sleep(time.Millisecond)
		}
		time.Sleep(2*time.Minute + 30*time.Second)
		cancel()
		watching.Wait()
		t.Log(reads)
		if n := len(reads); n < 5 || n > 7 || reads[0] != 0 || reads[1] != 10*time.Second {
			t.Errorf("the log is read after %v", reads)
		}
	})
}
