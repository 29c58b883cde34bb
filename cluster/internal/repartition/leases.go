package repartition

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/glotpod/ident/cluster/internal/generation"
	"github.com/glotpod/ident/cluster/internal/topology"
	"github.com/glotpod/ident/cluster/ownership"
	"github.com/glotpod/ident/cluster/partition"
	"github.com/glotpod/ident/cluster/wait"
)

const (
	// stopFor is how long instances may take to release their leases until they are deposed: longer than
	// one needs to notice the repartition, and to complete its requests.
	stopFor = 2500 * time.Millisecond

	// goneFor is how long the broker may take to drop the connections of the holders: after two to
	// three of its heartbeats of a second, if an instance is frozen.
	goneFor = 6 * time.Second

	// notifyFor is how long notifications may take that an instance has left in the log.
	notifyFor = 2 * time.Second

	// releaseTimeout bounds the release of the leases if the old generation could not be ended.
	releaseTimeout = time.Second

	// pollEvery is how often it is checked whether leases are released, or a connection is gone.
	pollEvery = 20 * time.Millisecond
)

// stop ends the old generation.
func (m *mover) stop(ctx context.Context) (err error) {
	if err := m.connect(ctx); err != nil {
		return err
	}
	ctx, fail := context.WithCancelCause(ctx)
	probed := make(chan struct{})
	defer func() {
		if err != nil && context.Cause(ctx) != nil {
			err = context.Cause(ctx)
		}
		fail(nil)
		<-probed
	}()
	go func() { // it costs no time: the instances stop meanwhile
		defer close(probed)
		if err := m.probe(ctx); err != nil {
			fail(err)
		}
	}()
	view := generation.NewView(m.o.Store, m.r.From)
	holders, err := m.awaitReleases(ctx, view)
	if err != nil {
		return err
	}
	// Before the leases are taken: another attempt has to find the holders too.
	if err := m.awaitGone(ctx, holders); err != nil {
		return err
	}
	self := m.o.NextMember()
	leases, deposed, err := m.claim(ctx, view, self, holders)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil { // so that others need not find out that this mover is gone
			releasing, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseTimeout)
			defer cancel()
			view.Release(releasing, leases) // the store logs an error
		}
	}()
	keep := time.Duration(0)
	if deposed {
		keep = m.o.DropsWithin // of what it was about to forward
		m.writeFrom = time.Now().Add(partition.DeposedReadsFor)
	}
	if <-probed; ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err := m.openQueues(ctx); err != nil {
		return err
	}
	held := make([]partition.Lease, len(leases))
	for i, l := range leases {
		held[i] = l
		held[i].Partition += m.r.From.First
	}
	err = m.o.Records.EndGeneration(ctx, m.record(), held, keep)
	if behind, ok := errors.AsType[*partition.NotNotifiedError](err); ok {
		m.setNote("%v", behind)
		err = m.notify(ctx, view, self, leases, func() error { return m.o.Records.EndGeneration(ctx, m.record(), held, keep) })
		m.setNote("")
	}
	return err
}

// probe finds out which queues are available. The error is a [topology.SilentError] if some of the new
// generation are not.
func (m *mover) probe(ctx context.Context) (err error) {
	if m.silent, err = m.findSilent(ctx); err != nil {
		return err
	}
	silent := make(topology.SilentError)
	for _, queue := range topology.QueuesOf(m.r.To) {
		if err := m.silent[queue]; err != nil {
			silent[queue] = err
		}
	}
	if len(silent) > 0 {
		return silent
	}
	return nil
}

