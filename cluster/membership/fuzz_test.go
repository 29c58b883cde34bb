package membership

import (
	"bytes"
	"reflect"
	"testing"
	"time"

	"github.com/glotpod/ident/cluster/ownership"
	"github.com/glotpod/ident/cluster/ownership/moves"
	"github.com/glotpod/ident/cluster/partition"
)

// A decoded message does no harm to the core that gets it. Each line of the input is a
// message.
func FuzzDecode(f *testing.F) {
	self := ownership.Member{Name: "self", Incarnation: ownership.Incarnation{Start: 5, Session: 1}}
	other := ownership.Member{Name: "other", Incarnation: ownership.Incarnation{Start: 4, Session: 2}}
	lease := func(p int, holder ownership.Member) []partition.Lease {
		return []partition.Lease{{Partition: p, Epoch: 1, Holder: holder}, {Partition: maxPartitions - 1, Epoch: 1<<63 - 1, Holder: holder}}
	}
	parameters := ownership.Parameters{Partitions: 4, Table: ownership.TableVersion, QueueType: "quorum"}
	var all [][]byte
	for i, state := range []ownership.State{ownership.Joining, ownership.Ready, ownership.Draining, ownership.Leaving, ownership.Left} {
		body := encodeMessage(ownership.Message{From: other, Seq: int64(i) + 1, State: state, Parameters: parameters,
			Wants: lease(0, self), Granted: lease(3, self), Released: lease(1, other), Taken: lease(2, other), Gone: []ownership.Member{{Name: "third"}}})
		all = append(all, body)
		f.Add(body)
	}
	f.Add(bytes.Join(all, []byte("\n")))
	f.Add(encodeMessage(ownership.Message{From: ownership.Member{Name: "self", Incarnation: ownership.Incarnation{Start: 6}}, State: ownership.Joining}))
	f.Add(encodeMessage(ownership.Message{From: other, Seq: 1, State: ownership.Ready, Gone: []ownership.Member{self}}))
	f.Add([]byte(`{"v":1,"from":{"name":"other"},"state":"ready","parameters":{"partitions":3}}`))
	f.Add([]byte(`{"v":1,"V":2}`))
	f.Add(encodeMessage(ownership.Message{From: other, Seq: 1, State: ownership.Ready, Parameters: parameters, Weight: 25, Moves: moves.List{{Partition: 1, Version: 7}, {Partition: 3, Version: 1}}}))

	f.Fuzz(func(t *testing.T, lines []byte) {
		cfg := ownership.DefaultConfig()
		cfg.Name, cfg.Start, cfg.Partitions, cfg.QueueType, cfg.MaxMembers = self.Name, self.Incarnation.Start, 4, "quorum", 3
		core, err := ownership.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		now := time.Unix(0, 0)
		step := func(e ownership.Event) {
			for _, command := range core.Step(now, e) {
				switch c := command.(type) {
				case ownership.Claim: // all succeed, so that there is something to lose
					for _, next := range core.Step(now, ownership.Claimed{Partition: c.Partition, Attempt: c.Attempt, Epoch: 1}) {
						if consume, ok := next.(ownership.Consume); ok {
							core.Step(now, ownership.Consuming{Partition: consume.Partition, Epoch: consume.Epoch})
						}
					}
				case ownership.Broadcast:
					if sent, err := decodeMessage(encodeMessage(c.Message)); err != nil || !reflect.DeepEqual(sent, c.Message) {
						t.Fatalf("%+v is sent as %+v: %v", c.Message, sent, err)
					}
				}
			}
		}
		step(ownership.Connected{Session: 1})
		for range 10 {
			now = now.Add(100 * time.Millisecond)
			step(ownership.Tick{})
		}
		for line := range bytes.SplitSeq(lines, []byte("\n")) {
			msg, err := decodeMessage(line)
			if err != nil {
				continue
			}
			if again, err := decodeMessage(encodeMessage(msg)); err != nil || !reflect.DeepEqual(again, msg) {
				t.Fatalf("%+v came back as %+v: %v", msg, again, err)
			}
			step(ownership.MessageReceived{Message: msg})
			now = now.Add(300 * time.Millisecond)
			step(ownership.Tick{})
		}
		if status := core.Status(); len(status.Members) > cfg.MaxMembers {
			t.Errorf("%d members", len(status.Members))
		}
	})
}
