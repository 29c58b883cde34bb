package store

import (
	"math"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/glotpod/ident/store/internal/commit"
	"github.com/glotpod/ident/store/internal/postgres"
)

// metricPrefix begins the names of all metrics.
const metricPrefix = "glotpod_ident_"

// metrics are the measurements of a store since it was opened.
type metrics struct {
	commits     *prometheus.HistogramVec // seconds, by path
	writes      prometheus.Histogram     // per transaction
	misses      prometheus.Counter
	failures    *prometheus.CounterVec // by class
	failed      prometheus.Counter
	lookups     prometheus.Histogram // users per round trip
	foreign     prometheus.Counter
	unreadable  prometheus.Counter
	panics      prometheus.Counter
	histories   prometheus.Counter
	losses      prometheus.Counter
	collections []prometheus.Collector // all of the above
}

func newMetrics() *metrics {
	m := new(metrics)
	m.commits = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:    metricPrefix + "commit_duration_seconds",
		Help:    "Duration of a transaction of writes: in one round trip (known), or in two or three (read).",
		Buckets: prometheus.ExponentialBuckets(0.00025, 2, 16),
	}, []string{"path"})
	m.writes = prometheus.NewHistogram(prometheus.HistogramOpts{
		Name:    metricPrefix + "commit_writes",
		Help:    "Writes per transaction.",
		Buckets: prometheus.ExponentialBuckets(1, 2, 8),
	})
	m.misses = m.counter("commit_misses_total", "Transactions in one round trip that found other users than the cached ones, wrote nothing, and were repeated in two.")
	m.failures = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: metricPrefix + "commit_failures_total",
		Help: "Transactions of writes that were not committed, by reason: another transaction was in the way (contended), the database returned an error (failed), there was no connection (unsent), or the connection was lost (unknown: the transaction may have been committed, which the next attempt finds out).",
	}, []string{"reason"})
	for _, class := range []postgres.Class{postgres.Contended, postgres.Failed, postgres.Unknown, postgres.Unsent} {
		m.failures.WithLabelValues(class.String())
	}
	m.failed = m.counter("writes_failed_total", "Writes that failed. The log says why.")
	m.lookups = prometheus.NewHistogram(prometheus.HistogramOpts{
		Name:    metricPrefix + "lookup_batch_users",
		Help:    "Users that are looked up in one round trip.",
		Buckets: prometheus.ExponentialBuckets(1, 2, 7),
	})
	m.foreign = m.counter("foreign_writes_total", "Writes to the users by other programs that were noticed.")
	m.unreadable = m.counter("unreadable_tokens_total", "Reads of a user that failed because no key decrypts an access token. The log has the user's id.")
	m.panics = m.counter("write_panics_total", "Writes that failed because of a bug in the operation. The log has the stack.")
	m.histories = m.counter("database_histories_total", "Times that another server, or a restored backup, was found to be the database. All partitions are claimed again.")
	m.losses = m.counter("database_lost_commits_total", "Times that the database was found to lack commits that this instance had seen.")
	m.collections = append(m.collections, m.commits, m.writes, m.failures, m.lookups)
	return m
}

// counter adds a counter to the collections.
func (m *metrics) counter(name, help string) prometheus.Counter {
	c := prometheus.NewCounter(prometheus.CounterOpts{Name: metricPrefix + name, Help: help})
	m.collections = append(m.collections, c)
	return c
}

// commit returns the metrics of commits.
func (m *metrics) commit() commit.Metrics {
	return commit.Metrics{
		Transactions: m.commits,
		Writes:       m.writes,
		Misses:       m.misses,
		Failures:     m.failures,
		Failed:       m.failed,
		Panics:       m.panics,
	}
}

var (
	connectionsDesc = describe("database_connections", "Connections of the pool, by state: in use, idle or connecting.", "state")
	maxDesc         = describe("database_connections_max", "Maximum number of connections of the pool.")
	waitsDesc       = describe("database_connection_waits_total", "Acquisitions of a connection that had to wait because all were in use.")
	waitedDesc      = describe("database_connection_wait_seconds_total", "Total time spent waiting for a connection.")
	aheadDesc       = describe("log_days_ahead", "Future days that have their table of ident_log: seven, unless tables cannot be created. NaN until they are first counted.")
	overdueDesc     = describe("log_days_overdue", "Days of ident_log that need not be kept any longer and are still there. NaN until they are first counted.")
	idsLeftDesc     = describe("user_ids_left", "Ids for new users that the sequence in the database can still give. NaN until they are first counted.")
	standbyDesc     = describe("database_standby_wait_seconds", "How long commits of this instance have been waiting for a synchronous standby; 0 if none waits for more than a few seconds.")
	roundTripsDesc  = describe("database_round_trips_total", "Round trips to the database.")
)

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(metricPrefix+name, help, labels, nil)
}

// Describe implements [prometheus.Collector].
func (s *Store) Describe(to chan<- *prometheus.Desc) {
	for _, c := range s.metrics.collections {
		c.Describe(to)
	}
	for _, d := range []*prometheus.Desc{connectionsDesc, maxDesc, waitsDesc, waitedDesc, standbyDesc, roundTripsDesc, aheadDesc, overdueDesc, idsLeftDesc} {
		to <- d
	}
}

// Collect implements [prometheus.Collector].
func (s *Store) Collect(to chan<- prometheus.Metric) {
	for _, c := range s.metrics.collections {
		c.Collect(to)
	}
	send := func(d *prometheus.Desc, kind prometheus.ValueType, value float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, kind, value, labels...)
	}
	pool := s.pool.Stat()
	send(connectionsDesc, prometheus.GaugeValue, float64(pool.AcquiredConns()), "in_use")
	send(connectionsDesc, prometheus.GaugeValue, float64(pool.IdleConns()), "idle")
	send(connectionsDesc, prometheus.GaugeValue, float64(pool.ConstructingConns()), "connecting")
	send(maxDesc, prometheus.GaugeValue, float64(pool.MaxConns()))
	send(waitsDesc, prometheus.CounterValue, float64(pool.EmptyAcquireCount()))
	send(waitedDesc, prometheus.CounterValue, pool.EmptyAcquireWaitTime().Seconds())
	left := math.NaN()
	if n := s.userIDs.Left(); n != nil {
		left = float64(*n)
	}
	send(idsLeftDesc, prometheus.GaugeValue, left)
	ahead, overdue := math.NaN(), math.NaN()
	if days := s.changelog.Counts(); days != nil {
		ahead, overdue = float64(days.Ahead), float64(days.Overdue)
	}
	send(aheadDesc, prometheus.GaugeValue, ahead)
	send(overdueDesc, prometheus.GaugeValue, overdue)
	send(standbyDesc, prometheus.GaugeValue, s.pool.WaitingForStandby().Seconds())
	send(roundTripsDesc, prometheus.CounterValue, float64(s.RoundTrips()))
}
