package faults

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/glotpod/ident/cmd/systemtest/harness"
)

// A latestRepartition is the record of the latest repartition.
type latestRepartition struct {
	phase, mover string
	partitions   int
}

func (r latestRepartition) ended() bool {
	return r.phase == "" || r.phase == "done" || r.phase == "given up"
}

// latestRepartition reads the record of the latest repartition. The phase is "" if there was none.
func (f *fleet) latestRepartition() (r latestRepartition) {
	f.t.Helper()
	err := f.site.DB.QueryRow(f.t.Context(), "SELECT phase, mover, to_partitions FROM ident_repartition ORDER BY number DESC LIMIT 1").Scan(&r.phase, &r.mover, &r.partitions)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		f.t.Fatal(err)
	}
	return r
}

// launchRepartition runs the command, which may end at any time.
func (f *fleet) launchRepartition(partitions int, queueType string) *harness.Process {
	f.t.Helper()
	m := f.members[0]
	return harness.Launch(f.t, f.site.Settings.With(harness.Settings{
		"amqp.host": addressesOf(m.toBrokers), "database.postgres.host": addressesOf(m.toDatabases),
	}).Environ(), "repartition", "--partitions", strconv.Itoa(partitions), "--queue-type", queueType)
}

// repartition changes the number of partitions. Other faults may keep it from being begun, or from being
// carried out, but not half of it.
func (c *calamity) repartition() *fault {
	partitions, queueType := 1+c.random.IntN(2*chaosPartitions), []string{"quorum", "classic"}[c.random.IntN(2)]
	var command *harness.Process
	return &fault{name: "repartition", lasts: c.between(time.Second, 4*time.Second),
		begin: func() { command = c.launchRepartition(partitions, queueType) },
		heal: func() {
			select {
			case <-command.Done:
				c.log("repartition into %d %s queues: %s%s", partitions, queueType, command.Stdout.String(), command.Stderr.String())
			default:
				c.log("repartition into %d %s queues: killed", partitions, queueType)
				command.Kill(c.t)
			}
		}}
}

// TestRepartition: a repartition under load is carried out although the instance that carries it out is
// killed, then the command, and then the database.
func TestRepartition(t *testing.T) {
	t.Parallel()
	f := newFleet(t, rand.New(rand.NewPCG(1, 1)), "classic")
	c := &calamity{fleet: f}
	c.script = func() {
		c.killMover(2*chaosPartitions, "quorum")
		command := c.awaitBegun(chaosPartitions, "classic")
		command.Kill(t)
		c.awaitPhase("done")
		command = c.awaitBegun(3, "quorum")
		f.databases[0].Kill()
		restart(t, f.databases[0])
		f.site.DB = f.connect(f.primary())
		c.awaitPhase("done", "given up")
		if status := command.AwaitExit(t, harness.Timeout); status != 0 {
			t.Logf("the command has ended with %d: %s", status, command.Stderr.String())
		}
	}
	c.run(1, fleetMin, 0)
}

// killMover repartitions, and kills the instance that carries it out.
func (c *calamity) killMover(partitions int, queueType string) {
	c.t.Helper()
	command := c.launchRepartition(partitions, queueType)
	var victim *member
	harness.Eventually(c.t, "an instance carries the repartition out", func() bool {
		r := c.latestRepartition()
		for _, m := range c.members {
			if m.name == r.mover && !r.ended() {
				victim = m
				c.log("killing %s in the phase %s", m.name, r.phase)
			}
		}
		return victim != nil
	})
	victim.kill()
	if status := command.AwaitExit(c.t, harness.Timeout); status != 0 {
		c.t.Errorf("the command has ended with %d: %s", status, command.Stderr.String())
	}
	c.log("%s", command.Stdout.String())
	victim.start()
	c.awaitReady()
}

// awaitBegun runs the command, again if it is refused, until the repartition has begun.
func (c *calamity) awaitBegun(partitions int, queueType string) *harness.Process {
	c.t.Helper()
	command := c.launchRepartition(partitions, queueType)
	harness.Eventually(c.t, "the repartition has begun", func() bool {
		begun := c.latestRepartition().partitions == partitions
		select {
		case <-command.Done:
			if !begun {
				c.log("refused: %s", command.Stderr.String())
				command = c.launchRepartition(partitions, queueType)
			}
		default:
		}
		return begun
	})
	return command
}

func (c *calamity) awaitPhase(phases ...string) {
	c.t.Helper()
	harness.Eventually(c.t, fmt.Sprint("the repartition is ", phases), func() bool {
		r := c.latestRepartition()
		for _, phase := range phases {
			if r.phase == phase {
				return true
			}
		}
		return false
	})
}
