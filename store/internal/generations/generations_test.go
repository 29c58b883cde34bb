package generations_test

import (
	"errors"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/cluster/ownership"
	"github.com/glotpod/ident/cluster/partition"
	"github.com/glotpod/ident/deploy/testservers"
	"github.com/glotpod/ident/store"
	"github.com/glotpod/ident/store/internal/changelog"
	"github.com/glotpod/ident/store/internal/generations"
	"github.com/glotpod/ident/store/internal/schema"
	"github.com/glotpod/ident/store/internal/storetest"
)

func TestMain(m *testing.M) { testservers.Main(m) }

// A cluster is a database with 4 partitions, of which the test holds all leases.
type cluster struct {
	*storetest.Harness
	*generations.Table
	leases []partition.Lease
}

func newCluster(t *testing.T) *cluster {
	h := storetest.Start(t)
	c := &cluster{Harness: h, Table: store.Generations(h.Store), leases: []partition.Lease{h.Lease}}
	for p := 1; p < 4; p++ {
		c.leases = append(c.leases, h.ClaimPartition(p, 0))
	}
	return c
}

// must ends the test unless err is want.
func (c *cluster) must(err, want error) {
	c.T.Helper()
	if !errors.Is(err, want) {
		c.T.Fatalf("%v, want %v", err, want)
	}
}

func (c *cluster) look() (partition.Generation, partition.Repartition) {
	c.T.Helper()
	g, r, err := c.Look(c.T.Context())
	if c.must(err, nil); r == nil {
		r = new(partition.Repartition)
	}
	return g, *r
}

func (c *cluster) expect(first, partitions int, phase partition.Phase) {
	c.T.Helper()
	g, r := c.look()
	if g.First != first || g.Partitions != partitions || r.Phase != phase {
		c.T.Fatalf("generation %+v, phase %q, want %d partitions from %d on, %q", g, r.Phase, partitions, first, phase)
	}
}

func (c *cluster) begin(partitions int, queueType string) error {
	next, err := c.Next(c.T.Context(), partitions, queueType)
	if err != nil {
		return err
	}
	return c.Begin(c.T.Context(), next)
}

// start begins an attempt, after the last one has not been renewed for long.
func (c *cluster) start() partition.Attempt {
	c.T.Helper()
	c.Exec("UPDATE ident_repartition SET mover_until = now()")
	_, r := c.look()
	attempt, ok, err := c.Start(c.T.Context(), r.Number, "mover")
	if c.must(err, nil); !ok {
		c.T.Fatal("another instance carries it on")
	}
	return partition.Attempt{Number: r.Number, Attempt: attempt}
}

// oldest returns the oldest program that the schema allows.
func (c *cluster) oldest() any {
	return c.Value("SELECT max(coalesce(oldest, version)) FROM ident_migrations WHERE version > 16")
}

// TestRepartition: each step is made once, by the latest attempt, and from the phase before it.
func TestRepartition(t *testing.T) {
	c := newCluster(t)
	ctx := t.Context()
	c.expect(0, 4, "")
	c.must(c.begin(7, "classic"), nil)
	c.must(c.begin(9, "classic"), generations.ErrUnderWay)
	c.expect(0, 4, partition.Stopping)
	first := c.start()
	if _, ok, err := c.Start(ctx, first.Number, "another"); ok || err != nil {
		t.Errorf("two attempts at the same time: %v, %v", ok, err)
	}
	c.must(c.Renew(ctx, first), nil)
	c.must(c.BeginGeneration(ctx, first), partition.ErrSuperseded) // it is not moving yet
	second := c.start()
	c.must(c.Renew(ctx, first), partition.ErrSuperseded)
	c.must(c.EndGeneration(ctx, first, c.leases, 0), partition.ErrSuperseded)
	c.must(c.EndGeneration(ctx, second, c.leases[1:], 0), partition.ErrLeases)
	lost := c.leases[2]
	c.leases[2] = c.ClaimPartition(2, lost.Epoch)
	c.must(c.EndGeneration(ctx, second, append([]partition.Lease{lost}, c.leases[:2]...), 0), partition.ErrLeases)
	c.expect(0, 4, partition.Stopping)
	c.must(c.EndGeneration(ctx, second, c.leases, 0), nil)
	c.expect(0, 4, partition.Moving)
	c.must(c.GiveUp(ctx, second.Number, "too late"), partition.ErrSuperseded)
	c.must(c.EndGeneration(ctx, second, c.leases, 0), partition.ErrSuperseded)
	third := c.start()
	third.Moved = 3
	c.must(c.Yield(ctx, third), nil)
	third = c.start()
	third.Moved, third.Note = 2, "a queue is left"
	c.must(c.BeginGeneration(ctx, second), partition.ErrSuperseded)
	c.must(c.BeginGeneration(ctx, third), nil)
	if _, r := c.look(); r.Note != third.Note {
		t.Errorf("the note is %q", r.Note)
	}
	c.expect(4, 7, partition.Clearing)
	c.must(c.begin(9, "classic"), generations.ErrUnderWay)
	third.Moved = 1
	c.must(c.Finish(ctx, third), nil)
	c.expect(4, 7, partition.Done)
	if g, r := c.look(); g.QueueType != "classic" || r.Moved != 6 {
		t.Errorf("%+v, %+v", g, r)
	}
	rows, err := c.Survey(ctx)
	if c.must(err, nil); len(rows) != 7 || rows[0] != (ownership.Row{Lease: partition.Lease{Partition: 4}, Released: true}) {
		t.Errorf("%+v", rows)
	}
	c.must(c.begin(generations.MaxNumbers-10, "quorum"), generations.ErrNumbers)
	c.must(c.begin(2, "quorum"), nil)
	if _, r := c.look(); r.To != (partition.Generation{First: 11, Partitions: 2, QueueType: "quorum"}) {
		t.Errorf("%+v", r)
	}
	// One that is given up uses no numbers up, but its queues may be there.
	for number, next := range []partition.Generation{{First: 11, Partitions: 5, QueueType: "quorum"}, {First: 16, Partitions: 1, QueueType: "classic"}, {First: 17, Partitions: 3, QueueType: "quorum"}} {
		c.must(c.GiveUp(ctx, 2+number, "no"), nil)
		c.must(c.begin(next.Partitions, next.QueueType), nil)
		if _, r := c.look(); r.To != next {
			t.Errorf("%+v, want %+v", r.To, next)
		}
	}
}

