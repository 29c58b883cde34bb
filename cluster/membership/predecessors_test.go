package membership_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/glotpod/ident/cluster/membership"
	"github.com/glotpod/ident/cluster/ownership"
)

// superseded gives the events of p to a core until it stops. It then closes the
// connection of p.
func superseded(t *testing.T, p *peer) {
	cfg := ownership.DefaultConfig()
	cfg.Name, cfg.Start, cfg.Partitions, cfg.QueueType = p.self.Name, p.self.Incarnation.Start, 4, "quorum"
	core, err := ownership.New(cfg)
	if err != nil {
		t.Error(err)
		return
	}
	core.Step(time.Now(), ownership.Connected{Session: p.self.Incarnation.Session})
	for e := range p.events {
		for _, command := range core.Step(time.Now(), e) {
			if stop, ok := command.(ownership.Stop); ok {
				if stop.Reason != ownership.Superseded {
					t.Errorf("%v %s", stop.Reason, stop.Detail)
				}
				p.link.Close()
				return
			}
		}
	}
}

func TestStopPredecessors(t *testing.T) {
	t.Run("all_end", testStopPredecessorsAllEnd)
	t.Run("waits_until_context_ends", testStopPredecessorsWaitsUntilContextEnds)
}

func testStopPredecessorsAllEnd(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	ended := make(chan struct{}, 2)
	var before []ownership.Member
	for start := range int64(2) {
		p := s.join(member("a", start+1, 1), nil)
		before = append(before, p.self)
		go func() {
			superseded(t, p)
			ended <- struct{}{}
		}()
	}
	other := s.join(member("b", 1, 1), nil)
	before = append(before, member("a", 1, 0)) // already gone
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	err := membership.StopPredecessors(ctx, s.connect().Connection, member("a", 3, 1), before, 20*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		receive(t, ended)
	}
	if len(other.events) > 0 {
		t.Errorf("another instance received %v", other.next())
	}
	if err := membership.StopPredecessors(ctx, s.connect().Connection, member("a", 3, 1), nil, time.Hour); err != nil {
		t.Error(err)
	}
}

func testStopPredecessorsWaitsUntilContextEnds(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	p := s.join(member("a", 1, 1), nil)
	ctx, cancel := context.WithCancel(t.Context())
	received := make(chan struct{})
	go func() {
		defer close(received)
		for range 3 { // the message is repeated
			p.next()
		}
		cancel()
	}()
	l := s.connect()
	err := membership.StopPredecessors(ctx, l.Connection, member("a", 2, 1), []ownership.Member{p.self}, time.Millisecond)
	<-received
	if !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	l.Close()
	if err := membership.StopPredecessors(t.Context(), l.Connection, member("a", 2, 1), []ownership.Member{p.self}, time.Millisecond); err == nil {
		t.Error("no error over a closed connection")
	}
}
