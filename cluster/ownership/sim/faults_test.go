package sim

import (
	"fmt"
	"time"

	"github.com/glotpod/ident/cluster/ownership"
)

// A fault is something that happens to a world, by accident or by an operator.
type fault struct {
	name   string
	weight int
	inject func(w *world)
}

var faults = []fault{
	{"crash", 4, func(w *world) {
		if i := w.pick(running); i != nil {
			i.exit(2 * time.Millisecond)
			if w.chance(0.7) {
				w.afterFault(w.between(0, 5*time.Second), func() { w.launch(i.name) })
			}
		}
	}},
	{"freeze", 4, func(w *world) {
		if i := w.pick(running); i != nil {
			i.freeze(w.between(100*time.Millisecond, 12*time.Second), w.chance(0.2))
		}
	}},
	{"cut", 3, func(w *world) {
		if i := w.pick(running); i != nil {
			i.cut()
		}
	}},
	{"silent cut", 2, func(w *world) {
		if i := w.pick(running); i != nil && i.connection != nil {
			i.sever()
		}
	}},
	{"split", 1, func(w *world) {
		s := split{queuesOn: w.random.IntN(3) - 1, refuse: w.chance(0.5), gone: w.chance(0.5)}
		if d := w.between(0, 8*time.Second); w.broker.split == nil {
			w.broker.divide(s, d)
		}
	}},
	{"mute", 2, func(w *world) {
		if i := w.pick(running); i != nil && i.connection != nil {
			d := w.between(100*time.Millisecond, 8*time.Second)
			i.connection.mutedUntil = w.now.Add(d)
			w.afterFault(d, func() {})
		}
	}},
	{"broker pause", 1, func(w *world) { w.broker.pause(w.between(100*time.Millisecond, 5*time.Second)) }},
	{"join", 2, func(w *world) { w.launch(fmt.Sprintf("n%02d", len(w.instances))) }},
	{"twice", 1, func(w *world) {
		if i := w.pick(running); i != nil {
			w.launch(i.name)
		}
	}},
	{"leave", 3, func(w *world) {
		if i := w.pick(running); i != nil {
			i.post(ownership.LeaveRequested{})
			if w.chance(0.7) {
				w.afterFault(w.between(0, 5*time.Second), func() { w.launch(i.name) })
			}
		}
	}},
	{"drain", 2, func(w *world) {
		if i := w.pick(running); i != nil {
			i.post(ownership.DrainRequested{})
			w.afterFault(w.between(0, 8*time.Second), func() { i.post(ownership.UndrainRequested{}) })
		}
	}},
	{"drain of several", 1, func(w *world) {
		for range 3 {
			if i := w.pick((*instance).serving); i != nil {
				i.post(ownership.DrainRequested{})
				w.afterFault(w.between(0, 8*time.Second), func() { i.post(ownership.UndrainRequested{}) })
			}
		}
	}},
	{"move", 3, func(w *world) {
		p := w.random.IntN(w.setting.partitions)
		for range 1 + w.random.IntN(2) { // two contradict each other
			if i := w.pick(running); i != nil {
				i.post(ownership.MoveRequested{Partition: p})
				if w.chance(0.3) {
					w.afterFault(w.between(0, 5*time.Second), func() { i.post(ownership.MoveRequested{Partition: p, Undo: true}) })
				}
			}
		}
	}},
	{"database outage", 1, func(w *world) {
		if w.epochs.up {
			w.epochs.outage(w.between(100*time.Millisecond, 8*time.Second))
		}
	}},
	{"lost commits", 1, func(w *world) { w.epochs.loseCommits(w.between(0, 5*time.Second)) }},
	{"broker restart", 1, func(w *world) {
		if w.broker.up {
			w.broker.restart(w.between(0, 5*time.Second))
		}
	}},
	{"stranger's parameters", 1, func(w *world) {
		name := fmt.Sprintf("n%02d", len(w.instances))
		w.launch(name, func(cfg *ownership.Config) { cfg.QueueType = "classic" })
	}},
}

func running(i *instance) bool { return i.running }

// injectFaults injects faults for the time d, about one per interval.
func (w *world) injectFaults(d, interval time.Duration) {
	total := 0
	for _, f := range faults {
		total += f.weight
	}
	for end := w.now.Add(d); w.now.Before(end); {
		w.run(w.between(0, 2*interval))
		n := w.random.IntN(total)
		for _, f := range faults {
			if n -= f.weight; n < 0 {
				w.count.faults[f.name]++
				f.inject(w)
				break
			}
		}
	}
}

// makeUnreliable sets probabilities for faults of the network and the database that are
// rare in reality.
func (w *world) makeUnreliable() {
	w.network = network{
		lost:  []float64{0, 0.02, 0.3}[w.random.IntN(3)],
		late:  []float64{0, 0.02, 0.2}[w.random.IntN(3)],
		twice: []float64{0, 0.02, 0.2}[w.random.IntN(3)],
	}
	w.epochs.lostAnswers = []float64{0, 0.01, 0.1}[w.random.IntN(3)]
	w.epochs.slowStatements = []float64{0, 0.01, 0.05}[w.random.IntN(3)]
}

// stopFaults ends the faults, and waits until the last one has passed.
func (w *world) stopFaults() {
	w.network = network{}
	w.epochs.lostAnswers, w.epochs.slowStatements = 0, 0
	for w.now.Before(w.faultsEnd) {
		w.run(w.faultsEnd.Sub(w.now))
	}
	if w.pick((*instance).serving) == nil {
		w.launch("last")
	}
}
