package ownership

import (
	"fmt"
	"testing"
	"time"
)

// BenchmarkStep measures one step of a core that owns its share of 1024 partitions in a
// cluster of 10 members.
func BenchmarkStep(b *testing.B) {
	core, now := newBenchmarkCore(b)
	messages := make([]Message, 9)
	for n := range messages {
		messages[n] = benchmarkMessage(core, n, 1)
	}
	b.Run("message", func(b *testing.B) {
		b.ReportAllocs()
		for n := 0; b.Loop(); n++ {
			msg := &messages[n%len(messages)]
			msg.Seq++
			core.Step(now, MessageReceived{Message: *msg})
		}
	})
	b.Run("tick", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			now = core.NextTick()
			core.Step(now, Tick{})
		}
	})
	b.Run("survey", func(b *testing.B) {
		b.ReportAllocs()
		var rows []Row
		for p, part := range core.partitions.states {
			if part.phase == owned {
				rows = append(rows, Row{Lease: heldLease(p, part.epoch, core.self)})
			}
		}
		for b.Loop() {
			core.Step(now, Surveyed{Rows: rows})
		}
	})
	b.Run("lost_and_claimed", func(b *testing.B) {
		b.ReportAllocs()
		epochs := int64(1)
		for b.Loop() {
			for p := range core.partitions.states {
				if core.partitions.states[p].phase == owned {
					epochs = benchmarkClaim(core, now, p, epochs)
					break
				}
			}
		}
	})
}

// benchmarkClaim has the core lose a partition and claim it again.
func benchmarkClaim(core *Core, now time.Time, p int, epoch int64) int64 {
	core.Step(now, LeaseLost{Partition: p, Epoch: core.partitions.states[p].epoch})
	core.partitions.states[p].retryAt = now
	core.partitions.reconcile(p)
	epoch++
	core.Step(now, Claimed{Partition: p, Attempt: core.partitions.states[p].attempt, Epoch: epoch})
	core.Step(now, Consuming{Partition: p, Epoch: epoch})
	return epoch
}

func benchmarkMessage(core *Core, n int, seq int64) Message {
	return Message{From: firstSession(fmt.Sprint("m", n), 1), Seq: seq, State: Ready, Parameters: core.cfg.parameters()}
}

func newBenchmarkCore(b *testing.B) (*Core, time.Time) {
	cfg := DefaultConfig()
	cfg.Name, cfg.Start, cfg.Partitions = "b", 10, 1024
	core, err := New(cfg)
	if err != nil {
		b.Fatal(err)
	}
	now := time.Unix(0, 0)
	core.Step(now, Connected{Session: 1})
	for n := range 9 {
		core.Step(now, MessageReceived{Message: benchmarkMessage(core, n, 1)})
	}
	for range 2 {
		now = now.Add(cfg.Debounce)
		for _, claim := range only[Claim](core.Step(now, Tick{})) {
			core.Step(now, Claimed{Partition: claim.Partition, Attempt: claim.Attempt, Epoch: 1}, Consuming{Partition: claim.Partition, Epoch: 1})
		}
	}
	if core.partitions.active == 0 || !core.Status().Settled() {
		b.Fatalf("%+v", core.Status())
	}
	return core, now
}
