package ownership

import (
	"fmt"
	"testing"
	"time"

	"github.com/glotpod/ident/cluster/partition"
)

func TestHandOver(t *testing.T) {
	t.Run("lease_claimed_again", testHandOverLeaseClaimedAgain)
	t.Run("unknown_lease_released", testHandOverUnknownLeaseReleased)
	t.Run("leaves_unasked", testHandOverLeavesUnasked)
	t.Run("leaves_at_once", testHandOverLeavesAtOnce)
}

// A member that asks for a lease has read the epoch table some time ago. Meanwhile the
// owner may have claimed the partition again.
func testHandOverLeaseClaimedAgain(t *testing.T) {
	b, claims := newBench(t, 1)
	b.win(claims[0], 3)
	wish := heldLease(0, 2, b.core.self)
	wants := func(m *Message) { m.Wants = []partition.Lease{wish} }
	expect(t, only[HandOver](b.hear(alice, 1, Ready, wants)))
	expect(t, only[HandOver](b.step(DrainRequested{})), HandOver{Lease: heldLease(0, 3, b.core.self), To: alice})
}

// A member asks for a lease that, according to the epoch table, is ours, but that we do
// not know: the reply to its claim was lost when the lease was no longer needed.
func testHandOverUnknownLeaseReleased(t *testing.T) {
	b, _ := newBench(t, 1)
	b.step(DrainRequested{})
	b.step(Disconnected{})
	b.step(Connected{Session: 2})
	b.wait(time.Second)
	wish := heldLease(0, 4, b.core.self)
	got := b.hear(alice, 1, Ready, func(m *Message) { m.Wants = []partition.Lease{wish} })
	expect(t, only[Release](got), Release{heldLease(0, 4, b.core.self), b.now.Add(partition.DeposedReadsFor)})

	b.wait(time.Second)
	got = b.step(Surveyed{Rows: []Row{{Lease: wish}}})
	expect(t, only[Release](got), Release{heldLease(0, 4, b.core.self), b.now.Add(partition.DeposedReadsFor)})
}

// An instance that leaves releases its partitions if no member asks for them for long.
func testHandOverLeavesUnasked(t *testing.T) {
	b := newOwner(t, 1)
	stays := func(m *Message) { m.Next = time.Minute }
	b.hear(alice, 1, Ready, stays)
	got := append(b.step(LeaveRequested{}), b.wait(wishAfter*b.core.cfg.Heartbeat-time.Second)...)
	expect(t, only[HandOver](got))
	got = b.wait(time.Second + b.core.cfg.Heartbeat/checksPerHeartbeat)
	expect(t, only[HandOver](got), HandOver{Lease: heldLease(0, 1, b.core.self)})

	got = b.step(HandedOver{Partition: 0, Epoch: 1})
	sent := only[Broadcast](got)
	if len(sent) != 1 || sent[0].Message.State != Left || len(sent[0].Message.Released) != 1 {
		t.Errorf("the last message is %+v", sent)
	}
	expect(t, only[ReportState](got), ReportState{State: Left})
	expect(t, b.step(LeaveRequested{}))
}

// When its generation ends, an instance releases all partitions at once, although another is to take them.
func testHandOverLeavesAtOnce(t *testing.T) {
	const partitions = 40
	b := newOwner(t, partitions)
	b.hear(alice, 1, Ready, func(m *Message) { m.Next = time.Minute })
	var released []HandOver
	var ended []Event
	for p := range partitions {
		released = append(released, HandOver{Lease: heldLease(p, 1, b.core.self)})
		ended = append(ended, HandedOver{Partition: p, Epoch: 1})
	}
	expect(t, only[HandOver](b.step(LeaveRequested{AtOnce: true})), released...)
	expect(t, only[ReportState](b.core.Step(b.now, ended...)), ReportState{State: Left})
}

// newPacing returns a pacing with a rest of at most 50 ms and a window of 8, of which
// usually 2 are used.
func newPacing() (*pacing, time.Time) {
	return &pacing{cfg: &Config{Heartbeat: heartbeat, Window: 8}}, time.Unix(100, 0)
}

