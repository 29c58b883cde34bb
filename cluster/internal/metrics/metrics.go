package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/glotpod/ident/actor"
)

// Prefix begins the names of all metrics.
const Prefix = "glotpod_ident_"

// Outcomes of requests, besides the codes of error replies.
const (
	OutcomeOK        = "ok"
	OutcomeForwarded = "passed_on" // to the queue of its user's partition, where it counts again
	OutcomeRequeued  = "put_back"  // given back to the broker, which delivers it again
	OutcomeExpired   = "expired"   // dropped without a reply, since its expiration is over
	OutcomeProbe     = "probe"     // sent by an instance, to find out whether the direct exchange leads where it should
	OutcomeLeft      = "left"      // left to the broker, since the partition or the session ended
)

// Ways by which requests come.
const (
	WayShared    = "shared"    // by the shared queue
	WayDirect    = "direct"    // from the caller to the partition's queue
	WayForwarded = "passed_on" // from an instance to the partition's queue
)

// OperationUnknown stands for all names that are no operation.
const OperationUnknown = "unknown"

// Metrics are what an instance counts and measures from the start of the process on.
type Metrics struct {
	Requests    *prometheus.CounterVec   // by operation, way, outcome
	Durations   *prometheus.HistogramVec // by operation, way
	InFlight    prometheus.Gauge
	Bytes       prometheus.Gauge
	Overloads   *prometheus.CounterVec // by reason
	Unanswered  prometheus.Counter
	Panics      prometheus.Counter
	Forwarded   prometheus.Counter
	Batches     prometheus.Histogram
	Misrouted   prometheus.Counter
	Fenced      prometheus.Counter
	HandOvers   prometheus.Histogram
	TakeOvers   prometheus.Histogram
	Lost        prometheus.Counter
	Sessions    prometheus.Counter
	Rebinds     prometheus.Counter
	Notified    prometheus.Counter
	Refused     prometheus.Counter
	NotifyLag   prometheus.Histogram
	Overdue     prometheus.Gauge
	TooLarge    *prometheus.CounterVec // by kind
	Oldest      prometheus.Gauge
	callers     callers
	Collections []prometheus.Collector // all of the above
}

// Kinds of messages that were not sent because the broker does not accept their size.
const (
	TooLargeReply   = "reply"   // an error reply was sent instead
	TooLargeWrite   = "write"   // the write was refused, since its notification cannot be sent
	TooLargeForward = "forward" // the request got an error reply
)

// Reasons for which a request was delayed or refused although it is valid.
const (
	OverloadMailbox   = "mailbox_full"
	OverloadPartition = "partition_stuck"
)

var (
	// durationBuckets are the bounds for durations that a caller notices, in seconds: from
	// 0.25 ms to 8 s.
	durationBuckets = prometheus.ExponentialBuckets(0.00025, 2, 16)

	// moveBuckets are the bounds for hand-overs, in seconds: from 1 ms to 16 s.
	moveBuckets = prometheus.ExponentialBuckets(0.001, 2, 15)
)

