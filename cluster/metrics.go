package cluster

import (
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// metricPrefix begins the names of all metrics.
const metricPrefix = "glotpod_ident_"

// Outcomes of requests, besides the codes of error replies.
const (
	outcomeOK        = "ok"
	outcomeForwarded = "passed_on" // to the queue of its user's partition, where it counts again
	outcomeRequeued  = "put_back"  // given back to the broker, which delivers it again
	outcomeLeft      = "left"      // left to the broker, since the partition or the session ended
)

// Ways by which requests come.
const (
	wayShared    = "shared"    // by the shared queue
	wayDirect    = "direct"    // from the caller to the partition's queue
	wayForwarded = "passed_on" // from an instance to the partition's queue
)

// operationUnknown stands for all names that are no operation.
const operationUnknown = "unknown"

var operations = []string{"get", "create", "patch", "delete", "list"}

func isOperation(name string) bool { return slices.Contains(operations, name) }

// metrics are what an instance counts and measures from the start of the process on.
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

// Reasons for which a request was delayed or refused although it is valid.
const (
	overloadMailbox   = "mailbox_full"
	overloadPartition = "partition_stuck"
)

var (
	// durationBuckets are the bounds for durations that a caller notices, in seconds: from
	// 0.25 ms to 8 s.
	durationBuckets = prometheus.ExponentialBuckets(0.00025, 2, 16)

	// moveBuckets are the bounds for hand-overs, in seconds: from 1 ms to 16 s.
	moveBuckets = prometheus.ExponentialBuckets(0.001, 2, 15)
)

func newMetrics() *metrics {
	m := new(metrics)
	m.requests = register(m, prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: metricPrefix + "requests_total",
		Help: "Requests completed here, by operation, by the way they came, and by outcome: ok, the code of the error reply, passed_on, put_back or left.",
	}, []string{"operation", "way", "outcome"}))
	m.durations = register(m, prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:    metricPrefix + "request_duration_seconds",
		Help:    "Time from receiving a request to sending its reply.",
		Buckets: durationBuckets,
	}, []string{"operation", "way"}))
	m.inFlight = m.gauge("requests_in_flight", "Requests that were received and are not complete.")
	m.bytes = m.gauge("request_bytes_in_flight", "Bytes of the bodies of the requests in flight; limits.in_flight_bytes is the limit.")
	m.overloads = register(m, prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: metricPrefix + "overloads_total",
		Help: "Writes put into a partition's queue because too many requests wait for the same user (mailbox_full), and requests refused because the broker does not confirm requests forwarded to the partition (partition_stuck).",
	}, []string{"reason"}))
	m.overloads.WithLabelValues(overloadMailbox)
	m.overloads.WithLabelValues(overloadPartition)
	m.unanswered = m.counter("answers_dropped_total", "Replies dropped because the caller's reply queue does not exist or cannot be used.")
	m.panics = m.counter("panics_total", "Requests that failed because of a bug, except those in write_panics_total; the log has the stack.")
	m.forwarded = m.counter("requests_forwarded_total", "Requests forwarded to a partition's queue.")
	m.misrouted = m.counter("requests_misrouted_total", "Requests that the exchange put into the wrong partition's queue.")
	m.fenced = m.counter("writes_fenced_total", "Leases that a write found lost: the fence has held.")
	m.handOvers = m.histogram("handover_duration_seconds", "Time to hand a partition over, until its lease had ended.", moveBuckets)
	m.takeOvers = m.histogram("takeover_duration_seconds", "Time to take a partition over, from the claim or the grant until its queue was consumed.", moveBuckets)
	m.lost = m.counter("partitions_lost_total", "Partitions abandoned without being handed over.")
	m.sessions = m.counter("sessions_total", "Connections to the broker over which this instance became a member.")
	m.rebinds = m.counter("rebinds_total", "Times that this instance rebound the partition queues.")
	m.notified = m.counter("notifications_sent_total", "Notifications that the broker has accepted.")
	m.refused = m.counter("notifications_refused_total", "Times that the broker refused a notification because a subscriber's queue takes no more.")
	m.notifyLag = m.histogram("notification_lag_seconds", "Time from a commit to the broker's confirmation of its notification.", durationBuckets)
	m.overdue = m.gauge("notifications_overdue", "Notifications of this instance's partitions that were committed more than 20 s ago and are still in the outbox; counted every 10 s.")
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

// completed counts a request that is complete. duration is the time until the reply; 0 if
// there was none.
func (m *metrics) completed(operation, way, outcome string, duration time.Duration) {
	if !isOperation(operation) {
		operation = operationUnknown
	}
	m.requests.WithLabelValues(operation, way, outcome).Inc()
	if duration > 0 {
		m.durations.WithLabelValues(operation, way).Observe(duration.Seconds())
	}
}

// count returns the value of a counter.
func count(c prometheus.Counter) int64 {
	var m dto.Metric
	if c.Write(&m) != nil {
		return 0
	}
	return int64(m.GetCounter().GetValue())
}

// durationCounts returns how many requests were replied to from the start of the process
// on, by the bucket of their duration. The last count is of those that took longer than
// all bounds.
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
