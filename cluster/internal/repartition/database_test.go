package repartition

import (
	"context"
	"time"

	"github.com/glotpod/ident/cluster/membership"
	"github.com/glotpod/ident/cluster/ownership"
	"github.com/glotpod/ident/cluster/partition"
)

// A database has the leases and the record of repartitions, with the promises of package generations of the
// store. Its fields are guarded by mu of the world.
type database struct {
	w       *world
	present partition.Generation
	leases  map[int]*lease
	r       *partition.Repartition
	begun   time.Time
	until   time.Time // while the attempt is under way
	clearAt time.Time
}

type lease struct {
	partition.Lease
	released, ended bool
}

func newDatabase(w *world, g partition.Generation) *database {
	d := &database{w: w, leases: make(map[int]*lease)}
	d.beginLocked(g)
	return d
}

func (d *database) beginLocked(g partition.Generation) {
	d.present = g
	for p := g.First; p < g.End(); p++ {
		d.leases[p] = &lease{Lease: partition.Lease{Partition: p}, released: true}
	}
}

// generations returns the present generation and the next one.
func (d *database) generations() []partition.Generation {
	if d.r.IsUnderWay() {
		return []partition.Generation{d.r.From, d.r.To}
	}
	return []partition.Generation{d.present}
}

// enter takes the time of a call, and locks the world unless there is an error.
func (d *database) enter(owner string) error {
	err := d.w.call(owner)
	if err == nil {
		d.w.mu.Lock()
	}
	return err
}

func (d *database) begin(to partition.Generation) {
	d.w.mu.Lock()
	defer d.w.mu.Unlock()
	number := 1
	if d.r != nil {
		number = d.r.Number + 1
	}
	d.r = &partition.Repartition{Number: number, Phase: partition.Stopping, From: d.present, To: to}
	d.begun, d.until = time.Now(), time.Time{}
	d.w.onPhase(partition.Stopping)
}

func (d *database) isPresent(owner string, g partition.Generation) bool {
	if d.enter(owner) != nil {
		return false
	}
	defer d.w.mu.Unlock()
	return d.present == g && !d.r.IsSwitching()
}

// take returns the lease of a partition, and begins one if the partition is free or the broker has no
// connection of its holder.
func (d *database) take(owner string, self ownership.Member, p int) (partition.Lease, bool) {
	if d.enter(owner) != nil {
		return partition.Lease{}, false
	}
	defer d.w.mu.Unlock()
	l := d.leases[p]
	switch {
	case l.ended:
		return partition.Lease{}, false
	case l.Holder == self && !l.released:
		return l.Lease, true
	case l.released || d.w.server.queues[membership.QueueOf(l.Holder)] == nil:
		l.Epoch, l.Holder, l.released = l.Epoch+1, self, false
		return l.Lease, true
	}
	return partition.Lease{}, false
}

func (d *database) release(owner string, one partition.Lease) {
	if d.enter(owner) != nil {
		return
	}
	defer d.w.mu.Unlock()
	if l := d.leases[one.Partition]; l != nil && l.Lease == one {
		l.released = true
	}
}

func (d *database) releaseAll(owner string, holder ownership.Member) {
	if d.enter(owner) != nil {
		return
	}
	defer d.w.mu.Unlock()
	for _, l := range d.leases {
		l.released = l.released || l.Holder == holder
	}
}

// apply carries a request out if the lease still stands.
func (d *database) apply(id string, g partition.Generation, one partition.Lease) bool {
	d.w.mu.Lock()
	defer d.w.mu.Unlock()
	l := d.leases[one.Partition]
	if l.Lease != one || l.released || l.ended {
		return false
	}
	d.w.applyLocked(id, g.First, one)
	return true
}

func (d *database) survey(owner string) (rows []ownership.Row, err error) {
	if err := d.enter(owner); err != nil {
		return nil, err
	}
	defer d.w.mu.Unlock()
	for _, l := range d.leases {
		rows = append(rows, ownership.Row{Lease: l.Lease, Released: l.released})
	}
	return rows, nil
}