// TestEnded: nobody claims a partition of a generation that has ended, or writes to it.
func TestEnded(t *testing.T) {
	c := newCluster(t)
	ctx := t.Context()
	id := c.CreateUser(1)
	storetest.Confirm(c.Store, c.StoredNotifications()[0].Key())
	c.ReleaseLeases(c.leases[0])
	c.leases[0] = c.ClaimPartition(0, 0)
	c.must(c.begin(2, "quorum"), nil)
	c.must(c.EndGeneration(ctx, c.start(), c.leases, 0), nil)
	for _, depose := range []int64{0, c.leases[0].Epoch} {
		events, err := c.Claim(ctx, []ownership.Claim{{Partition: 0, Depose: depose, By: storetest.Member("b")}})
		if err == nil {
			t.Errorf("%+v", events)
		}
	}
	c.must(c.Release(ctx, c.leases), nil)
	answers, err := c.HandOver(ctx, []ownership.HandOver{{Lease: c.leases[0], To: storetest.Member("b")}})
	if c.must(err, nil); answers[0].To != (ownership.Member{}) {
		t.Errorf("%+v", answers)
	}
	if row := c.StoredRow(0); row.Holder != c.leases[0].Holder || row.Released || row.Epoch != changelog.MaxEpoch {
		t.Errorf("%+v", row)
	}
	stale := c.StoredRow(0).Lease
	stale.Holder = storetest.Member("b")
	c.must(c.RenameUser(c.Store, stale, id, "stale"), actor.ErrFenced)
}

// TestNotNotified: a generation does not end while changes of it are not notified.
func TestNotNotified(t *testing.T) {
	c := newCluster(t)
	c.CreateUser(1)
	c.must(c.begin(2, "quorum"), nil)
	attempt := c.start()
	err := c.EndGeneration(t.Context(), attempt, c.leases, 0)
	if behind, ok := errors.AsType[*partition.NotNotifiedError](err); !ok || *behind != (partition.NotNotifiedError{Partitions: 1}) {
		t.Errorf("%v", err)
	}
	c.Exec("UPDATE ident_partitions p SET notified = (SELECT max(position) FROM ident_log l WHERE l.partition = p.partition) WHERE partition = 0")
	c.Exec("INSERT INTO ident_held_back (partition, user_id, position, since) VALUES (0, 1, 1, current_date)")
	err = c.EndGeneration(t.Context(), attempt, c.leases, 0)
	if behind, ok := errors.AsType[*partition.NotNotifiedError](err); !ok || *behind != (partition.NotNotifiedError{Users: 1}) {
		t.Errorf("%v", err)
	}
	c.expect(0, 4, partition.Stopping)
	c.must(c.GiveUp(t.Context(), attempt.Number, "a subscriber refuses"), nil)
	if _, r := c.look(); r.Phase != partition.GivenUp || r.Note != "a subscriber refuses" {
		t.Errorf("%+v", r)
	}
	c.must(c.RenameUser(c.Store, c.leases[0], 1, "goes on"), nil)
}

