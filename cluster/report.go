package cluster

import (
	"fmt"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/cluster/internal/metrics"
	"github.com/glotpod/ident/cluster/internal/notify"
	"github.com/glotpod/ident/cluster/membership"
	"github.com/glotpod/ident/cluster/ownership"
	"github.com/glotpod/ident/cluster/partition"
)

// report returns what the status of the cluster shows about this instance.
func (i *Instance) report(s *session) membership.Report {
	status, _ := s.coordinator.Status() // the coordinator runs longer than any session
	r := membership.NewReport(status)
	r.Version, r.StartedAt = s.o.Version, i.started
	r.Parameters = membership.Parameters{First: s.o.first, Partitions: s.o.Partitions, TableVersion: ownership.TableVersion, QueueType: s.o.QueueType}
	for n := range r.Partitions {
		p := &r.Partitions[n]
		if served := s.slots[p.Partition].serving.Load(); served != nil {
			p.RequestsPerSecond = served.requests.PerSecond()
		}
	}
	r.SharedRequestsPerSecond = s.requests.PerSecond()
	if s.cache != nil {
		r.CachedUsers = s.cache.Len()
	}
	r.Counters = membership.Counters{
		Forwarded: metrics.Count(s.metrics.Forwarded),
		Misrouted: metrics.Count(s.metrics.Misrouted),
		Fenced:    metrics.Count(s.metrics.Fenced),

		DatabaseRoundTrips: s.o.Store.RoundTrips(),
	}
	r.Problems = i.problems(s)
	r.Traffic = i.traffic.Report()
	return r
}

// userReport returns what a user waits for, as far as this instance knows.
func (i *Instance) userReport(s *session, userID int64) membership.UserReport {
	now, p := time.Now(), partition.Of(userID, s.o.Partitions)
	r := membership.UserReport{MemberID: membership.MemberIDOf(s.self), UserID: userID, Partition: p, First: s.o.first}
	status, _ := s.coordinator.Status()
	if status.Self != s.self || status.Partitions[p].Epoch == 0 {
		return r
	}
	since := func(t time.Time) float64 {
		if t.IsZero() {
			return 0
		}
		return max(0, now.Sub(t).Seconds())
	}
	r.Epoch, r.Phase, r.Mailbox = status.Partitions[p].Epoch, status.Partitions[p].Phase, s.o.Mailbox
	if served := s.slots[p].serving.Load(); served != nil {
		load := served.users.UserLoad(userID)
		r.Cached, r.InProgress, r.Waiting, r.Writes = load.Cached, load.InProgress, load.Waiting, load.Writes
		r.OldestSeconds = since(load.Oldest)
	}
	if s.o.CommitStatus != nil {
		c := s.o.CommitStatus(s.o.first+p, userID)
		r.Commit = membership.UserCommit{Stage: c.Stage, Seconds: since(c.Since), BusySeconds: since(c.BusySince), Behind: c.Behind}
	}
	b := s.notifier.UserBacklog(p, userID)
	r.Notifications = membership.UserNotifications{Pending: b.Pending, OldestSeconds: since(b.Oldest), HeldBack: b.HeldBack,
		HeldBackSeconds: since(b.Since), RoutingKey: b.Key, FromLog: b.Behind}
	return r
}

// Problems describes what is wrong although the instance may be ready: with the database, which
// all instances share. So it is of no use to send requests to another one.
func (i *Instance) Problems() []string { return i.o.Store.Problems() }

// problems describes what is wrong with the instance.
func (i *Instance) problems(s *session) (problems []string) {
	if err := i.Ready(); err != nil && !i.stopping.Load() {
		problems = append(problems, err.Error())
	}
	problems = append(problems, i.Problems()...)
	if w := i.watcher.Load(); w != nil && w.Latest().IsUnderWay() {
		problems = append(problems, fmt.Sprintf("a repartition is under way, in the phase %s", w.Latest().Phase))
	}
	if s.blocked.any() {
		problems = append(problems, "RabbitMQ blocks publishing, since it is short of memory or disk space")
	}
	if i.cache != nil && i.served.Load() && !i.cache.Trusted() {
		problems = append(problems, "users are read from the database each time, since another program writes to it or may do so unnoticed")
	}
	if b := s.notifier.Backlog(); b.HeldBack > 0 {
		problems = append(problems, fmt.Sprintf("notifications of %d users are held back: a subscriber's queue takes no more or confirms nothing, or no key decrypts one of them", b.HeldBack))
	}
	return problems
}

