package repartition

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/glotpod/ident/cluster/internal/topology"
	"github.com/glotpod/ident/cluster/membership"
	"github.com/glotpod/ident/cluster/partition"
)

func classic(first, partitions int) partition.Generation {
	return partition.Generation{First: first, Partitions: partitions, QueueType: topology.Classic}
}

func quorum(first, partitions int) partition.Generation {
	return partition.Generation{First: first, Partitions: partitions, QueueType: topology.Quorum}
}

// inWorld runs a test with some instances that serve.
func inWorld(t *testing.T, from partition.Generation, test func(*testing.T, *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, from, 3)
		time.Sleep(2 * time.Second)
		test(t, w)
	})
}

// at has f called when a repartition gets into a phase for the first time.
func (w *world) at(phase partition.Phase, f func()) {
	w.onPhase = func(p partition.Phase) {
		if p == phase {
			w.onPhase = func(partition.Phase) {}
			w.ending.Go(f)
		}
	}
}

func (w *world) want(phase, got partition.Phase, pause time.Duration) {
	w.t.Helper()
	w.finish()
	if got != phase {
		w.t.Errorf("the repartition is %s: %s", got, w.data.r.Note)
	}
	if longest := w.pause(); longest > pause {
		w.t.Errorf("a request took %v", longest)
	}
	w.t.Logf("a request took up to %v; no generation was served for %v", w.pause(), w.pauses)
}

// TestRepartition: whatever fails, each request is carried out once, those of a user in order, and by one
// owner at a time. Nobody waits for a queue that is not available but its own users.
func TestRepartition(t *testing.T) {
	t.Run("nothing_fails", func(t *testing.T) {
		inWorld(t, classic(0, 4), func(t *testing.T, w *world) {
			phase := w.repartition(quorum(4, 8))
			if phase == partition.Done {
				phase = w.repartition(classic(12, 3))
			}
			w.want(partition.Done, phase, 2*time.Second)
		})
	})
	t.Run("an_old_queue_hangs", func(t *testing.T) {
		inWorld(t, classic(0, 4), func(t *testing.T, w *world) {
			w.at(partition.Moving, func() {
				w.outage(topology.PartitionQueue(2), 30*time.Second, func(q *queue, on bool) { q.hung = on })
				time.Sleep(10 * time.Second)
				w.mu.Lock()
				defer w.mu.Unlock()
				if w.server.queues[topology.PartitionQueue(2)] == nil {
					t.Error("the queue is deleted, and with it what the broker has kept in the channels of its senders")
				}
			})
			w.want(partition.Done, w.repartition(quorum(4, 8)), 20*time.Second)
		})
	})
	t.Run("the_node_of_an_old_queue_stops", func(t *testing.T) {
		inWorld(t, classic(0, 4), func(t *testing.T, w *world) {
			w.at(partition.Moving, func() { w.outage(topology.PartitionQueue(2), 30*time.Second, func(q *queue, on bool) { q.stop(on) }) })
			w.want(partition.Done, w.repartition(quorum(4, 8)), 10*time.Second)
		})
	})
	t.Run("the_node_of_the_first_old_queue_stops", func(t *testing.T) {
		inWorld(t, classic(0, 4), func(t *testing.T, w *world) {
			first := topology.PartitionQueue(0)
			w.at(partition.Stopping, func() { w.outage(first, 15*time.Second, func(q *queue, on bool) { q.stop(on) }) })
			w.onCopy = func() {
				if w.data.r.Phase == partition.Moving && slices.Contains(w.server.bound, first) {
					t.Error("direct requests go to the queue that is not available")
				}
			}
			w.want(partition.Done, w.repartition(quorum(4, 8)), 10*time.Second)
		})
	})
	t.Run("a_new_queue_hangs", func(t *testing.T) {
		inWorld(t, quorum(0, 4), func(t *testing.T, w *world) {
			w.at(partition.Moving, func() { w.outage(topology.PartitionQueue(7), 30*time.Second, func(q *queue, on bool) { q.hung = on }) })
			w.want(partition.Done, w.repartition(quorum(4, 8)), 20*time.Second)
		})
	})
	t.Run("a_new_queue_hangs_before", func(t *testing.T) {
		inWorld(t, quorum(0, 4), func(t *testing.T, w *world) {
			w.at(partition.Stopping, func() { w.outage(topology.PartitionQueue(7), 30*time.Second, func(q *queue, on bool) { q.hung = on }) })
			w.want(partition.GivenUp, w.repartition(quorum(4, 8)), 9*time.Second)
		})
	})
	t.Run("an_alarm_before", func(t *testing.T) {
		inWorld(t, quorum(0, 4), func(t *testing.T, w *world) {
			w.mu.Lock()
			w.server.alarm = true
			w.mu.Unlock()
			w.want(partition.GivenUp, w.repartition(quorum(4, 8)), 2*time.Second)
		})
	})
	t.Run("an_old_queue_is_full", func(t *testing.T) {
		inWorld(t, classic(0, 4), func(t *testing.T, w *world) {
			w.at(partition.Moving, func() { w.outage(topology.PartitionQueue(2), 30*time.Second, func(q *queue, on bool) { q.full = on }) })
			w.want(partition.Done, w.repartition(quorum(4, 8)), 10*time.Second)
		})
	})
	t.Run("requests_come_back_late", func(t *testing.T) {
		inWorld(t, quorum(0, 4), func(t *testing.T, w *world) {
			w.server.returns = time.Minute
			w.at(partition.Stopping, func() { w.instances["i1"].cutOff(time.Minute) })
			w.want(partition.Done, w.repartition(quorum(4, 8)), 25*time.Second)
		})
	})
	t.Run("bodies_are_large", func(t *testing.T) {
		inWorld(t, classic(0, 4), func(t *testing.T, w *world) {
			w.mu.Lock()
			w.body, w.slow = 1000, 200*time.Millisecond
			w.mu.Unlock()
			time.Sleep(time.Second) // requests are in the queues
			w.want(partition.Done, w.repartition(quorum(4, 8)), 15*time.Second)
		})
	})
}