func (d *database) claim(owner string, claims []ownership.Claim) (events []ownership.Event, err error) {
	if err := d.enter(owner); err != nil {
		return nil, err
	}
	defer d.w.mu.Unlock()
	for _, c := range claims {
		l := d.leases[c.Partition]
		if l.ended || !l.released && l.Epoch != c.Depose {
			events = append(events, ownership.ClaimRefused{Row: ownership.Row{Lease: l.Lease, Released: l.released}})
			continue
		}
		deposed := !l.released
		l.Epoch, l.Holder, l.released = max(l.Epoch, c.Seen)+1, c.By, false
		events = append(events, ownership.Claimed{Partition: c.Partition, Epoch: l.Epoch, Deposed: deposed})
	}
	return events, nil
}

// records are the record of repartitions as an instance uses it.
type records struct {
	*database
	owner string
}

func (r *records) Look(context.Context) (partition.Generation, *partition.Repartition, error) {
	if err := r.enter(r.owner); err != nil {
		return partition.Generation{}, nil, err
	}
	defer r.w.mu.Unlock()
	if r.r == nil {
		return r.present, nil, nil
	}
	latest := *r.r
	latest.Age, latest.MayClear = time.Since(r.begun), !time.Now().Before(r.clearAt)
	return r.present, &latest, nil
}

func (r *records) Start(_ context.Context, number int, mover string) (int64, bool, error) {
	if err := r.enter(r.owner); err != nil {
		return 0, false, err
	}
	defer r.w.mu.Unlock()
	if r.r.Number != number || !r.r.IsUnderWay() || time.Now().Before(r.until) {
		return 0, false, nil
	}
	r.r.Attempt, r.r.Mover, r.until = r.r.Attempt+1, mover, time.Now().Add(2*time.Second)
	return r.r.Attempt, true, nil
}

// change changes a repartition in one of these phases, or any if there is none, for an attempt.
func (r *records) change(a partition.Attempt, change func() error, phases ...partition.Phase) error {
	if err := r.enter(r.owner); err != nil {
		return err
	}
	defer r.w.mu.Unlock()
	in := len(phases) == 0 && r.r.IsUnderWay()
	for _, phase := range phases {
		in = in || r.r.Phase == phase
	}
	if !in || r.r.Number != a.Number || a.Attempt != 0 && r.r.Attempt != a.Attempt {
		return partition.ErrSuperseded
	}
	before := r.r.Phase
	if err := change(); err != nil {
		return err
	}
	r.r.Moved, r.r.Cleared, r.r.Note = r.r.Moved+a.Moved, max(r.r.Cleared, a.Cleared), a.Note
	if r.r.Phase != before {
		r.w.onPhase(r.r.Phase)
	}
	return nil
}

func (r *records) Renew(_ context.Context, a partition.Attempt) error {
	return r.change(a, func() error { r.until = time.Now().Add(2 * time.Second); return nil })
}

func (r *records) Yield(_ context.Context, a partition.Attempt) error {
	return r.change(a, func() error { r.until = time.Now(); return nil })
}

func (r *records) GiveUp(_ context.Context, number int, why string) error {
	return r.change(partition.Attempt{Number: number, Note: why}, func() error { r.r.Phase = partition.GivenUp; return nil }, partition.Stopping)
}

func (r *records) EndGeneration(_ context.Context, a partition.Attempt, held []partition.Lease, keep time.Duration) error {
	return r.change(a, func() error {
		for _, h := range held {
			if l := r.leases[h.Partition]; l.Lease != h || l.released || l.ended {
				return partition.ErrLeases
			}
		}
		if len(held) != r.r.From.Partitions {
			return partition.ErrLeases
		}
		for _, h := range held {
			r.leases[h.Partition].ended = true
		}
		r.r.Phase, r.clearAt = partition.Moving, time.Now().Add(keep)
		return nil
	}, partition.Stopping)
}

func (r *records) BeginGeneration(_ context.Context, a partition.Attempt) error {
	return r.change(a, func() error {
		r.beginLocked(r.r.To)
		r.r.Phase = partition.Clearing
		return nil
	}, partition.Moving)
}

func (r *records) Finish(_ context.Context, a partition.Attempt) error {
	return r.change(a, func() error { r.r.Phase = partition.Done; return nil }, partition.Clearing)
}
