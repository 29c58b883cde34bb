package sim

import (
	"container/heap"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/glotpod/ident/cluster/ownership"
	"github.com/glotpod/ident/cluster/ownership/hashring"
)

// A world is a deterministic model of everything around the cores: instances that carry
// out their commands, a broker, an epoch table, and a network that delays messages. It
// has a clock of its own. The same seed gives the same history, to the last event.
type world struct {
	setting   setting
	random    *rand.Rand
	start     time.Time
	now       time.Time
	due       dueQueue
	scheduled uint64
	faultsEnd time.Time // when the last fault so far ends

	broker    *broker
	epochs    *epochTable
	instances []*instance // all instances that ever started, in that order
	names     map[string]bool
	assigned  map[string][]string // the result of table, by members
	table     *hashring.Table

	network  network
	count    count
	trace    func(format string, args ...any) // nil: not wanted
	failures []string                         // at most ten
}

// A setting is what does not change in a world.
type setting struct {
	seed       uint64
	partitions int
	fence      fence
	exclusive  bool // partition queues refuse a second consumer instead of letting it wait
	writeEvery time.Duration
	fixed      bool // each message takes exactly a millisecond
	impatient  bool // writes do not wait for the reads of a deposed holder
	weighted   bool // the instances have different weights
}

// A network has the probabilities of what happens to messages between members.
type network struct {
	lost, late, twice float64 // probabilities
}

// A count has the numbers of what all instances have done so far.
type count struct {
	steps, broadcasts, sent, probes, claims, claimsRefused, surveys, membersRefused, stops int
	suspected                                                                              int // members, by one or more others
	won, granted                                                                           int // claims that succeeded, and leases that were given
	moved                                                                                  int // of these: from another name
	deposed                                                                                int // claims that deposed another name
	handedOver, abandoned                                                                  int
	writes, fenced                                                                         int // accepted and refused by the fence
	reads                                                                                  int // from memory
	faults                                                                                 map[string]int
}

func newWorld(s setting, trace func(format string, args ...any)) *world {
	w := &world{
		setting:  s,
		random:   rand.New(rand.NewPCG(s.seed, 0)),
		start:    time.Unix(0, 0).UTC(),
		names:    make(map[string]bool),
		assigned: make(map[string][]string),
		count:    count{faults: make(map[string]int)},
		trace:    trace,
	}
	w.now = w.start
	return w
}

// open makes what depends on the setting, which must not change afterwards.
func (w *world) open() {
	w.table = hashring.NewTable(w.setting.partitions)
	w.broker = newBroker(w)
	w.epochs = newEpochTable(w)
}

// config returns the configuration of an instance.
func (w *world) config(name string, start int64) ownership.Config {
	cfg := ownership.DefaultConfig()
	cfg.Name, cfg.Start = name, start
	cfg.Partitions, cfg.QueueType = w.setting.partitions, "quorum"
	cfg.Seed = w.random.Uint64()
	cfg.Assign = w.assign
	if w.setting.weighted {
		cfg.Weight = 1 + w.random.IntN(3*hashring.UsualWeight)
	}
	return cfg
}

// assign is what all cores use as Config.Assign, so that each ring is computed once.
func (w *world) assign(members []hashring.Member) []string {
	key := fmt.Sprint(members)
	owners, ok := w.assigned[key]
	if !ok {
		owners = w.table.Assign(members)
		w.assigned[key] = owners
	}
	return owners
}

// fail adds a failure.
func (w *world) fail(format string, args ...any) {
	if len(w.failures) < 10 {
		w.failures = append(w.failures, fmt.Sprintf("%8.3fs ", w.elapsed().Seconds())+fmt.Sprintf(format, args...))
	}
}

func (w *world) elapsed() time.Duration { return w.now.Sub(w.start) }

// An action is something that will happen.
type action struct {
	at  time.Duration // since the world's start
	seq uint64        // the order of actions at the same time
	do  func()
}

type dueQueue []*action

func (q dueQueue) Len() int { return len(q) }
func (q dueQueue) Less(i, j int) bool {
	return q[i].at < q[j].at || q[i].at == q[j].at && q[i].seq < q[j].seq
}
func (q dueQueue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *dueQueue) Push(a any)   { *q = append(*q, a.(*action)) }
func (q *dueQueue) Pop() any {
	last := len(*q) - 1
	a := (*q)[last]
	*q = slices.Delete(*q, last, last+1)
	return a
}

// schedule schedules an action.
func (w *world) schedule(t time.Time, do func()) {
	w.scheduled++
	heap.Push(&w.due, &action{at: t.Sub(w.start), seq: w.scheduled, do: do})
}

func (w *world) after(d time.Duration, do func()) { w.schedule(w.now.Add(d), do) }

// afterFault is like after for an action that belongs to a fault. The fault lasts until
// then.
func (w *world) afterFault(d time.Duration, do func()) {
	w.after(d, do)
	if end := w.now.Add(d); end.After(w.faultsEnd) {
		w.faultsEnd = end
	}
}

// run advances the time by d.
func (w *world) run(d time.Duration) {
	end := w.elapsed() + d
	for len(w.due) > 0 && w.due[0].at <= end {
		a := heap.Pop(&w.due).(*action)
		w.now = w.start.Add(a.at)
		a.do()
	}
	w.now = w.start.Add(end)
}

// chance returns true with the given probability.
func (w *world) chance(probability float64) bool {
	return probability > 0 && w.random.Float64() < probability
}

// between returns a random duration.
func (w *world) between(least, most time.Duration) time.Duration {
	return least + time.Duration(w.random.Int64N(int64(most-least)+1))
}

// latency returns how long a message takes from one process to another.
func (w *world) latency() time.Duration {
	if w.setting.fixed {
		return time.Millisecond
	}
	return w.between(200*time.Microsecond, 3*time.Millisecond)
}

// pick returns a random instance for which is returns true, or nil if there is none.
func (w *world) pick(is func(*instance) bool) *instance {
	var found []*instance
	for _, i := range w.instances {
		if is(i) {
			found = append(found, i)
		}
	}
	if len(found) == 0 {
		return nil
	}
	return found[w.random.IntN(len(found))]
}

// find returns the latest instance of a name.
func (w *world) find(name string) *instance {
	for _, i := range slices.Backward(w.instances) {
		if i.name == name {
			return i
		}
	}
	return nil
}