// TestIsGone: a member is gone if its queue is, but not while the queue's node is down or does not respond.
func TestIsGone(t *testing.T) {
	inWorld(t, classic(0, 1), func(t *testing.T, w *world) {
		b := &declarer{conn: w.server.dial("mover")}
		defer b.close()
		member := w.instances["i1"].member
		for when, set := range map[string]func(q *queue, on bool){
			"it is connected": func(*queue, bool) {}, "the node is down": func(q *queue, on bool) { q.down = on },
			"the node does not respond": func(q *queue, on bool) { q.hung = on },
		} {
			w.affect(membership.QueueOf(member), func(q *queue) { set(q, true) })
			if gone, err := b.isGone(t.Context(), member); gone || err != nil {
				t.Errorf("%s: %v, %v", when, gone, err)
			}
			w.affect(membership.QueueOf(member), func(q *queue) { set(q, false) })
		}
		w.instances["i1"].crash()
		if gone, err := b.isGone(t.Context(), member); !gone || err != nil || w.server.queues[membership.QueueOf(member)] != nil {
			t.Errorf("it is over: %v, %v, %v", gone, err, w.server.queues[membership.QueueOf(member)])
		}
		w.finish()
	})
}

// TestIsMissing: a queue that is back when that is found out is not made anew, and keeps what is in it.
func TestIsMissing(t *testing.T) {
	inWorld(t, classic(0, 1), func(t *testing.T, w *world) {
		b := &declarer{conn: w.server.dial("mover")}
		defer b.close()
		for _, name := range []string{topology.RequestQueue, topology.PartitionQueue(0), topology.PartitionQueue(9)} {
			exists := w.server.queues[name] != nil
			if missing, err := b.isMissing(t.Context(), name, true, false, topology.PartitionArguments(topology.Classic)); missing == exists || err != nil {
				t.Errorf("%s exists is %v: %v, %v", name, exists, missing, err)
			}
			if (w.server.queues[name] != nil) != exists {
				t.Errorf("%s existed: %v", name, exists)
			}
		}
		w.server.limited = true
		if _, err := b.isMissing(t.Context(), topology.PartitionQueue(9), true, false, nil); err == nil || !strings.Contains(err.Error(), "max-queues") {
			t.Errorf("the broker makes no more queues: %v", err)
		}
		w.server.limited = false
		w.finish()
	})
}

// TestFindSilent: queues are silent if others are not; else the broker or the connection is at fault.
func TestFindSilent(t *testing.T) {
	inWorld(t, classic(0, 3), func(t *testing.T, w *world) {
		queues := append(topology.QueuesOf(classic(0, 3)), topology.RequestQueue)
		hang := func(on bool, names ...string) {
			for _, name := range names {
				w.affect(name, func(q *queue) { q.hung = on })
			}
		}
		hang(true, queues[1])
		if silent, err := ProberOver(w.server.dial("probes")).FindSilent(t.Context(), queues); err != nil || len(silent) != 1 || silent[queues[1]] == nil {
			t.Errorf("one hangs: %v, %v", silent, err)
		}
		for _, after := range []time.Duration{0, 500 * time.Millisecond, 3 * time.Second} {
			conn := w.server.dial("probes")
			time.AfterFunc(after, func() { conn.CloseDeadline(time.Time{}) })
			if silent, err := ProberOver(conn).FindSilent(t.Context(), queues); err == nil {
				t.Errorf("the connection is lost after %v: %v", after, silent)
			}
		}
		hang(true, queues...)
		if silent, err := ProberOver(w.server.dial("probes")).FindSilent(t.Context(), queues); err == nil {
			t.Errorf("all hang: %v", silent)
		}
		hang(false, queues...)
		w.finish()
	})
}

