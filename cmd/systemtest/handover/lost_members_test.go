package handover

import (
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/glotpod/ident/cluster/partition"
	"github.com/glotpod/ident/cmd/systemtest/harness"
)

const lossPartitions = 8

// servedAgainWithin is much longer than requests to the partitions of an instance that is lost
// take on a slow machine, and much less than amqp.heartbeat would allow.
const servedAgainWithin = 20 * time.Second

// A lossSite is a cluster that loses one of its instances, and users whose partitions that
// instance owns at the beginning.
type lossSite struct {
	*harness.Site
	caller  *harness.Caller
	heard   *harness.Subscriber
	names   []string
	victim  *harness.Instance // the last of names
	orphans []dict
	patches int // sent so far
}

// The requests to an instance that is frozen, suspected although it goes on, or killed are
// carried out once and in their order, and soon, however long amqp.heartbeat is. A frozen
// instance that goes on gets its partitions back.
func testMembersLost(t *testing.T) {
	t.Parallel()
	for _, queueType := range []string{"quorum", "classic"} {
		t.Run(queueType, func(t *testing.T) {
			t.Parallel()
			s := newLossSite(t, queueType)
			t.Run("suspected_wrongly", func(t *testing.T) {
				s.signal(t, syscall.SIGSTOP)
				sent := s.send(t)
				harness.Eventually(t, "a partition is taken", func() bool { return s.isTaken(t) })
				s.signal(t, syscall.SIGCONT)
				s.check(t, sent)
			})
			t.Run("frozen", func(t *testing.T) {
				s.AwaitStableOwners(t, s.names, func() bool { return true })
				s.signal(t, syscall.SIGSTOP)
				s.check(t, s.send(t))
				s.signal(t, syscall.SIGCONT)
			})
			t.Run("killed", func(t *testing.T) {
				s.AwaitStableOwners(t, s.names, func() bool { return true })
				s.victim.Kill(t)
				s.check(t, s.send(t))
				s.AwaitStableOwners(t, s.names[:2], func() bool { return true })
			})
		})
	}
}

func newLossSite(t *testing.T, queueType string) *lossSite {
	s := &lossSite{Site: harness.NewSite(t), names: []string{"a", "b", "c"}}
	s.Settings["cluster.partitions"] = fmt.Sprint(lossPartitions)
	s.Settings["cluster.queue_type"] = queueType
	s.Settings["amqp.heartbeat"], s.Settings["amqp.insist"] = "30s", "true"
	for _, name := range s.names {
		s.victim = s.ServeAs(t, name)
	}
	owners := s.AwaitStableOwners(t, s.names, func() bool { return true })
	s.caller, s.heard = s.NewCaller(t), s.Subscribe(t)
	for range 4 * lossPartitions {
		u := s.caller.Create(t, harness.NewUser())
		s.heard.Expect(t, harness.CreateKey, harness.AsListed(u))
		if owners[s.partitionOf(u)].Holder == s.victimName() {
			s.orphans = append(s.orphans, u)
		}
	}
	if len(s.orphans) == 0 {
		t.Fatal("no user is in a partition of the instance")
	}
	return s
}

func (s *lossSite) partitionOf(u dict) int { return partition.Of(u["id"].(int64), lossPartitions) }

func (s *lossSite) victimName() string { return s.names[len(s.names)-1] }

func (s *lossSite) signal(t *testing.T, signal syscall.Signal) {
	t.Helper()
	if err := s.victim.Cmd.Process.Signal(signal); err != nil {
		t.Fatal(err)
	}
}

// isTaken reports whether another instance has taken a partition of an orphan.
func (s *lossSite) isTaken(t *testing.T) bool {
	owners := s.Owners(t)
	for _, u := range s.orphans {
		if owners[s.partitionOf(u)].Holder != s.victimName() {
			return true
		}
	}
	return false
}

// send sends patches about all orphans, without waiting for replies: three to the partition
// of every other user, and one to the shared queue for each of the others. Each applies
// only once, and only after the one before.
func (s *lossSite) send(t *testing.T) (sent []*harness.Request) {
	for i, u := range s.orphans {
		for n := range 3 {
			s.patches++
			name := fmt.Sprint("s3cret ", s.patches)
			m := s.caller.NewRequest("patch", harness.Patch(u, op("test", "/name", u["name"]), op("replace", "/name", name)))
			if i%2 == 0 {
				viaPartition(m, u)
			} else if n > 0 {
				break // two routers may take requests about one user
			}
			u["name"] = name
			s.caller.Send(t, m)
			sent = append(sent, m)
		}
	}
	return sent
}

// check waits for the replies, and reads the users.
func (s *lossSite) check(t *testing.T, sent []*harness.Request) {
	t.Helper()
	began := time.Now()
	for _, m := range sent {
		s.caller.AwaitReply(t, m).Result(t)
		s.heard.Next(t)
	}
	took := time.Since(began)
	t.Logf("%d requests were answered after %.2f s", len(sent), took.Seconds())
	if took > servedAgainWithin {
		t.Errorf("should have been answered within %v", servedAgainWithin)
	}
	for _, u := range s.orphans {
		s.caller.Ask(t, viaPartition(s.caller.NewRequest("get", dict{"user_id": u["id"]}), u)).IsResult(t, u)
	}
}
