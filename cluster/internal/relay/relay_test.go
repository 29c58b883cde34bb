package relay

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"reflect"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/cluster/partition"
)

// seeds is how many random worlds are tried. The environment variable RELAY_SEEDS changes it.
func seeds() int {
	if n, err := strconv.Atoi(os.Getenv("RELAY_SEEDS")); err == nil {
		return n
	}
	return 60
}

// TestOrder checks that the requests of each user that one instance receives are carried out in their
// order, and each of them, whatever happens to messages and instances.
func TestOrder(t *testing.T) {
	for seed := range seeds() {
		t.Run(fmt.Sprint("seed_", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { testOrder(t, uint64(seed)) })
		})
	}
}

func testOrder(t *testing.T, seed uint64) {
	const users, requests = 5, 300
	w := newWorld(t, seed, 3)
	router := w.instances[partition.Member{Name: "i0"}]
	faults := rand.New(rand.NewPCG(seed, 2))
	w.faults, w.busy = float64(faults.IntN(3))*0.05, float64(faults.IntN(3))*0.002
	all := []*instance{router, w.instances[partition.Member{Name: "i1"}], w.instances[partition.Member{Name: "i2"}]}
	w.take(all[faults.IntN(3)])
	var disturbing sync.WaitGroup
	disturbing.Go(func() {
		for range 8 {
			time.Sleep(time.Duration(faults.IntN(600)) * time.Millisecond)
			switch i := all[faults.IntN(3)]; faults.IntN(3) {
			case 0:
				w.take(i)
			case 1:
				disturbing.Go(func() { w.freeze(i, w.upTo(time.Second)) })
			case 2:
				w.mu.Lock()
				w.serving, w.epoch = nil, w.epoch+1 // nobody consumes the queue
				w.mu.Unlock()
				time.Sleep(w.upTo(500 * time.Millisecond))
				w.take(i)
			}
		}
	})
	for number := range requests {
		time.Sleep(w.upTo(20 * time.Millisecond))
		for n := range 1 + int(w.upTo(4)) {
			router.relay.Forward(0, &write{router, int(w.upTo(users)), 10*number + n}, w.happens(0.005))
		}
	}
	disturbing.Wait()
	time.Sleep(5 * time.Second)
	w.mu.Lock()
	defer w.close()
	defer w.mu.Unlock()
	total := 0
	for user, numbers := range w.applied {
		if !slices.IsSorted(numbers) {
			t.Errorf("the requests of user %d were carried out in the order %v", user, numbers)
		}
		total += len(numbers)
	}
	if len(w.completed) != total || len(w.queue) > 0 {
		t.Errorf("%d requests were completed, %d carried out, %d are in the queue", len(w.completed), total, len(w.queue))
	}
	for key, n := range w.completed {
		if w.done[key] == 0 || n != 1 {
			t.Errorf("request %v was completed %d times and carried out %d times", key, n, w.done[key])
		}
	}
}