// Metrics that are computed when they are collected.
var (
	readyDesc       = describe("ready", "1 while the instance is ready: it receives requests, can carry them out, and has served all partitions that it should; else 0.")
	stateDesc       = describe("instance_state", "1 for the state of the instance as a member.", "state")
	connectedDesc   = describe("broker_connected", "1 while the instance is connected to RabbitMQ, else 0.")
	blockedDesc     = describe("broker_blocked", "1 while RabbitMQ blocks publishing because it is short of memory or disk space, else 0.")
	sharedDesc      = describe("shared_queue_consumed", "1 while this instance consumes the shared queue, else 0.")
	askingDesc      = describe("asks_for_all_requests", "1 while the instance asks RabbitMQ for all requests of the shared queue, because there are many; 0 while it asks for its share.")
	floodsDesc      = describe("flooding_callers", "Callers that have their share of the requests or more here all the time, under way or waiting. They are held back while others ask often.")
	turnsDesc       = describe("requests_waiting_for_turn", "Requests of the shared queue that wait for the turn of their caller.")
	reachableDesc   = describe("database_reachable", "1 while the database answers, can be written to and accepts new connections, else 0.")
	membersDesc     = describe("members", "Members of the cluster, including this instance, by their state as this instance knows it.", "state")
	partitionsDesc  = describe("partitions", "Partitions of the cluster.")
	ownedDesc       = describe("partitions_owned", "Partitions that this instance holds a lease of.")
	assignedDesc    = describe("partitions_assigned", "Partitions that the hash ring assigns to this instance.")
	unsettledDesc   = describe("partitions_unsettled_seconds", "How long this instance has not held all partitions that the hash ring assigns to it, or has waited to be put on the ring.")
	epochDesc       = describe("partition_epoch", "Epoch of this instance's lease of the partition.", "partition")
	actorsDesc      = describe("actors", "Users with a request that is being carried out or waits.")
	waitingDesc     = describe("mailbox_requests", "Requests that wait in the mailboxes of users.")
	longestDesc     = describe("mailbox_longest", "Requests in the fullest mailbox; actor.mailbox is the limit for requests from the shared queue.")
	cachedUsersDesc = describe("warm_users", "Users cached in memory.")
	cachedBytesDesc = describe("warm_bytes", "Bytes that the cached users take; actor.warm_bytes is the limit.")
	cachedReadsDesc = describe("warm_reads_total", "Reads replied to from memory.")
	trustedDesc     = describe("read_cache_trusted", "1 while users are cached in memory; 0 while another program writes to the tables, or may do so unnoticed.")
	heldBackDesc    = describe("notifications_held_back_users", "Users whose notifications are held back because a subscriber's queue takes no more or confirms nothing, or because no key decrypts one of them.")
	behindDesc      = describe("notifications_partitions_behind", "Partitions of this instance whose notifications are sent from the log, after those that are left there.")
	suspicionsDesc  = describe("suspicions_total", "Members that this instance suspected to be dead because it had not heard of them, by outcome: right if the member was gone, wrong if it was heard again.", "outcome")
	pendingDesc     = describe("notifications_pending", "Notifications sent that the broker has not confirmed yet.")
)

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(metrics.Prefix+name, help, labels, nil)
}

var descriptions = []*prometheus.Desc{
	readyDesc, stateDesc, connectedDesc, blockedDesc, sharedDesc, askingDesc, turnsDesc, floodsDesc, reachableDesc, membersDesc, partitionsDesc, ownedDesc, assignedDesc,
	unsettledDesc, epochDesc, actorsDesc, waitingDesc, longestDesc, cachedUsersDesc, cachedBytesDesc, cachedReadsDesc, trustedDesc,
	heldBackDesc, pendingDesc, behindDesc, suspicionsDesc,
}