// TestOlderPrograms: a program that does not know of generations is refused from the beginning of a
// repartition on, and before and after one that was given up it is not.
func TestOlderPrograms(t *testing.T) {
	c := newCluster(t)
	if schema.Version() < 17 || c.oldest() != int32(14) {
		t.Errorf("before: %v", c.oldest())
	}
	c.must(c.begin(2, "quorum"), nil)
	if c.oldest() != int32(17) {
		t.Errorf("during: %v", c.oldest())
	}
	c.must(c.GiveUp(t.Context(), 1, ""), nil)
	if c.oldest() != int32(14) {
		t.Errorf("given up: %v", c.oldest())
	}
	c.must(c.begin(2, "quorum"), nil)
	attempt := c.start()
	c.must(c.EndGeneration(t.Context(), attempt, c.leases, time.Hour), nil)
	c.must(c.BeginGeneration(t.Context(), attempt), nil)
	if _, r := c.look(); r.MayClear {
		t.Error("the old queues may be deleted although an instance was deposed")
	}
	c.must(c.Finish(t.Context(), attempt), nil)
	c.must(c.begin(3, "quorum"), nil)
	c.must(c.GiveUp(t.Context(), 3, ""), nil)
	if c.oldest() != int32(17) {
		t.Errorf("afterwards: %v", c.oldest())
	}
	if err := c.EnsureParameters(t.Context(), storetest.Parameters(4)); err != nil {
		t.Errorf("the settings of the first generation are refused: %v", err)
	}
}

// TestModel: whatever instances try, in whatever order, and however late, exactly the steps that the
// present phase and the latest attempt allow are made.
func TestModel(t *testing.T) {
	c := newCluster(t)
	ctx := t.Context()
	seed := rand.Uint64()
	t.Logf("the seed is %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	var (
		phase    = partition.Done
		number   int
		attempts []partition.Attempt // of this repartition
		all      []partition.Attempt
		current  = partition.Generation{Partitions: 4, QueueType: "quorum"}
		to       partition.Generation
		stolen   bool // a lease is another member's
		done     int
	)
	present := func(a partition.Attempt) bool { return len(attempts) > 0 && a == attempts[len(attempts)-1] }
	underWay := func() bool {
		return phase == partition.Stopping || phase == partition.Moving || phase == partition.Clearing
	}
	check := func(what string, err error, allowed bool, refusal error) bool {
		t.Helper()
		if allowed && err != nil || !allowed && !errors.Is(err, refusal) {
			t.Fatalf("%s in the phase %s: %v, allowed %v", what, phase, err, allowed)
		}
		return allowed
	}
	any := func() partition.Attempt {
		if len(all) == 0 || random.IntN(8) == 0 {
			return partition.Attempt{Number: number, Attempt: 99}
		}
		return all[max(0, len(all)-1-random.IntN(3))]
	}
	for step := 0; step < 400; step++ {
		switch random.IntN(9) {
		case 0:
			to = partition.Generation{Partitions: 1 + random.IntN(4), QueueType: "classic"}
			if check("begin", c.begin(to.Partitions, to.QueueType), !underWay(), generations.ErrUnderWay) {
				phase, attempts = partition.Stopping, nil
				number++
			}
		case 1:
			if random.IntN(4) == 0 && check("give up", c.GiveUp(ctx, number, ""), phase == partition.Stopping, partition.ErrSuperseded) {
				phase = partition.GivenUp
			}
		case 2:
			if !underWay() {
				continue
			}
			a := c.start()
			attempts, all = append(attempts, a), append(all, a)
		case 3:
			a := any()
			check("renew", c.Renew(ctx, a), present(a) && underWay(), partition.ErrSuperseded)
		case 4:
			a := any()
			check("yield", c.Yield(ctx, a), present(a) && underWay(), partition.ErrSuperseded)
		case 5:
			if phase != partition.Moving && !stolen && random.IntN(2) == 0 {
				lost := random.IntN(len(c.leases))
				c.ClaimForOther(c.leases[lost].Partition, c.leases[lost].Epoch)
				stolen = true
			} else if stolen {
				for i, l := range c.leases {
					c.leases[i] = c.ClaimPartition(l.Partition, c.StoredRow(l.Partition).Epoch)
				}
				stolen = false
			}
		case 6:
			a := any()
			allowed := present(a) && phase == partition.Stopping
			if stolen && allowed {
				check("end", c.EndGeneration(ctx, a, c.leases, 0), false, partition.ErrLeases)
			} else if check("end", c.EndGeneration(ctx, a, c.leases, 0), allowed, partition.ErrSuperseded) {
				phase = partition.Moving
			}
		case 7:
			a := any()
			if check("begin the generation", c.BeginGeneration(ctx, a), present(a) && phase == partition.Moving, partition.ErrSuperseded) {
				phase = partition.Clearing
				_, r := c.look()
				current, c.leases = r.To, nil
				for p := current.First; p < current.End(); p++ {
					c.leases = append(c.leases, c.ClaimPartition(p, 0))
				}
				done++
			}
		case 8:
			a := any()
			if check("finish", c.Finish(ctx, a), present(a) && phase == partition.Clearing, partition.ErrSuperseded) {
				phase = partition.Done
			}
		}
		if g, r := c.look(); g != current || number > 0 && (r.Phase != phase || r.Number != number) {
			t.Fatalf("step %d: generation %+v, repartition %+v, want %+v, %d in the phase %s", step, g, r, current, number, phase)
		}
	}
	t.Logf("%d of %d repartitions were done", done, number)
}
