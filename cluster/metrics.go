package cluster

import (
	"slices"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/glotpod/ident/actor"
)

// metricPrefix begins the names of all metrics.
const metricPrefix = "glotpod_ident_"

// What became of a request, where it is neither "ok" nor a refusal's code.
const (
	outcomeOK       = "ok"
	outcomePassedOn = "passed_on" // to the queue of its user's partition, by which it is counted again
	outcomePutBack  = "put_back"  // to the broker, which delivers it again
	outcomeLeft     = "left"      // to the broker, as the partition or the session ended
)

// The ways by which requests come.
const (
	wayShared   = "shared"    // by the shared queue
	wayDirect   = "direct"    // by the caller to the partition
	wayPassedOn = "passed_on" // by another instance to the partition
)

// operationUnknown stands for all that is no operation.
const operationUnknown = "unknown"

var operations = []string{"get", "create", "patch", "delete", "list"}

func isOperation(name string) bool { return slices.Contains(operations, name) }

// metrics are what an instance counts and measures since the process has started.
type metrics struct {
	requests    *prometheus.CounterVec   // by operation, way, outcome
	durations   *prometheus.HistogramVec // by operation, way
	inFlight    prometheus.Gauge
	bytes       prometheus.Gauge
	overloads   *prometheus.CounterVec // by reason
	unanswered  prometheus.Counter
	panics      prometheus.Counter
	forwarded   prometheus.Counter
	misrouted   prometheus.Counter
	fenced      prometheus.Counter
	handOvers   prometheus.Histogram
	takeOvers   prometheus.Histogram
	lost        prometheus.Counter
	sessions    prometheus.Counter
	rebinds     prometheus.Counter
	notified    prometheus.Counter
	refused     prometheus.Counter
	notifyLag   prometheus.Histogram
	overdue     prometheus.Gauge
	collections []prometheus.Collector // all of the above
}

// Why a request was refused though nothing is wrong with it.
const (
	overloadMailbox   = "mailbox_full"
	overloadPartition = "partition_stuck"
)

var (
	// durationBuckets are those of whatever takes a caller's time, in seconds:
	// from 0.25 ms to 8 s.
	durationBuckets = prometheus.ExponentialBuckets(0.00025, 2, 16)

	// moveBuckets are those of hand-overs, in seconds: from 1 ms to 16 s.
	moveBuckets = prometheus.ExponentialBuckets(0.001, 2, 15)
)

func newMetrics() *metrics {
	m := new(metrics)
	m.requests = register(m, prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: metricPrefix + "requests_total",
		Help: "Requests that have ended here: by operation, by the way they came, and by outcome: ok, a refusal's code, passed_on, put_back or left.",
	}, []string{"operation", "way", "outcome"}))
	m.durations = register(m, prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:    metricPrefix + "request_duration_seconds",
		Help:    "Time from when a request was taken to when its answer was sent.",
		Buckets: durationBuckets,
	}, []string{"operation", "way"}))
	m.inFlight = m.gauge("requests_in_flight", "Requests that were taken and have not ended.")
	m.bytes = m.gauge("request_bytes_in_flight", "Bytes of the bodies of these; limits.in_flight_bytes is the limit.")
	m.overloads = register(m, prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: metricPrefix + "overloads_total",
		Help: "Requests left to a partition's queue since too many wait for the same user (mailbox_full), and requests refused since the broker takes none for the partition (partition_stuck).",
	}, []string{"reason"}))
	m.overloads.WithLabelValues(overloadMailbox)
	m.overloads.WithLabelValues(overloadPartition)
	m.unanswered = m.counter("answers_dropped_total", "Answers to callers who cannot be answered.")
	m.panics = m.counter("panics_total", "Requests that failed by a bug, but for those of write_panics_total; the log has the stack.")
	m.forwarded = m.counter("requests_forwarded_total", "Requests that were passed on to a partition's queue.")
	m.misrouted = m.counter("requests_misrouted_total", "Requests that came by another partition's queue than they should.")
	m.fenced = m.counter("writes_fenced_total", "Leases that a write found to be over: the fence has held.")
	m.handOvers = m.histogram("handover_duration_seconds", "Time that handing a partition over took, until its lease had ended.", moveBuckets)
	m.takeOvers = m.histogram("takeover_duration_seconds", "Time that taking a partition took, from the claim or the grant until its queue was consumed.", moveBuckets)
	m.lost = m.counter("partitions_lost_total", "Partitions that had to be given up without handing them over.")
	m.sessions = m.counter("sessions_total", "Connections to the broker on which this instance became a member.")
	m.rebinds = m.counter("rebinds_total", "Times that this instance has bound the partitions' queues anew.")
	m.notified = m.counter("notifications_sent_total", "Notifications that the broker has confirmed.")
	m.refused = m.counter("notifications_refused_total", "Times that the broker has refused a notification, for a subscriber's queue that takes no more.")
	m.notifyLag = m.histogram("notification_lag_seconds", "Time from a commit to the broker's confirmation of its notification.", durationBuckets)
	m.overdue = m.gauge("notifications_overdue", "Notifications of partitions held here that were committed more than 20 s ago and are still in the outbox, as of the last look, every 10 s.")
	return m
}

