package systemtest

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/glotpod/ident/cluster/partition"
)

// partitionsOf returns the partitions that an instance owns.
func partitionsOf(t *testing.T, s *site, name string) (partitions []int) {
	t.Helper()
	for p, o := range s.owners(t) {
		if o.holder == name && !o.released {
			partitions = append(partitions, p)
		}
	}
	return partitions
}

// viaPartition has a request go the direct way.
func viaPartition(m *message, user dict) *message {
	m.exchange, m.Type, m.key = "glotpod.ident", m.key, fmt.Sprint(user["id"])
	return m
}

func TestUsersOfAKilledInstanceAreServedByTheOthers(t *testing.T) {
	t.Parallel()
	for _, queueType := range []string{"quorum", "classic"} {
		t.Run(queueType, func(t *testing.T) {
			t.Parallel()
			const partitions = 8
			s := newSite(t)
			s.settings["cluster.partitions"] = fmt.Sprint(partitions)
			s.settings["cluster.queue_type"] = queueType
			names := []string{"a", "b", "c"}
			var victim *service
			for _, name := range names {
				victim = s.serveAs(t, name)
			}
			owners := s.awaitCalm(t, names, func() bool { return true })
			c := s.newCaller(t)
			heard := s.subscribe(t)
			var orphans []dict
			for range 4 * partitions {
				u := c.create(t, newUser())
				heard.hears(t, createKey, shown(u))
				if owners[partition.Of(u["id"].(int64), partitions)].holder == "c" {
					orphans = append(orphans, u)
				}
			}
			if len(orphans) == 0 {
				t.Fatal("none of the users are in the instance's partitions")
			}
			victim.kill(t)
			killed := time.Now()
			var sent []*message
			for i, u := range orphans {
				m := c.request("patch", patchOf(u, op("test", "/name", u["name"]), op("replace", "/name", "s3cret")))
				if i%2 == 0 {
					viaPartition(m, u)
				}
				c.send(t, m)
				sent = append(sent, m)
			}
			for _, m := range sent {
				c.await(t, m).result(t)
			}
			t.Logf("%d users were served after %.2f s", len(orphans), time.Since(killed).Seconds())
			for _, u := range orphans {
				u["name"] = "s3cret"
				c.ask(t, viaPartition(c.request("get", dict{"user_id": u["id"]}), u)).is(t, u)
				heard.next(t)
			}
			s.awaitCalm(t, names[:2], func() bool { return true })
		})
	}
}

// Whoever has an instance's name later has it, as when its old machine comes
// back to life.
func TestOfTwoInstancesWithOneNameTheNewerStays(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.serveAs(t, "other")
	old := s.serveAs(t, "twin", settings{"amqp.insist": "true"})
	s.awaitCalm(t, []string{"other", "twin"}, func() bool { return true })
	l := newLoad(t, s.amqpURL, 1)
	eventually(t, "requests are answered", l.asksOn())
	young := s.serveAs(t, "twin")
	if status := old.await(t, patience); status != 1 {
		t.Errorf("the older one ended with %d", status)
	}
	if log := old.stderr.last(5); !strings.Contains(log, "a newer instance has this one's name") {
		t.Errorf("the older one does not say why it ends: %s", log)
	}
	eventually(t, "requests are answered after all", l.asksOn())
	l.check()
	s.awaitCalm(t, []string{"other", "twin"}, func() bool { return true })
	young.oneConnection(t)
}

// What a cluster was made with stays, also while nobody is there.
func TestInstanceOfAnotherKindOfClusterEndsWith78(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	v := s.serve(t)
	for _, running := range []bool{true, false} {
		for _, wrong := range []struct {
			settings settings
			says     string
		}{
			{settings{"cluster.partitions": "5"}, "has 4 partitions, and the settings say 5"},
			{settings{"cluster.queue_type": "classic"}, "has quorum queues, and the settings say classic"},
		} {
			status, _, stderr := runToEnd(t, s.settings.with(wrong.settings, settings{"cluster.instance": "wrong", "amqp.insist": "true"}).environ(), "serve")
			if status != 78 || !strings.Contains(stderr, wrong.says) {
				t.Errorf("ended with %d, others running: %v: %s", status, running, stderr)
			}
		}
		if running {
			v.oneConnection(t)
			v.stop(t)
		}
	}
	s.serve(t)
}

// A leaver's partitions are with the others before it ends, and a newcomer gets
// its share.
func TestPartitionsFollowTheMembers(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.settings["cluster.partitions"] = "8"
	s.serveAs(t, "a")
	b := s.serveAs(t, "b")
	s.awaitCalm(t, []string{"a", "b"}, func() bool { return true })
	l := newLoad(t, s.amqpURL, 1)
	eventually(t, "requests are answered", l.asksOn())
	b.stop(t)
	if left := partitionsOf(t, s, "b"); len(left) > 0 {
		t.Errorf("it has ended with the partitions %v", left)
	}
	s.serveAs(t, "c")
	s.awaitCalm(t, []string{"a", "c"}, func() bool { return true })
	if n := len(slices.Concat(partitionsOf(t, s, "a"), partitionsOf(t, s, "c"))); n != 8 {
		t.Errorf("%d of 8 partitions are owned", n)
	}
	l.check()
}
