package telemetry

import (
	"context"
	"errors"
	"testing"

	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/glotpod/ident/cluster/throttle"
)

// A fakeExporter returns a fixed error.
type fakeExporter struct{ err error }

func (e fakeExporter) ExportSpans(context.Context, []sdk.ReadOnlySpan) error { return e.err }
func (e fakeExporter) Shutdown(context.Context) error                        { return nil }

func TestLoggingExporter(t *testing.T) {
	core, logs := observer.New(zap.WarnLevel)
	newExporter := func(err error) *loggingExporter {
		return &loggingExporter{fakeExporter{err}, throttle.New(zap.New(core), zap.WarnLevel, "spans not sent", failureLogInterval)}
	}
	t.Run("success is not logged", func(t *testing.T) {
		if err := newExporter(nil).ExportSpans(t.Context(), make([]sdk.ReadOnlySpan, 3)); err != nil || logs.Len() > 0 {
			t.Errorf("%v, %d log entries", err, logs.Len())
		}
	})
	t.Run("failures are logged once and not returned", func(t *testing.T) {
		e := newExporter(errors.New("refused"))
		for range 5 {
			if err := e.ExportSpans(t.Context(), make([]sdk.ReadOnlySpan, 3)); err != nil {
				t.Error(err)
			}
		}
		if entries := logs.TakeAll(); len(entries) != 1 || entries[0].ContextMap()["events"] != int64(3) {
			t.Errorf("logged %v", entries)
		}
	})
}