func TestRelay(t *testing.T) {
	member := func(w *world, n int) *instance { return w.instances[partition.Member{Name: fmt.Sprint("i", n)}] }
	in := func(name string, test func(t *testing.T, w *world)) {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, 1, 2)
				defer w.close()
				test(t, w)
			})
		})
	}
	// send forwards n requests, one after another, and returns how many were relayed.
	send := func(w *world, from *instance, first, n int) int {
		before, _ := w.relayedAndApplied()
		for i := range n {
			from.relay.Forward(0, &write{from, 1, first + i}, false)
			time.Sleep(50 * time.Millisecond)
		}
		after, _ := w.relayedAndApplied()
		return after - before
	}

	in("requests are relayed once the queue is flushed", func(t *testing.T, w *world) {
		w.take(member(w, 1))
		send(w, member(w, 0), 0, 2)
		if n := send(w, member(w, 0), 10, 5); n != 5 {
			t.Errorf("%d of 5 requests were relayed", n)
		}
	})
	in("an instance that serves the partition itself relays nothing", func(t *testing.T, w *world) {
		w.take(member(w, 0))
		n := send(w, member(w, 0), 0, 5)
		if _, applied := w.relayedAndApplied(); n != 0 || applied != 5 {
			t.Errorf("%d were relayed, %d carried out", n, applied)
		}
	})
	in("an instance that takes the partition serves its own requests again", func(t *testing.T, w *world) {
		w.take(member(w, 1))
		send(w, member(w, 0), 0, 5)
		w.take(member(w, 0))
		send(w, member(w, 0), 10, 3)
		if !member(w, 0).relay.routes[0].isLocal.Load() {
			t.Error("the requests do not go to the actors")
		}
	})
	in("what a frozen instance does not report goes to the queue within 300 ms", func(t *testing.T, w *world) {
		w.take(member(w, 1))
		send(w, member(w, 0), 0, 3)
		w.setFrozen(member(w, 1), true)
		member(w, 0).relay.Forward(0, &write{member(w, 0), 1, 10}, false)
		time.Sleep(300 * time.Millisecond)
		w.mu.Lock()
		defer w.mu.Unlock()
		if len(w.queue) == 0 || w.queue[0].write == nil {
			t.Errorf("the queue has %+v", w.queue)
		}
	})
	in("a lane that is idle sends at once, a busy one gathers", func(t *testing.T, w *world) {
		w.take(member(w, 1))
		send(w, member(w, 0), 0, 3)
		w.mu.Lock()
		w.batches = nil
		w.mu.Unlock()
		for i := range 20 {
			member(w, 0).relay.Forward(0, &write{member(w, 0), 1, 10 + i}, false)
		}
		time.Sleep(time.Second)
		w.mu.Lock()
		defer w.mu.Unlock()
		if len(w.batches) > 3 {
			t.Errorf("20 requests were sent in batches of %v", w.batches)
		}
	})
	in("a busy lane does not gather beside a request that is to be sent at once", func(t *testing.T, w *world) {
		w.take(member(w, 1))
		send(w, member(w, 0), 0, 3)
		late := func(atOnce bool) time.Duration {
			for i := range 20 {
				member(w, 0).relay.Forward(0, &write{member(w, 0), 1, 10 + i}, false)
			}
			time.Sleep(time.Second)
			w.mu.Lock()
			w.batches, w.atOnce = nil, atOnce
			w.mu.Unlock()
			begun := time.Now()
			member(w, 0).relay.Forward(0, &write{member(w, 0), 1, 100}, false)
			for sent := 0; sent == 0; time.Sleep(time.Microsecond) {
				w.mu.Lock()
				sent = len(w.batches)
				w.mu.Unlock()
			}
			return time.Since(begun)
		}
		if alone, beside := late(true), late(false); alone > 10*time.Microsecond || beside < 3*alone {
			t.Errorf("it was sent after %v, another one after %v", alone, beside)
		}
	})
	in("an instance without a queue costs nothing but the way through the partition's queue", func(t *testing.T, w *world) {
		w.take(member(w, 1))
		send(w, member(w, 0), 0, 3)
		gone := member(w, 1)
		w.mu.Lock()
		delete(w.instances, gone.self)
		w.mu.Unlock()
		send(w, member(w, 0), 10, 1)
		_, applied := w.relayedAndApplied()
		if lanes, _ := member(w, 0).counts(); applied != 4 || lanes != 0 {
			t.Errorf("%d were carried out, %d lanes are open", applied, lanes)
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		w.instances[gone.self] = gone // to be closed
	})
	in("an instance without room gets no request for a second, and then longer", func(t *testing.T, w *world) {
		w.take(member(w, 1))
		send(w, member(w, 0), 0, 3)
		w.set(func() { w.busy = 1 })
		if n := send(w, member(w, 0), 10, 19); n != 0 { // 950 ms
			t.Errorf("%d requests were relayed", n)
		}
		w.set(func() { w.busy = 0 })
		if n := send(w, member(w, 0), 30, 10); n == 0 {
			t.Error("no request was relayed after a second")
		}
	})
	in("a request that takes long goes to the queue after a second", func(t *testing.T, w *world) {
		w.take(member(w, 1))
		send(w, member(w, 0), 0, 3)
		w.set(func() { w.slow = time.Minute })
		send(w, member(w, 0), 10, 1)
		time.Sleep(800 * time.Millisecond)
		if _, n := member(w, 0).counts(); n != 1 {
			t.Errorf("%d requests are relayed after 850 ms", n)
		}
		time.Sleep(400 * time.Millisecond)
		if _, n := member(w, 0).counts(); n != 0 {
			t.Errorf("%d requests are relayed after 1.25 s", n)
		}
	})
	in("an urgent report does not wait, others wait for each other", func(t *testing.T, w *world) {
		w.take(member(w, 1))
		send(w, member(w, 0), 0, 3)
		for _, c := range []struct {
			outcome Outcome
			known   bool
		}{{DoneUrgent, true}, {Done, false}} {
			w.set(func() { w.outcome = &c.outcome })
			member(w, 0).relay.Forward(0, &write{member(w, 0), 1, 10 + int(c.outcome)}, false)
			time.Sleep(16 * time.Millisecond)
			if _, n := member(w, 0).counts(); (n == 0) != c.known {
				t.Errorf("after 16 ms, %d requests with the outcome %d are relayed", n, c.outcome)
			}
			time.Sleep(time.Second)
		}
	})
	in("flush waits until accepted requests are complete and reported", func(t *testing.T, w *world) {
		w.take(member(w, 1))
		send(w, member(w, 0), 0, 3)
		member(w, 0).relay.Forward(0, &write{member(w, 0), 1, 10}, false)
		time.Sleep(5 * time.Millisecond)
		member(w, 1).relay.Flush(t.Context())
		time.Sleep(5 * time.Millisecond)
		if _, n := member(w, 0).counts(); n != 0 {
			t.Errorf("%d requests are relayed", n)
		}
	})
	in("a report after the end starts nothing", func(t *testing.T, w *world) {
		member(w, 0).relay.Close()
		member(w, 0).relay.Report(member(w, 1).self, 1, Done)
		if n, _ := member(w, 0).counts(); n != 0 {
			t.Errorf("%d lanes are open", n)
		}
	})
	in("lanes that are not used are closed", func(t *testing.T, w *world) {
		w.take(member(w, 1))
		send(w, member(w, 0), 0, 5)
		time.Sleep(2 * laneIdleFor)
		member(w, 0).relay.Sweep()
		if n, _ := member(w, 0).counts(); n != 0 {
			t.Errorf("%d lanes are open", n)
		}
		if send(w, member(w, 0), 10, 5) == 0 {
			t.Error("nothing was relayed after that")
		}
	})
}

