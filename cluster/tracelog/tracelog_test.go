package tracelog

import (
	"maps"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

func TestWith(t *testing.T) {
	const traceID, spanID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
	core, logs := observer.New(zap.WarnLevel)
	log := zap.New(core)
	With(log, "00-"+traceID+"-"+spanID+"-01").Warn("traced")
	With(log, "").Warn("not traced")
	want := map[string]any{"trace_id": traceID, "span_id": spanID}
	if all := logs.All(); !maps.Equal(all[0].ContextMap(), want) || len(all[1].Context) != 0 {
		t.Errorf("%v", all)
	}
	if n := testing.AllocsPerRun(100, func() { With(log, "") }); n != 0 {
		t.Errorf("without a trace there are %v allocations", n)
	}
}
