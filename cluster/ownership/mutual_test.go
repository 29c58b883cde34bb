package ownership

import (
	"fmt"
	"testing"
	"time"
)

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
