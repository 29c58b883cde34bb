package cluster

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestAPartitionIsStuckWhenTheBrokerConfirmsNothingThoughItTakesAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &hops{pending: make(map[uint64]*hop), waiting: make([]waiting, 2)}
		c := new(call)
		h.begin(1, &hop{call: c})
		for range 20 { // it takes nothing in for a while
			time.Sleep(time.Second)
			h.excuse()
		}
		if calls := h.stuck(); len(calls) > 0 || !h.begin(2, &hop{call: c}) {
			t.Errorf("%d are given up when the broker goes on", len(calls))
		}
		time.Sleep(stuckAfter + time.Second)
		if calls := h.stuck(); len(calls) != 2 || h.begin(3, &hop{call: c}) {
			t.Errorf("%d of 2 are given up, and a third one may follow", len(calls))
		}
		if !h.begin(4, &hop{call: c, partition: 1}) {
			t.Error("another partition is stuck as well")
		}
		h.end(1)
		if calls := h.stuck(); len(calls) > 0 || !h.begin(5, &hop{call: c}) {
			t.Errorf("%d are given up though the broker has confirmed one", len(calls))
		}
	})
}
