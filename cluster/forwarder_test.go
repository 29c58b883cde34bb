package cluster

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestForwarderOverdue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &forwarder{pending: make(map[uint64]*forward), byPartition: make([]unconfirmed, 2)}
		r := new(request)
		f.add(1, &forward{request: r})
		for range 20 { // the broker blocks the connection
			time.Sleep(time.Second)
			f.resetDeadlines()
		}
		if requests := f.overdue(); len(requests) > 0 || !f.add(2, &forward{request: r}) {
			t.Errorf("%d requests are overdue when the broker goes on", len(requests))
		}
		time.Sleep(confirmTimeout + time.Second)
		if requests := f.overdue(); len(requests) != 2 || f.add(3, &forward{request: r}) {
			t.Errorf("%d of 2 requests are overdue, and a third one may follow", len(requests))
		}
		if !f.add(4, &forward{request: r, partition: 1}) {
			t.Error("another partition is overdue as well")
		}
		f.remove(1)
		if requests := f.overdue(); len(requests) > 0 || !f.add(5, &forward{request: r}) {
			t.Errorf("%d requests are overdue although the broker has confirmed one", len(requests))
		}
	})
}
