package coordinate

import (
	"context"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/glotpod/ident/cluster/internal/batchqueue"
	"github.com/glotpod/ident/cluster/ownership"
	"github.com/glotpod/ident/cluster/partition"
	"github.com/glotpod/ident/cluster/wait"
)

const (
	// claimTimeout, releaseTimeout and surveyTimeout each bound one call of the
	// LeaseStore.
	claimTimeout   = 8 * time.Second
	releaseTimeout = 5 * time.Second
	surveyTimeout  = 5 * time.Second

	// handOverRetryEvery is the pause after a failed attempt to end leases.
	handOverRetryEvery = 200 * time.Millisecond
)

// A LeaseStore has the epoch table: a row per partition, with its lease.
type LeaseStore interface {
	// Claim makes claims, and returns for each an ownership.Claimed or an
	// ownership.ClaimRefused. After an error it is unknown which claims were made.
	Claim(ctx context.Context, claims []ownership.Claim) ([]ownership.Event, error)

	// Release ends leases. Leases that are lost already stay so.
	Release(ctx context.Context, leases []partition.Lease) error

	// HandOver ends leases in favour of other members, and returns for each whether it
	// did.
	HandOver(ctx context.Context, all []ownership.HandOver) ([]ownership.HandedOver, error)

	// Survey returns the rows of the epoch table.
	Survey(ctx context.Context) ([]ownership.Row, error)
}

// A leaseEnd is a call of EndLease.
type leaseEnd struct {
	handOver ownership.HandOver
	done     func()
}

// claim queues a claim.
func (c *Coordinator) claim(claim ownership.Claim) {
	c.claimed[claim.Partition].Store(time.Now().UnixNano())
	if claim.Depose == 0 {
		c.claims.Put(claim)
	} else {
		c.deposals.Put(claim)
	}
}

// release queues a release, when its time has come.
func (c *Coordinator) release(ctx context.Context, workers *sync.WaitGroup, r ownership.Release) {
	delay := time.Until(r.NotBefore)
	if delay <= 0 {
		c.releases.Put(r.Lease)
		return
	}
	workers.Go(func() {
		if wait.For(ctx, delay) == nil {
			c.releases.Put(r.Lease)
		}
	})
}

// partitionsField returns a log field with the partitions of some items.
func partitionsField[T any](items []T, partition func(T) int) zap.Field {
	numbers := make([]int, len(items))
	for i, item := range items {
		numbers[i] = partition(item)
	}
	return zap.Ints("partitions", numbers)
}

// claimAll makes the queued claims; those that wait at the same time go to the store
// together.
func (c *Coordinator) claimAll(ctx context.Context, claims *batchqueue.Queue[ownership.Claim]) {
	for batch := range claims.Batches(ctx) {
		results := c.claimBatch(ctx, batch)
		for i, result := range results {
			if _, claimed := result.(ownership.Claimed); !claimed {
				c.claimed[batch[i].Partition].Store(0)
			}
		}
		c.Post(results...)
	}
}

// claimBatch makes claims, and returns an event for each.
func (c *Coordinator) claimBatch(ctx context.Context, batch []ownership.Claim) []ownership.Event {
	claiming, cancel := context.WithTimeout(ctx, claimTimeout)
	defer cancel()
	results, err := c.store.Claim(claiming, batch)
	if err == nil {
		return results
	}
	if ctx.Err() == nil {
		c.log.Warn("partitions not claimed", partitionsField(batch, func(c ownership.Claim) int { return c.Partition }), zap.Error(err))
	}
	results = nil
	for _, claim := range batch {
		results = append(results, ownership.ClaimFailed{Partition: claim.Partition, Attempt: claim.Attempt})
	}
	return results
}

// releaseAll releases leases of partitions that are not served. It is not tried again
// after a failure: the members that are to claim these partitions find the leases.
func (c *Coordinator) releaseAll(ctx context.Context) {
	for batch := range c.releases.Batches(ctx) {
		releasing, cancel := context.WithTimeout(ctx, releaseTimeout)
		err := c.store.Release(releasing, batch)
		cancel()
		if err != nil {
			c.log.Warn("partitions not released", partitionsField(batch, func(l partition.Lease) int { return l.Partition }), zap.Error(err))
			continue
		}
		var released []ownership.Event
		for _, lease := range batch {
			released = append(released, ownership.LeaseReleased{Partition: lease.Partition, Epoch: lease.Epoch})
		}
		c.Post(released...)
	}
}

// endLeases ends the leases of partitions that were handed over; those that wait at the
// same time go to the store together.
func (c *Coordinator) endLeases(ctx context.Context) {
	for batch := range c.leaseEnds.Batches(ctx) {
		var all []ownership.HandOver
		for _, b := range batch {
			all = append(all, b.handOver)
		}
		results, err := c.endBatch(ctx, all)
		for err != nil {
			c.log.Warn("partitions not handed over, trying again", partitionsField(all, func(h ownership.HandOver) int { return h.Partition }), zap.Error(err))
			if wait.For(ctx, handOverRetryEvery) != nil {
				return
			}
			results, err = c.endBatch(ctx, all)
		}
		var events []ownership.Event
		for i, b := range batch {
			b.done()
			events = append(events, results[i])
		}
		c.Post(events...)
	}
}

func (c *Coordinator) endBatch(ctx context.Context, all []ownership.HandOver) ([]ownership.HandedOver, error) {
	ctx, cancel := context.WithTimeout(ctx, releaseTimeout)
	defer cancel()
	return c.store.HandOver(ctx, all)
}

// survey reads the epoch table for the ownership core. After a failure, which the store
// has logged, the core asks again.
func (c *Coordinator) survey(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, surveyTimeout)
	defer cancel()
	askedAt := time.Now()
	rows, err := c.store.Survey(ctx)
	if err != nil {
		return
	}
	c.Post(ownership.Surveyed{Rows: rows, AskedAt: askedAt})
}
