package store

import (
	"math"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/glotpod/ident/store/internal/postgres"
)

// metricPrefix begins the names of all metrics.
const metricPrefix = "glotpod_ident_"

// The ways by which a group of writes is committed.
const (
	pathKnown = "known" // one round trip, as all that is written to was known
	pathRead  = "read"  // two or three, as it had to be read
)

// metrics are what a store counts and measures since it was opened.
type metrics struct {
	commits     *prometheus.HistogramVec // by path: how long each took, in seconds
	writes      prometheus.Histogram     // in each
	misses      prometheus.Counter
	failures    *prometheus.CounterVec // by class
	failed      prometheus.Counter
	lookups     prometheus.Histogram // look-ups in each round trip
	foreign     prometheus.Counter
	unreadable  prometheus.Counter
	panics      prometheus.Counter
	collections []prometheus.Collector // all of the above
}

func newMetrics() *metrics {
	m := new(metrics)
	m.commits = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:    metricPrefix + "commit_duration_seconds",
		Help:    "Time that a transaction of writes took: in one round trip (known), or in two or three (read).",
		Buckets: prometheus.ExponentialBuckets(0.00025, 2, 16),
	}, []string{"path"})
	m.writes = prometheus.NewHistogram(prometheus.HistogramOpts{
		Name:    metricPrefix + "commit_writes",
		Help:    "Writes that share a transaction.",
		Buckets: prometheus.ExponentialBuckets(1, 2, 8),
	})
	m.misses = m.counter("commit_misses_total", "Transactions in one round trip that found something else than was known, wrote nothing, and were done anew in two.")
	m.failures = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: metricPrefix + "commit_failures_total",
		Help: "Transactions of writes that were not committed: another one stood in the way (contended), an error of the database (failed), or the database was lost (unknown: it may have been committed, which the next try finds out).",
	}, []string{"reason"})
	for _, class := range []postgres.Class{postgres.Contended, postgres.Failed, postgres.Unknown} {
		m.failures.WithLabelValues(class.String())
	}
	m.failed = m.counter("writes_failed_total", "Writes that were given up; the log says why.")
	m.lookups = prometheus.NewHistogram(prometheus.HistogramOpts{
		Name:    metricPrefix + "lookup_batch_users",
		Help:    "Users who are looked for in one round trip.",
		Buckets: prometheus.ExponentialBuckets(1, 2, 7),
	})
	m.foreign = m.counter("foreign_writes_total", "Times that another program was heard to have written to the users.")
	m.unreadable = m.counter("unreadable_tokens_total", "Times that a user could not be read, as no key opens an access token; the log has the user's id.")
	m.panics = m.counter("write_panics_total", "Writes that failed by a bug in what they make of the user; the log has the stack.")
	m.collections = append(m.collections, m.commits, m.writes, m.failures, m.lookups)
	return m
}

// counter makes one of the collections.
func (m *metrics) counter(name, help string) prometheus.Counter {
	c := prometheus.NewCounter(prometheus.CounterOpts{Name: metricPrefix + name, Help: help})
	m.collections = append(m.collections, c)
	return c
}

// committed notes that a transaction of writes was committed.
func (m *metrics) committed(path string, writes int, took time.Duration) {
	m.commits.WithLabelValues(path).Observe(took.Seconds())
	m.writes.Observe(float64(writes))
}

var (
	connectionsDesc = describe("database_connections", "Connections of the pool that are in use, idle or being made.", "state")
	maxDesc         = describe("database_connections_max", "The most connections that the pool may have.")
	waitsDesc       = describe("database_connection_waits_total", "Times that all connections were in use when one was needed.")
	waitedDesc      = describe("database_connection_wait_seconds_total", "How long was waited for one in all.")
	aheadDesc       = describe("audit_days_ahead", "Days that come and have their partition of ident_audit already: seven, unless these cannot be made; NaN until they are first counted.")
	overdueDesc     = describe("audit_days_overdue", "Days of ident_audit that are over for longer than audit.keep and are still there; NaN until they are first counted.")
	tripsDesc       = describe("database_round_trips_total", "Times that the database was asked for something.")
)

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(metricPrefix+name, help, labels, nil)
}

// Describe implements [prometheus.Collector].
func (s *Store) Describe(to chan<- *prometheus.Desc) {
	for _, c := range s.metrics.collections {
		c.Describe(to)
	}
	for _, d := range []*prometheus.Desc{connectionsDesc, maxDesc, waitsDesc, waitedDesc, tripsDesc, aheadDesc, overdueDesc} {
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
	if s.audit != nil {
		ahead, overdue := math.NaN(), math.NaN()
		if days := s.audit.Days(); days != nil {
			ahead, overdue = float64(days.Ahead), float64(days.Overdue)
		}
		send(aheadDesc, prometheus.GaugeValue, ahead)
		send(overdueDesc, prometheus.GaugeValue, overdue)
	}
	send(tripsDesc, prometheus.CounterValue, float64(s.RoundTrips()))
}