func TestWire(t *testing.T) {
	m := &message{
		from: partition.Member{Name: "a", Incarnation: partition.Incarnation{Start: 1, Session: 2}},
		requests: []*Request{{
			Number: 1, Partition: 2, Ask: 3, Operation: "rpc.user.patch", MessageID: "m", ReplyTo: "r", CorrelationID: "c", Expiration: "5",
			RequestID: actor.RequestID{1, 2}, NewUser: 7, FirstReceived: 8, Redelivered: true, Urgent: true, AtOnce: true, Caller: "l", TraceParent: "p", TraceState: "s", Body: []byte("body"),
		}, {Body: []byte{}}},
		report:  Report{Done: []int64{1, 2}, Returned: []int64{5}, Refused: []int64{3}, Busy: []int64{6}, Working: []int64{4}},
		answers: []Answer{{Partition: 1, Ask: 2}},
	}
	got, err := decode(m.encode())
	if err != nil || !reflect.DeepEqual(got, m) {
		t.Errorf("decoded is %+v, %v", got, err)
	}
	for n := range m.encode() {
		if _, err := decode(m.encode()[:n]); err == nil {
			t.Errorf("%d bytes of a message were decoded", n)
		}
	}
	if _, err := decode(append([]byte{wireVersion - 1}, m.encode()[1:]...)); !errors.Is(err, errOtherVersion) {
		t.Errorf("a message of another version: %v", err)
	}
	if _, err := decode(append(m.encode(), 0)); err == nil {
		t.Error("a message with one more byte was decoded")
	}
}

// FuzzDecode checks that what is decoded is encoded as the same message.
func FuzzDecode(f *testing.F) {
	f.Add((&message{requests: []*Request{{Body: []byte("b")}}, report: Report{Done: []int64{1}}, answers: []Answer{{1, 2}}}).encode())
	f.Add([]byte{1, 0xdd, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := decode(data)
		if err != nil {
			return
		}
		again, err := decode(m.encode())
		if err != nil || !bytes.Equal(again.encode(), m.encode()) {
			t.Errorf("%+v was encoded as %+v, %v", m, again, err)
		}
	})
}