// Describe implements [prometheus.Collector].
func (i *Instance) Describe(to chan<- *prometheus.Desc) {
	for _, c := range i.metrics.Collections {
		c.Describe(to)
	}
	for _, d := range descriptions {
		to <- d
	}
}

// Collect implements [prometheus.Collector].
func (i *Instance) Collect(to chan<- prometheus.Metric) {
	for _, c := range i.metrics.Collections {
		c.Collect(to)
	}
	gauge := func(d *prometheus.Desc, value float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
	}
	s := i.session.Load()
	gauge(readyDesc, bit(i.Ready() == nil))
	gauge(connectedDesc, bit(s != nil))
	gauge(blockedDesc, bit(s != nil && s.blocked.any()))
	gauge(sharedDesc, bit(i.sharedErr() == nil))
	gauge(askingDesc, bit(s != nil && s.prefer.AsksForAll()))
	gauge(reachableDesc, bit(i.stored.Load() && !i.refused.Load()))
	gauge(partitionsDesc, float64(i.generation.Load().Partitions))
	gauge(unsettledDesc, i.unsettledFor().Seconds())
	i.collectSession(s, gauge)
	select {
	case <-i.begun:
	default:
		return
	}
	i.collectMembership(to)
	if i.cache != nil {
		gauge(cachedUsersDesc, float64(i.cache.Len()))
		gauge(cachedBytesDesc, float64(i.cache.Bytes()))
		gauge(trustedDesc, bit(i.cache.Trusted()))
		to <- prometheus.MustNewConstMetric(cachedReadsDesc, prometheus.CounterValue, float64(i.cache.Hits()))
	}
}

func (i *Instance) collectMembership(to chan<- prometheus.Metric) {
	status, ok := i.status()
	if !ok {
		return
	}
	gauge := func(d *prometheus.Desc, value float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
	}
	for outcome, n := range map[string]int64{"right": status.Suspicions.Right, "wrong": status.Suspicions.Wrong} {
		to <- prometheus.MustNewConstMetric(suspicionsDesc, prometheus.CounterValue, float64(n), outcome)
	}
	gauge(stateDesc, 1, status.State.String())
	members := map[string]int{status.State.String(): 1}
	for _, m := range status.Members {
		if m.Alive {
			members[m.State.String()]++
		}
	}
	for state, n := range members {
		gauge(membersDesc, float64(n), state)
	}
	var owned, assigned float64
	for p, status := range status.Partitions {
		if status.AssignedTo == i.o.Name {
			assigned++
		}
		if status.Epoch != 0 {
			owned++
			gauge(epochDesc, float64(status.Epoch), strconv.Itoa(p))
		}
	}
	gauge(ownedDesc, owned)
	gauge(assignedDesc, assigned)
}

func (i *Instance) collectSession(s *session, gauge func(*prometheus.Desc, float64, ...string)) {
	var load actor.Load
	var backlog notify.Backlog
	var turns, floods int
	if s != nil {
		for _, x := range s.slots {
			if p := x.serving.Load(); p != nil {
				load = load.Add(p.users.Load())
			}
		}
		backlog = s.notifier.Backlog()
		turns, floods = s.turns.Waiting(), s.turns.Floods()
	}
	gauge(turnsDesc, float64(turns))
	gauge(floodsDesc, float64(floods))
	gauge(actorsDesc, float64(load.Actors))
	gauge(waitingDesc, float64(load.Waiting))
	gauge(longestDesc, float64(load.Longest))
	gauge(pendingDesc, float64(backlog.Pending))
	gauge(heldBackDesc, float64(backlog.HeldBack))
	gauge(behindDesc, float64(backlog.Behind))
}

func bit(yes bool) float64 {
	if yes {
		return 1
	}
	return 0
}