func register[T prometheus.Collector](m *metrics, c T) T {
	m.collections = append(m.collections, c)
	return c
}

func (m *metrics) counter(name, help string) prometheus.Counter {
	return register(m, prometheus.NewCounter(prometheus.CounterOpts{Name: metricPrefix + name, Help: help}))
}

func (m *metrics) gauge(name, help string) prometheus.Gauge {
	return register(m, prometheus.NewGauge(prometheus.GaugeOpts{Name: metricPrefix + name, Help: help}))
}

func (m *metrics) histogram(name, help string, buckets []float64) prometheus.Histogram {
	return register(m, prometheus.NewHistogram(prometheus.HistogramOpts{Name: metricPrefix + name, Help: help, Buckets: buckets}))
}

// ended notes that a request has ended. Where it was not answered, for is 0.
func (m *metrics) ended(operation, way, outcome string, after time.Duration) {
	if !isOperation(operation) {
		operation = operationUnknown
	}
	m.requests.WithLabelValues(operation, way, outcome).Inc()
	if after > 0 {
		m.durations.WithLabelValues(operation, way).Observe(after.Seconds())
	}
}

// What an instance says of itself when it is asked for its metrics.
var (
	readyDesc      = describe("ready", "1 while the instance is ready: it takes requests, can carry them out, and has had the partitions that are to be its own; else 0.")
	stateDesc      = describe("instance_state", "1 for the state that the instance is in as a member.", "state")
	connectedDesc  = describe("broker_connected", "1 while the instance is connected to RabbitMQ, else 0.")
	blockedDesc    = describe("broker_blocked", "1 while RabbitMQ takes nothing in, as it is short of memory or disk space, else 0.")
	reachableDesc  = describe("database_reachable", "1 while the database answers and can be written to, else 0.")
	membersDesc    = describe("members", "Instances of the cluster, this one included, by their state as this one knows it.", "state")
	partitionsDesc = describe("partitions", "Partitions of the cluster.")
	ownedDesc      = describe("partitions_owned", "Partitions that this instance holds.")
	assignedDesc   = describe("partitions_assigned", "Partitions that the hash ring gives to this instance.")
	unsettledDesc  = describe("partitions_unsettled_seconds", "How long there have been partitions that the hash ring gives to this instance and that it does not own, or it has waited to come into the ring.")
	epochDesc      = describe("partition_epoch", "Epoch under which this instance holds the partition.", "partition")
	actorsDesc     = describe("actors", "Users of whom a request is being carried out or waits.")
	waitingDesc    = describe("mailbox_requests", "Requests that wait in the mailboxes of these.")
	longestDesc    = describe("mailbox_longest", "Requests in the fullest mailbox; actor.mailbox is the limit for those that came by the shared queue.")
	warmDesc       = describe("warm_users", "Users who are kept in memory.")
	warmBytesDesc  = describe("warm_bytes", "Bytes that they take; actor.warm_bytes is the limit.")
	warmReadsDesc  = describe("warm_reads_total", "Reads that were answered from memory.")
	trustedDesc    = describe("read_cache_trusted", "1 while users are kept in memory, 0 while another program writes to the tables or nothing is heard of that.")
	heldBackDesc   = describe("notifications_held_back_users", "Users whose notifications are held back, as a subscriber's queue takes no more, or no key opens one of them.")
	pendingDesc    = describe("notifications_pending", "Notifications that were sent and that the broker has not confirmed.")
)

