package ownership

import (
	"testing"
	"time"
)

func TestHandOver(t *testing.T) {
	t.Run("lease_claimed_again", testHandOverLeaseClaimedAgain)
	t.Run("unknown_lease_released", testHandOverUnknownLeaseReleased)
	t.Run("leaves_unasked", testHandOverLeavesUnasked)
}

// A member that asks for a lease has read the epoch table some time ago. Meanwhile the
// owner may have claimed the partition again.
func testHandOverLeaseClaimedAgain(t *testing.T) {
	b, claims := newBench(t, 1)
	b.win(claims[0], 3)
	wish := heldLease(0, 2, b.core.self)
	wants := func(m *Message) { m.Wants = []HeldLease{wish} }
	expect(t, only[HandOver](b.hear(alice, 1, Ready, wants)))
	expect(t, only[HandOver](b.step(DrainRequested{})), HandOver{Partition: 0, Epoch: 3, To: alice})
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
	got := b.hear(alice, 1, Ready, func(m *Message) { m.Wants = []HeldLease{wish} })
	expect(t, only[Release](got), Release{Partition: 0, Epoch: 4})

	b.wait(time.Second)
	got = b.step(Surveyed{Rows: []Row{{HeldLease: wish}}})
	expect(t, only[Release](got), Release{Partition: 0, Epoch: 4})
}

// An instance that leaves releases its partitions if no member asks for them for long.
func testHandOverLeavesUnasked(t *testing.T) {
	b := newOwner(t, 1)
	b.hear(alice, 1, Ready)
	got := append(b.step(LeaveRequested{}), b.wait(b.core.cfg.SuspectAfter-time.Second)...)
	expect(t, only[HandOver](got))
	b.hear(alice, 2, Ready)
	got = b.wait(time.Second + b.core.cfg.Heartbeat/checksPerHeartbeat)
	expect(t, only[HandOver](got), HandOver{Partition: 0, Epoch: 1})

	got = b.step(HandedOver{Partition: 0, Epoch: 1})
	sent := only[Broadcast](got)
	if len(sent) != 1 || sent[0].Message.State != Left || len(sent[0].Message.Released) != 1 {
		t.Errorf("the last message is %+v", sent)
	}
	expect(t, only[ReportState](got), ReportState{State: Left})
	expect(t, b.step(LeaveRequested{}))
}