// awaitReleases waits until all leases are released or their holders are gone, but not for long. It
// returns the members that have held leases, and whether they are known to be gone.
func (m *mover) awaitReleases(ctx context.Context, view generation.Store) (holders map[ownership.Member]bool, err error) {
	holders = make(map[ownership.Member]bool)
	for begun := time.Now(); ; {
		rows, err := view.Survey(ctx)
		if err != nil {
			return nil, err
		}
		held := 0
		for _, row := range rows {
			if gone := holders[row.Holder]; gone || row.Holder == (ownership.Member{}) {
				continue
			}
			if holders[row.Holder] = false; row.Released {
				continue
			}
			if holders[row.Holder], err = m.broker.isGone(ctx, row.Holder); err != nil {
				return nil, err
			}
			if !holders[row.Holder] {
				held++
			}
		}
		if held == 0 || time.Since(begun)+m.r.Age > stopFor {
			return holders, nil
		}
		if err := wait.For(ctx, pollEvery); err != nil {
			return nil, err
		}
	}
}

// claim takes all leases of the old generation, whether they are released or not. The error is ErrLeases if
// another member than those that are gone has taken one meanwhile.
func (m *mover) claim(ctx context.Context, view generation.Store, self ownership.Member, gone map[ownership.Member]bool) (leases []partition.Lease, deposed bool, err error) {
	rows, err := view.Survey(ctx)
	if err != nil {
		return nil, false, err
	}
	var claims []ownership.Claim
	for _, row := range rows {
		if row.Holder != (ownership.Member{}) && !gone[row.Holder] {
			return nil, false, partition.ErrLeases
		}
		c := ownership.Claim{Partition: row.Partition, Seen: row.Epoch, By: self}
		if !row.Released {
			c.Depose = row.Epoch
		}
		claims = append(claims, c)
	}
	events, err := m.o.Store.Claim(ctx, inNumbers(claims, m.r.From.First))
	if err != nil {
		return nil, false, err
	}
	for _, e := range events {
		claimed, ok := e.(ownership.Claimed)
		if !ok {
			return nil, false, partition.ErrLeases
		}
		deposed = deposed || claimed.Deposed
		leases = append(leases, partition.Lease{Partition: claimed.Partition - m.r.From.First, Epoch: claimed.Epoch, Holder: self})
	}
	return leases, deposed, nil
}

// inNumbers returns claims with the numbers that partitions have in the database.
func inNumbers(claims []ownership.Claim, first int) []ownership.Claim {
	for i := range claims {
		claims[i].Partition += first
	}
	return claims
}

// awaitGone waits until the broker has dropped the connections of members, and so has given back what
// they have received and not acknowledged. It notes which are gone.
func (m *mover) awaitGone(ctx context.Context, members map[ownership.Member]bool) error {
	for begun := time.Now(); ; {
		var left ownership.Member
		waiting := false
		for member, gone := range members {
			if gone {
				continue
			}
			if gone, err := m.broker.isGone(ctx, member); err != nil {
				return err
			} else if members[member] = gone; !gone {
				left, waiting = member, true
			}
		}
		if !waiting {
			m.setNote("")
			return nil
		}
		if time.Since(begun) > goneFor {
			return fmt.Errorf("the broker has not dropped the connection of %s, which has not stopped", left)
		}
		m.setNote("waiting until the broker drops the connection of %s", left)
		if err := wait.For(ctx, pollEvery); err != nil {
			return err
		}
	}
}

// notify sends the notifications that are left in the log of the old generation, until end has ended that.
func (m *mover) notify(ctx context.Context, view generation.Store, self ownership.Member, leases []partition.Lease, end func() error) (err error) {
	n := m.o.NewNotifier(self, view, m.r.From)
	ctx, cancel := context.WithTimeout(ctx, notifyFor)
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	running.Go(func() { n.Run(ctx) })
	view.SetNotificationSink(n)
	defer view.SetNotificationSink(nil)
	for _, l := range leases {
		if err := n.TakeOver(ctx, l); err != nil {
			return fmt.Errorf("taking over what is to be notified: %w", err)
		}
	}
	for {
		waited := wait.For(ctx, 5*pollEvery)
		if b := n.Backlog(); b.Pending > 0 || b.HeldBack > 0 || b.Behind > 0 {
			if waited != nil {
				return end() // which tells what is left
			}
			continue
		}
		err := end()
		if _, behind := errors.AsType[*partition.NotNotifiedError](err); !behind || waited != nil {
			return err
		}
	}
}