func New() *Metrics {
	m := new(Metrics)
	m.Requests = register(m, prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: Prefix + "requests_total",
		Help: "Requests completed here, by operation, by the way they came, and by outcome: ok, the code of the error reply, passed_on, expired, put_back, probe or left.",
	}, []string{"operation", "way", "outcome"}))
	m.Durations = register(m, prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:    Prefix + "request_duration_seconds",
		Help:    "Time from receiving a request to sending its reply.",
		Buckets: durationBuckets,
	}, []string{"operation", "way"}))
	m.callers.counts = register(m, prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: Prefix + "caller_requests_total",
		Help: "Requests completed here, by the caller's login at RabbitMQ: empty if the request does not tell it in the property user_id, other for all beyond 32 logins. A forwarded request counts where it is carried out.",
	}, []string{"caller"}))
	m.InFlight = m.gauge("requests_in_flight", "Requests that were received and are not complete.")
	m.Bytes = m.gauge("request_bytes_in_flight", "Bytes of the bodies and headers of the requests in flight; limits.in_flight_bytes is the limit.")
	m.Overloads = register(m, prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: Prefix + "overloads_total",
		Help: "Writes put into a partition's queue because too many requests wait for the same user (mailbox_full), and requests refused because the broker does not confirm requests forwarded to the partition (partition_stuck).",
	}, []string{"reason"}))
	m.Overloads.WithLabelValues(OverloadMailbox)
	m.Overloads.WithLabelValues(OverloadPartition)
	m.Unanswered = m.counter("answers_dropped_total", "Replies dropped because the caller's reply queue does not exist or cannot be used.")
	m.Panics = m.counter("panics_total", "Requests that failed because of a bug, except those in write_panics_total; the log has the stack.")
	m.Forwarded = m.counter("requests_forwarded_total", "Requests forwarded to a partition's queue.")
	m.Batches = m.histogram("relayed_requests", "Requests in each message to another instance, which serves their partitions.", prometheus.ExponentialBuckets(1, 2, 7))
	m.Misrouted = m.counter("requests_misrouted_total", "Requests that the direct exchange put into the wrong partition's queue, or had no queue for, so that they came to the shared queue.")
	m.Fenced = m.counter("writes_fenced_total", "Leases that a write found lost: the fence has held.")
	m.HandOvers = m.histogram("handover_duration_seconds", "Time to hand a partition over, until its lease had ended.", moveBuckets)
	m.TakeOvers = m.histogram("takeover_duration_seconds", "Time to take a partition over, from the claim or the grant until its queue was consumed.", moveBuckets)
	m.Lost = m.counter("partitions_lost_total", "Partitions abandoned without being handed over.")
	m.Sessions = m.counter("sessions_total", "Connections to the broker over which this instance became a member.")
	m.Rebinds = m.counter("rebinds_total", "Times that this instance rebound the partition queues.")
	m.Notified = m.counter("notifications_sent_total", "Notifications that the broker has accepted.")
	m.Refused = m.counter("notifications_refused_total", "Times that the broker refused a notification because a subscriber's queue takes no more, or did not confirm it in time.")
	m.NotifyLag = m.histogram("notification_lag_seconds", "Time from a commit to the broker's confirmation of its notification.", durationBuckets)
	m.Overdue = m.gauge("notifications_overdue", "Notifications of this instance's partitions that were committed more than 20 s ago and are not confirmed; counted every 10 s, one for each user, and one for each partition of which some were left to the log.")
	m.Oldest = m.gauge("notifications_oldest_seconds", "Time since the commit of the oldest notification of this instance's partitions that is not confirmed; measured every 10 s.")
	m.TooLarge = register(m, prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: Prefix + "messages_too_large_total",
		Help: "Requests that got the error invocation_failed because the broker does not accept a message of that size: their reply, the notification of their change (write), or themselves when they were forwarded.",
	}, []string{"kind"}))
	for _, kind := range []string{TooLargeReply, TooLargeWrite, TooLargeForward} {
		m.TooLarge.WithLabelValues(kind)
	}
	return m
}

func register[T prometheus.Collector](m *Metrics, c T) T {
	m.Collections = append(m.Collections, c)
	return c
}

func (m *Metrics) counter(name, help string) prometheus.Counter {
	return register(m, prometheus.NewCounter(prometheus.CounterOpts{Name: Prefix + name, Help: help}))
}

func (m *Metrics) gauge(name, help string) prometheus.Gauge {
	return register(m, prometheus.NewGauge(prometheus.GaugeOpts{Name: Prefix + name, Help: help}))
}

func (m *Metrics) histogram(name, help string, buckets []float64) prometheus.Histogram {
	return register(m, prometheus.NewHistogram(prometheus.HistogramOpts{Name: Prefix + name, Help: help, Buckets: buckets}))
}

// Completed counts a request of a caller that is complete. duration is the time until the
// reply; 0 if there was none.
func (m *Metrics) Completed(operation, way, outcome, caller string, duration time.Duration) {
	if !actor.IsOperation(operation) {
		operation = OperationUnknown
	}
	m.Requests.WithLabelValues(operation, way, outcome).Inc()
	if outcome != OutcomeForwarded && outcome != OutcomeProbe {
		m.callers.count(caller)
	}
	if duration > 0 {
		m.Durations.WithLabelValues(operation, way).Observe(duration.Seconds())
	}
}

// Count returns the value of a counter.
func Count(c prometheus.Counter) int64 {
	var m dto.Metric
	if c.Write(&m) != nil {
		return 0
	}
	return int64(m.GetCounter().GetValue())
}

// DurationCounts returns how many requests were replied to from the start of the process
// on, by the bucket of their duration. The last count is of those that took longer than
// all bounds.
func (m *Metrics) DurationCounts() []uint64 {
	counts := make([]uint64, len(durationBuckets)+1)
	histograms := make(chan prometheus.Metric)
	go func() {
		defer close(histograms)
		m.Durations.Collect(histograms)
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
