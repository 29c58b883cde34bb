// Package metrics has what an instance counts and measures: the metrics for Prometheus,
// the rates of requests, and the traffic of the last minutes.
package metrics
