// Package tracelog adds the trace of a request to log lines, so that a log line and the
// spans of a request lead to each other.
package tracelog

import "go.uber.org/zap"

// Places of the ids in a traceparent.
const (
	traceIDAt, traceIDEnd = 3, 35
	spanIDAt, spanIDEnd   = 36, 52
)

// Fields returns the fields trace_id and span_id for a well-formed traceparent, nil for "".
func Fields(traceParent string) []zap.Field {
	if len(traceParent) < spanIDEnd {
		return nil
	}
	return []zap.Field{
		zap.String("trace_id", traceParent[traceIDAt:traceIDEnd]),
		zap.String("span_id", traceParent[spanIDAt:spanIDEnd]),
	}
}

// With returns a log that adds the fields to each line; log itself if there are none.
func With(log *zap.Logger, traceParent string) *zap.Logger { return log.With(Fields(traceParent)...) }
