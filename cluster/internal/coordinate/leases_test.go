package coordinate

import (
	"context"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/glotpod/ident/cluster/ownership"
	"github.com/glotpod/ident/cluster/partition"
)

func TestLeaseEnds(t *testing.T) {
	h := ownership.HandOver{Lease: partition.Lease{Partition: 3, Epoch: 7}, To: ownership.Member{Name: "two"}}

	attempts := 0
	store := &fakeStore{handOver: func(all []ownership.HandOver) ([]ownership.HandedOver, error) {
		if attempts++; attempts < 3 {
			return nil, errDown
		}
		return new(fakeStore).HandOver(context.Background(), all)
	}}
	coordinated(t, "are_tried_until_the_database_confirms", store, func(t *testing.T, c *Coordinator) {
		begun := time.Now()
		var ended time.Duration
		c.EndLease(h, func() { ended = time.Since(begun) })
		time.Sleep(10 * handOverRetryEvery)
		synctest.Wait()
		if ended != 2*handOverRetryEvery || attempts != 3 {
			t.Errorf("ended after %v and %d attempts", ended, attempts)
		}
	})

	coordinated(t, "stop_with_the_coordinator", &fakeStore{handOver: func([]ownership.HandOver) ([]ownership.HandedOver, error) {
		return nil, errDown
	}}, func(t *testing.T, c *Coordinator) {
		c.EndLease(h, func() { t.Error("the lease has ended") })
		time.Sleep(time.Second)
	})

	var sizes []int
	gate := &fakeStore{}
	coordinated(t, "that_wait_are_ended_together", gate, func(t *testing.T, c *Coordinator) {
		block := make(chan struct{})
		gate.handOver = func(all []ownership.HandOver) ([]ownership.HandedOver, error) {
			<-block
			sizes = append(sizes, len(all))
			return new(fakeStore).HandOver(context.Background(), all)
		}
		done := 0
		for range 3 {
			c.EndLease(h, func() { done++ })
			synctest.Wait()
		}
		close(block)
		synctest.Wait()
		if !slices.Equal(sizes, []int{1, 2}) || done != 3 {
			t.Errorf("ended %d in batches of %v", done, sizes)
		}
	})
}

func TestReleases(t *testing.T) {
	var released []partition.Lease
	fails := true
	store := &fakeStore{release: func(leases []partition.Lease) error {
		if fails {
			fails = false
			return errDown
		}
		released = append(released, leases...)
		return nil
	}}
	coordinated(t, "go_on_after_a_failure", store, func(t *testing.T, c *Coordinator) {
		c.releases.Put(partition.Lease{Partition: 1, Epoch: 2})
		synctest.Wait()
		c.releases.Put(partition.Lease{Partition: 3, Epoch: 4})
		synctest.Wait()
		if !slices.Equal(released, []partition.Lease{{Partition: 3, Epoch: 4}}) {
			t.Errorf("released were %v", released)
		}
	})
	var times chan time.Time
	noting := &fakeStore{release: func([]partition.Lease) error {
		times <- time.Now()
		return nil
	}}
	coordinated(t, "wait_for_the_reads_of_a_deposed_holder", noting, func(t *testing.T, c *Coordinator) {
		times = make(chan time.Time, 1)
		var waiting sync.WaitGroup
		notBefore := time.Now().Add(time.Second)
		c.release(t.Context(), &waiting, ownership.Release{NotBefore: notBefore})
		waiting.Wait()
		if at := <-times; !at.Equal(notBefore) {
			t.Errorf("it was released %v too late", at.Sub(notBefore))
		}
	})
}