func TestPacingLimits(t *testing.T) {
	t.Run("usual_number", func(t *testing.T) {
		h, now := newPacing()
		for n, want := range []bool{false, false, true} {
			if got := h.limitReached(now); got != want {
				t.Errorf("with %d hand-overs: limit reached: %v", n, got)
			}
			h.begin(n, now)
		}
		if h.limitReached(now.Add(50 * time.Millisecond)) {
			t.Error("slow hand-overs still count for the usual number")
		}
	})
	t.Run("window", func(t *testing.T) {
		h, now := newPacing()
		for p := range 8 {
			h.begin(p, now)
		}
		if now = now.Add(time.Hour); !h.limitReached(now) {
			t.Error("the window is exceeded")
		}
		h.end(3)
		if h.limitReached(now) {
			t.Error("an ended hand-over still counts")
		}
	})
	t.Run("rest", func(t *testing.T) {
		h, now := newPacing()
		h.rest(now, 20*time.Millisecond)
		h.rest(now, 5*time.Millisecond) // the longer rest counts
		if got, want := h.nextAt(), now.Add(40*time.Millisecond); !got.Equal(want) {
			t.Errorf("the rest ends at %v, want %v", got, want)
		}
		h.rest(now, time.Minute)
		if got, want := h.nextAt(), now.Add(50*time.Millisecond); !got.Equal(want) {
			t.Errorf("the longest rest ends at %v, want %v", got, want)
		}
	})
}

func TestPacingQueue(t *testing.T) {
	h, now := newPacing()
	h.rest(now, 10*time.Millisecond)
	if wake := h.wakeAt(now); !wake.IsZero() {
		t.Errorf("without queued hand-overs, a tick is due at %v", wake)
	}
	h.queued = true
	rested := now.Add(20 * time.Millisecond)
	if wake := h.wakeAt(now); !wake.Equal(rested) {
		t.Errorf("a tick is due at %v, want %v", wake, rested)
	}
	if h.takeQueued(now) {
		t.Error("queued hand-overs go on during the rest")
	}
	if !h.takeQueued(rested) || h.takeQueued(rested) {
		t.Error("queued hand-overs go on never, or twice")
	}
}

// Two members may each learn that the other is gone, although both are alive. They must
// not work without each other until each has forgotten the other.
func TestMutuallyGone(t *testing.T) {
	now := time.Unix(1000, 0)
	var cores []*Core
	sessions := []int64{1, 1, 1}
	for i := range sessions {
		cfg := DefaultConfig()
		cfg.Name, cfg.Start, cfg.Partitions, cfg.QueueType, cfg.Seed = fmt.Sprint("i", i), 1, 8, "quorum", uint64(i+1)
		c, err := New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		cores = append(cores, c)
	}
	var sent []Message
	var do func(i int, commands []Command)
	do = func(i int, commands []Command) {
		for _, command := range commands {
			switch command := command.(type) {
			case Broadcast:
				sent = append(sent, command.Message)
			case Reconnect:
				sessions[i]++
				do(i, cores[i].Step(now, Disconnected{}))
				do(i, cores[i].Step(now, Connected{Session: sessions[i]}))
			}
		}
	}
	pass := func(d time.Duration) {
		for end := now.Add(d); now.Before(end); now = now.Add(5 * time.Millisecond) {
			messages := sent
			sent = nil
			for i, c := range cores {
				for _, m := range messages {
					do(i, c.Step(now, MessageReceived{Message: m}))
				}
				do(i, c.Step(now, Tick{}))
			}
		}
	}
	for i, c := range cores {
		do(i, c.Step(now, Connected{Session: sessions[i]}))
	}
	pass(3 * time.Second)
	for i, c := range cores {
		for j := range cores {
			if i != j {
				do(i, c.Step(now, MemberGone{Member: Member{Name: fmt.Sprint("i", j), Incarnation: Incarnation{Start: 1, Session: 1}}}))
			}
		}
	}
	pass(3 * time.Second)
	for i, c := range cores {
		if ring := c.Status().Ring; len(ring) != len(cores) {
			t.Errorf("%d sees %v", i, ring)
		}
	}
}