// TestEnd: an attempt that has ended the old generation and fails then says why, and leaves the rest to another.
func TestEnd(t *testing.T) {
	inWorld(t, classic(0, 1), func(t *testing.T, w *world) {
		w.data.begin(quorum(1, 1))
		w.mu.Lock()
		begun := *w.data.r
		begun.Age = time.Minute
		w.data.r.Phase, w.data.r.Attempt, w.data.until = partition.Moving, 1, time.Now().Add(2*time.Second)
		w.mu.Unlock()
		o := w.options(w.instances["i1"])
		a := &attempt{o: &o, r: &begun, n: 1, phase: partition.Moving, begun: time.Now()}
		a.end(t.Context(), errHangs)
		w.mu.Lock()
		note, until := w.data.r.Note, w.data.until
		w.mu.Unlock()
		if note != errHangs.Error() || until.After(time.Now()) {
			t.Errorf("the note is %q, and another attempt can begin in %v", note, time.Until(until))
		}
		w.finish()
	})
}

// TestIntake: no more is kept in memory than allowed, but one body of the queue that is being emptied.
func TestIntake(t *testing.T) {
	for _, tt := range []struct {
		used, held int64
		current    bool
		kept       int
	}{{0, 0, false, 3}, {1500, 0, false, 2}, {9000, 0, false, 0}, {9000, 0, true, 1}, {9000, 1, true, 0}} {
		m := &mover{bytes: &memory{size: 3500}}
		m.bytes.used.Store(tt.used)
		q, in := new(oldQueue), &intake{received: make(chan amqp.Delivery, 8)}
		q.current.Store(tt.current)
		q.held.Store(tt.held)
		deliveries := make(chan amqp.Delivery, 8)
		for range 8 {
			deliveries <- amqp.Delivery{Body: make([]byte, 1000)}
		}
		close(deliveries)
		m.receive(q, in, deliveries)
		if kept := len(in.received); kept != tt.kept || !in.over.Load() || m.bytes.used.Load() != tt.used+int64(1000*kept) {
			t.Errorf("%+v: %d are kept, over is %v, and %d bytes are used", tt, kept, in.over.Load(), m.bytes.used.Load())
		}
	}
}

// outage has a queue be unavailable for a time.
func (w *world) outage(name string, d time.Duration, change func(q *queue, on bool)) {
	w.affect(name, func(q *queue) { change(q, true) })
	time.Sleep(d)
	w.affect(name, func(q *queue) { change(q, false) })
}

// stop stops the node of a queue, which then has no consumers, or starts it.
func (q *queue) stop(on bool) {
	q.down = on
	for on && len(q.consumers) > 0 {
		c := q.consumers[0]
		c.removeLocked()
		close(c.deliveries)
		c.channel.consumers = nil
	}
}

// TestHistories: the same with up to two random faults at random times.
func TestHistories(t *testing.T) {
	histories := 4
	if os.Getenv("GLOTPOD_IDENT_TEST_LONG") != "" {
		histories = 100
	}
	for seed := range uint64(histories) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { testHistory(t, seed) })
		})
	}
}

func testHistory(t *testing.T, seed uint64) {
	random := rand.New(rand.NewPCG(seed, 8))
	types := []string{topology.Classic, topology.Quorum}
	from := partition.Generation{Partitions: 1 + random.IntN(5), QueueType: types[random.IntN(2)]}
	w := newWorld(t, seed, from, 2+random.IntN(3))
	w.server.returns = []time.Duration{0, 5 * time.Second, time.Minute}[random.IntN(3)]
	time.Sleep(2 * time.Second)
	to := partition.Generation{First: from.End(), Partitions: 1 + random.IntN(8), QueueType: types[random.IntN(2)]}
	for range 1 + random.IntN(2) {
		after := time.Duration(random.Int64N(int64(250 * time.Millisecond))) // it takes as long if nothing fails
		lasts := time.Duration(random.Int64N(int64(20 * time.Second)))
		victim := fmt.Sprint("i", random.IntN(len(w.instances)))
		name := topology.PartitionQueue(random.IntN(to.End()))
		kind := random.IntN(6)
		w.ending.Go(func() {
			time.Sleep(after)
			t.Logf("fault %d, of %s or %s, for %v", kind, victim, name, lasts)
			w.strike(kind, victim, name, lasts)
		})
	}
	time.Sleep(100 * time.Millisecond)
	phase := w.repartition(to)
	for phase == partition.GivenUp {
		t.Logf("given up: %s", w.data.r.Note)
		to.First = to.End()
		phase = w.repartition(to)
	}
	w.want(partition.Done, phase, time.Minute)
}

// strike is a fault.
func (w *world) strike(kind int, victim, name string, lasts time.Duration) {
	w.mu.Lock()
	exists := w.server.queues[name] != nil
	i := w.instances[victim]
	w.mu.Unlock()
	switch {
	case kind == 0:
		i.crash()
		time.Sleep(lasts)
		i.running.Wait()
		w.start(victim)
	case kind == 1:
		i.freeze(lasts)
	case kind == 5:
		i.cutOff(lasts)
	case !exists:
	case kind == 2:
		w.outage(name, lasts, func(q *queue, on bool) { q.hung = on })
	case kind == 3:
		w.outage(name, lasts, func(q *queue, on bool) { q.stop(on) })
	case kind == 4:
		w.outage(name, lasts, func(q *queue, on bool) { q.full = on })
	}
}
