package coordinate

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap/zaptest"

	"github.com/glotpod/ident/cluster/ownership"
	"github.com/glotpod/ident/cluster/partition"
)

// A fakeStore stands for a database. The functions, if not nil, replace its methods.
type fakeStore struct {
	claim    func([]ownership.Claim) ([]ownership.Event, error)
	release  func([]partition.Lease) error
	handOver func([]ownership.HandOver) ([]ownership.HandedOver, error)
	survey   func() ([]ownership.Row, error)
}

func (s *fakeStore) Claim(_ context.Context, claims []ownership.Claim) ([]ownership.Event, error) {
	if s.claim != nil {
		return s.claim(claims)
	}
	var events []ownership.Event
	for _, c := range claims {
		events = append(events, ownership.Claimed{Partition: c.Partition, Attempt: c.Attempt, Epoch: 1})
	}
	return events, nil
}

func (s *fakeStore) Release(_ context.Context, leases []partition.Lease) error {
	if s.release != nil {
		return s.release(leases)
	}
	return nil
}

func (s *fakeStore) HandOver(_ context.Context, all []ownership.HandOver) ([]ownership.HandedOver, error) {
	if s.handOver != nil {
		return s.handOver(all)
	}
	var events []ownership.HandedOver
	for _, h := range all {
		events = append(events, ownership.HandedOver{Partition: h.Partition, Epoch: h.Epoch, To: h.To})
	}
	return events, nil
}

func (s *fakeStore) Survey(context.Context) ([]ownership.Row, error) {
	if s.survey != nil {
		return s.survey()
	}
	return nil, nil
}

var errDown = errors.New("down")

const testPartitions = 4

// A fakeExecutor records commands. As the broker does, it brings a message to all members back to
// the instance.
type fakeExecutor struct {
	of *Coordinator // nil: nothing comes back

	mu       sync.Mutex // guards the following fields
	commands []string
	messages int
	started  []partition.Lease
}

func (e *fakeExecutor) add(format string, args ...any) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.commands = append(e.commands, fmt.Sprintf(format, args...))
}

func (e *fakeExecutor) Broadcast(msg ownership.Message) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.messages++
	if e.of != nil {
		e.of.Post(ownership.MessageReceived{Message: msg})
	}
}

func (e *fakeExecutor) Send(to ownership.Member, _ ownership.Message) { e.add("send to %s", to.Name) }
func (e *fakeExecutor) Probe(m ownership.Member)                      { e.add("probe %s", m.Name) }
func (e *fakeExecutor) HandOver(h ownership.HandOver)                 { e.add("hand over %d", h.Partition) }
func (e *fakeExecutor) Abandon(partition int)                         { e.add("abandon %d", partition) }
func (e *fakeExecutor) Reconnect(why string)                          { e.add("reconnect: %s", why) }

func (e *fakeExecutor) StartServing(c ownership.Consume) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.started = append(e.started, c.Lease)
}

// take returns the commands and leases since the last call.
func (e *fakeExecutor) take() (commands []string, started []partition.Lease) {
	e.mu.Lock()
	defer e.mu.Unlock()
	commands, started = e.commands, e.started
	e.commands, e.started = nil, nil
	return commands, started
}

func (e *fakeExecutor) broadcasts() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.messages
}

// coordinated runs a test with a coordinator that runs, in a synctest bubble.
func coordinated(t *testing.T, name string, store *fakeStore, test func(*testing.T, *Coordinator)) {
	t.Helper()
	t.Run(name, func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			cfg := ownership.DefaultConfig()
			cfg.Name, cfg.Start, cfg.Partitions, cfg.QueueType = "one", 1, testPartitions, "quorum"
			c, err := New(cfg, store, zaptest.NewLogger(t), func(ownership.StopReason, string) {})
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			var running sync.WaitGroup
			running.Go(func() { c.Run(ctx) })
			test(t, c)
			cancel()
			running.Wait()
		})
	})
}

// settle attaches an Executor and waits until all partitions are served.
func settle(t *testing.T, c *Coordinator) *fakeExecutor {
	t.Helper()
	e := &fakeExecutor{of: c}
	c.Attach(e, 1)
	serveStarted(t, c, e)
	return e
}

// serveStarted answers the commands to serve until the instance has all partitions.
func serveStarted(t *testing.T, c *Coordinator, e *fakeExecutor) {
	t.Helper()
	for range 100 {
		time.Sleep(100 * time.Millisecond)
		_, started := e.take()
		for _, l := range started {
			c.Post(ownership.Consuming{Partition: l.Partition, Epoch: l.Epoch})
		}
		if status, _ := c.Status(); status.State == ownership.Ready && status.Settled() {
			return
		}
	}
	t.Fatal("the instance does not get its partitions")
}

// held returns how many partitions the core believes to have a lease of.
func held(c *Coordinator) (n int) {
	status, _ := c.Status()
	for _, p := range status.Partitions {
		if p.Epoch != 0 {
			n++
		}
	}
	return n
}