// count returns what a counter has counted.
func count(c prometheus.Counter) int64 {
	var m dto.Metric
	if c.Write(&m) != nil {
		return 0
	}
	return int64(m.GetCounter().GetValue())
}

// durationCounts returns how many requests were answered since the process has
// started, by the bucket of the time that they took; the last one is of those that
// took longer than all bounds.
func (m *metrics) durationCounts() []uint64 {
	counts := make([]uint64, len(durationBuckets)+1)
	histograms := make(chan prometheus.Metric)
	go func() {
		defer close(histograms)
		m.durations.Collect(histograms)
	}()
	for h := range histograms {
		var written dto.Metric
		if h.Write(&written) != nil {
			continue
		}
		below := uint64(0)
		for i, bucket := range written.GetHistogram().GetBucket() {
			counts[i] += bucket.GetCumulativeCount() - below
			below = bucket.GetCumulativeCount()
		}
		counts[len(counts)-1] += written.GetHistogram().GetSampleCount() - below
	}
	return counts
}

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(metricPrefix+name, help, labels, nil)
}

var descriptions = []*prometheus.Desc{
	readyDesc, stateDesc, connectedDesc, blockedDesc, reachableDesc, membersDesc, partitionsDesc, ownedDesc, assignedDesc,
	unsettledDesc, epochDesc, actorsDesc, waitingDesc, longestDesc, warmDesc, warmBytesDesc, warmReadsDesc, trustedDesc,
	heldBackDesc, pendingDesc,
}

// Describe implements [prometheus.Collector].
func (i *Instance) Describe(to chan<- *prometheus.Desc) {
	for _, c := range i.metrics.collections {
		c.Describe(to)
	}
	for _, d := range descriptions {
		to <- d
	}
}

// Collect implements [prometheus.Collector].
func (i *Instance) Collect(to chan<- prometheus.Metric) {
	for _, c := range i.metrics.collections {
		c.Collect(to)
	}
	gauge := func(d *prometheus.Desc, value float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
	}
	s := i.session.Load()
	gauge(readyDesc, bit(i.Ready() == nil))
	gauge(connectedDesc, bit(s != nil))
	gauge(blockedDesc, bit(s != nil && s.blocked.Load()))
	gauge(reachableDesc, bit(i.stored.Load()))
	gauge(partitionsDesc, float64(i.o.Partitions))
	gauge(unsettledDesc, i.unsettledFor().Seconds())
	i.collectSession(s, gauge)
	select {
	case <-i.begun:
	default:
		return
	}
	i.collectMembership(gauge)
	if i.cache != nil {
		gauge(warmDesc, float64(i.cache.Len()))
		gauge(warmBytesDesc, float64(i.cache.Bytes()))
		gauge(trustedDesc, bit(i.cache.Trusted()))
		to <- prometheus.MustNewConstMetric(warmReadsDesc, prometheus.CounterValue, float64(i.cache.Hits()))
	}
}

func (i *Instance) collectMembership(gauge func(*prometheus.Desc, float64, ...string)) {
	status, ok := i.coordinator.look()
	if !ok {
		return
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
	pending, heldBack := 0, 0
	if s != nil {
		for _, x := range s.slots {
			if h := x.live.Load(); h != nil {
				load = load.Add(h.users.Load())
			}
		}
		pending, heldBack = s.notifier.Backlog()
	}
	gauge(actorsDesc, float64(load.Actors))
	gauge(waitingDesc, float64(load.Waiting))
	gauge(longestDesc, float64(load.Longest))
	gauge(pendingDesc, float64(pending))
	gauge(heldBackDesc, float64(heldBack))
}

func bit(yes bool) float64 {
	if yes {
		return 1
	}
	return 0
}
