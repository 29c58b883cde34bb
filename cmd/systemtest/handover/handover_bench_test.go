package handover

import (
	"flag"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/glotpod/ident/cmd/systemtest/harness"
	"github.com/glotpod/ident/deploy/localserver"
	"github.com/glotpod/ident/deploy/testservers"
)

const (
	handOverPartitions = 64

	// handOverInterval is how often each partition is asked, and so by how much
	// a pause may be longer than it is measured. The machine has to bear it with
	// ease, or the load is what is measured.
	handOverInterval = 80 * time.Millisecond

	// The load counts once the instances know their users, and shows for a
	// while what is usual.
	handOverWarm  = 2 * time.Second
	handOverUsual = 4 * time.Second
)

// droppedWithin is how long RabbitMQ takes to drop a frozen instance: two to three heartbeats,
// of which the shortest is a second.
const droppedWithin = 3 * time.Second

// handOverInstances is how many instances the cluster has.
var handOverInstances = flag.Int("handover.instances", 5, "how many instances the cluster of BenchmarkHandOver has")

// A handOver is an event in a cluster with its target.
type handOver struct {
	name    string
	happen  func(*handOverSite) *observation
	pause   time.Duration // what it should be less than; 0: no partition moves
	percent int           // of the partitions that move, of which that is asked
}

// handOvers are the events. Nearly all partitions that are handed over must have a short
// pause, and so must all partitions that lose their owner.
var handOvers = []handOver{
	{"nothing", (*handOverSite).nothing, 0, 100},
	{"join", (*handOverSite).join, 100 * time.Millisecond, 99},
	{"leave", (*handOverSite).leave, 100 * time.Millisecond, 99},
	{"sigkill", (*handOverSite).sigkill, time.Second, 100},
	{"freeze", (*handOverSite).freeze, droppedWithin + 100*time.Millisecond, 100},
	{"cut", (*handOverSite).cut, droppedWithin + 100*time.Millisecond, 100},
}

// BenchmarkHandOver measures what callers notice when an instance comes, goes,
// dies, freezes or is cut off from the broker, and what they notice where nothing happens. Each round has a
// cluster of its own.
func BenchmarkHandOver(b *testing.B) {
	database := testservers.OwnPostgres(b, localserver.PostgresOptions{Durable: true})
	var tables strings.Builder
	for _, h := range handOvers {
		b.Run(h.name, func(b *testing.B) {
			var s handOverSummary
			for b.Loop() {
				harness.AsTest(b, func(t *testing.T) {
					s.add(h.happen(newHandOverSite(t, database)))
				})
			}
			s.report(b)
			tables.WriteString("\n" + s.table(&h))
		})
	}
	fmt.Println(tables.String()) // b.Log would show but ten lines
}

// A handOverSite is a cluster under a steady load.
type handOverSite struct {
	*harness.Site
	t         *testing.T
	instances []*harness.Instance
	network   *harness.Proxy // between the instance that is lost and the broker
	names     []string
	load      *steadyLoad
	before    []harness.Lease
}

// newHandOverSite starts a cluster, and a load that has shown what is usual.
func newHandOverSite(t *testing.T, database *localserver.Postgres) *handOverSite {
	s := &handOverSite{Site: harness.NewEmptySite(t), t: t}
	s.UsePostgres(t, database)
	s.Settings["database.postgres.max_connections"] = fmt.Sprint(min(10, max(4, 80 / *handOverInstances)))
	s.Settings["cluster.partitions"] = fmt.Sprint(handOverPartitions)
	s.Settings["log.level"] = "info"
	for range *handOverInstances {
		s.start()
	}
	s.AwaitStableOwners(t, s.names, func() bool { return true })
	users := createUsersOf(t, s.NewCaller(t), handOverPartitions, 2)
	s.load = startLoad(t, s.Site, users, handOverInterval)
	harness.Eventually(t, "the usual latency is known", func() bool { return s.load.now() > handOverWarm+handOverUsual })
	s.before = s.Owners(t)
	return s
}

// start starts one more instance.
func (s *handOverSite) start() {
	name := fmt.Sprintf("hand-over-%02d", len(s.names))
	settings := harness.Settings{"cluster.instance": name}
	if len(s.names) == s.victim() {
		s.network = harness.NewProxy(s.t, s.Settings["amqp.port"])
		settings["amqp.port"], settings["amqp.insist"] = s.network.Port(), "true"
	}
	s.instances = append(s.instances, s.Serve(s.t, settings))
	s.names = append(s.names, name)
}

// observe causes an event, waits until these instances own the partitions again, and
// returns what the load has seen.
func (s *handOverSite) observe(event func(), owners func() []string) *observation {
	o := &observation{warm: handOverWarm, before: s.before, event: s.load.now()}
	event()
	slow := 10 * handOverInterval
	o.after = s.AwaitStableOwners(s.t, owners(), func() bool { return s.load.waitsFor() < slow })
	o.shots, o.late = s.load.finish(s.t), s.load.late
	return o
}

func (s *handOverSite) nothing() *observation {
	return s.observe(func() {}, func() []string { return s.names })
}

func (s *handOverSite) join() *observation {
	o := s.observe(s.start, func() []string { return s.names })
	o.subject = s.names[*handOverInstances]
	o.ideal = len(s.before) / len(s.names)
	return o
}

// lose causes an event after which one of the instances owns nothing.
func (s *handOverSite) lose(event func(*harness.Instance)) *observation {
	which := s.victim()
	others := slices.Concat(s.names[:which], s.names[which+1:])
	o := s.observe(func() { event(s.instances[which]) }, func() []string { return others })
	o.subject = s.names[which]
	o.ideal = harness.CountOwned(s.before, o.subject)
	return o
}

func (s *handOverSite) leave() *observation {
	return s.lose(func(v *harness.Instance) { v.Stop(s.t) })
}

// victim returns the number of the instance that is lost.
func (s *handOverSite) victim() int { return *handOverInstances / 2 }

func (s *handOverSite) sigkill() *observation {
	return s.lose(func(v *harness.Instance) { v.Kill(s.t) })
}

func (s *handOverSite) freeze() *observation {
	return s.lose(func(v *harness.Instance) {
		if err := v.Cmd.Process.Signal(syscall.SIGSTOP); err != nil {
			s.t.Fatal(err)
		}
		s.t.Cleanup(func() { v.Kill(s.t) })
	})
}

func (s *handOverSite) cut() *observation {
	return s.lose(func(v *harness.Instance) {
		s.network.Silence()
		s.t.Cleanup(func() { v.Kill(s.t) })
	})
}
