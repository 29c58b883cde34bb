package handover

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/glotpod/ident/cmd/systemtest/harness"
	"github.com/glotpod/ident/cmd/systemtest/workload"
)

// partitionsOf returns the partitions that an instance owns.
func partitionsOf(t *testing.T, s *harness.Site, name string) (partitions []int) {
	t.Helper()
	for p, o := range s.Owners(t) {
		if o.Holder == name && !o.Released {
			partitions = append(partitions, p)
		}
	}
	return partitions
}

// viaPartition addresses a request directly to the partition of a user.
func viaPartition(m *harness.Request, user dict) *harness.Request {
	m.Exchange, m.Type, m.Key = "glotpod.ident", m.Key, fmt.Sprint(user["id"])
	return m
}

func TestMembers(t *testing.T) {
	t.Parallel()
	t.Run("lost", testMembersLost)
	t.Run("same_name", testMembersSameName)
	t.Run("other_cluster_settings", testMembersOtherClusterSettings)
	t.Run("queue_type", testMembersQueueType)
	t.Run("leave_and_join", testMembersLeaveAndJoin)
}

// Of two instances with the same name, the older one exits, as when a machine comes back
// that was replaced.
func testMembersSameName(t *testing.T) {
	t.Parallel()
	s := harness.NewSite(t)
	s.ServeAs(t, "other")
	old := s.ServeAs(t, "twin", harness.Settings{"amqp.insist": "true"})
	s.AwaitStableOwners(t, []string{"other", "twin"}, func() bool { return true })
	l := workload.Start(t, s.AMQPURL, workload.FewCallers, 1)
	harness.Eventually(t, "there are replies", l.Progress())
	young := s.ServeAs(t, "twin")
	if status := old.AwaitExit(t, harness.Timeout); status != 1 {
		t.Errorf("the older one ended with %d", status)
	}
	if log := old.Stderr.Last(5); !strings.Contains(log, "a newer instance has this one's name") {
		t.Errorf("the log of the older one does not say why it exits: %s", log)
	}
	harness.Eventually(t, "there are replies again", l.Progress())
	l.Check()
	s.AwaitStableOwners(t, []string{"other", "twin"}, func() bool { return true })
	young.CheckOneConnection(t)
}

// The number of partitions and the type of queues of a cluster are fixed, also while no
// instance runs.
func testMembersOtherClusterSettings(t *testing.T) {
	t.Parallel()
	s := harness.NewSite(t)
	v := s.Serve(t)
	for _, running := range []bool{true, false} {
		for _, wrong := range []struct {
			settings harness.Settings
			says     string
		}{
			{harness.Settings{"cluster.partitions": "5"}, "has 4 partitions, and the settings say 5"},
			{harness.Settings{"cluster.queue_type": "classic"}, "has quorum queues, and the settings say classic"},
		} {
			status, _, stderr := harness.Run(t, s.Settings.With(wrong.settings, harness.Settings{"cluster.instance": "wrong", "amqp.insist": "true"}).Environ(), "serve")
			if status != 78 || !strings.Contains(stderr, wrong.says) {
				t.Errorf("ended with %d, others running: %v: %s", status, running, stderr)
			}
		}
		if running {
			v.CheckOneConnection(t)
			v.Stop(t)
		}
	}
	s.Serve(t)
}

// By default, a cluster keeps the type of its queues. On one broker node, a new one has classic
// queues.
func testMembersQueueType(t *testing.T) {
	t.Parallel()
	auto := harness.Settings{"cluster.queue_type": "auto"}
	for _, queueType := range []string{"classic", "quorum"} {
		t.Run(queueType, func(t *testing.T) {
			s := harness.NewSite(t)
			if queueType == "quorum" {
				s.Serve(t).Stop(t)
			}
			s.Settings = s.Settings.With(auto)
			a, b := s.ServeAs(t, "a"), s.ServeAs(t, "b")
			s.AwaitStableOwners(t, []string{"a", "b"}, func() bool { return true })
			if n := s.Count(t, "SELECT count(*) FROM ident_cluster WHERE queue_type = '"+queueType+"'"); n != 1 {
				t.Errorf("the cluster has not the type %s", queueType)
			}
			chosen := 0
			if queueType == "classic" {
				chosen = 1
			}
			if n := a.Stderr.Count("type of the partition queues chosen for a new cluster"); n != chosen {
				t.Errorf("the type was chosen %d times, want %d", n, chosen)
			}
			s.NewCaller(t).Create(t, harness.NewUser())
			a.Stop(t)
			b.Stop(t)
			other := map[string]string{"classic": "quorum", "quorum": "classic"}[queueType]
			status, _, stderr := harness.Run(t, s.Settings.With(harness.Settings{"cluster.queue_type": other}).Environ(), "serve")
			if status != 78 || !strings.Contains(stderr, "has "+queueType+" queues, and the settings say "+other) {
				t.Errorf("ended with %d: %s", status, stderr)
			}
		})
	}
}

// A leaving instance hands over all its partitions before it exits, and a joining one
// gets its share.
func testMembersLeaveAndJoin(t *testing.T) {
	t.Parallel()
	s := harness.NewSite(t)
	s.Settings["cluster.partitions"] = "8"
	s.ServeAs(t, "a")
	b := s.ServeAs(t, "b")
	s.AwaitStableOwners(t, []string{"a", "b"}, func() bool { return true })
	l := workload.Start(t, s.AMQPURL, workload.FewCallers, 1)
	harness.Eventually(t, "there are replies", l.Progress())
	b.Stop(t)
	if left := partitionsOf(t, s, "b"); len(left) > 0 {
		t.Errorf("it has ended with the partitions %v", left)
	}
	s.ServeAs(t, "c")
	s.AwaitStableOwners(t, []string{"a", "c"}, func() bool { return true })
	if n := len(slices.Concat(partitionsOf(t, s, "a"), partitionsOf(t, s, "c"))); n != 8 {
		t.Errorf("%d of 8 partitions are owned", n)
	}
	l.Check()
}
