package handover

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"
	"time"
)

// report gives the benchmark its figures: partitions per round, times in
// milliseconds, and requests in all rounds.
func (s *handOverSummary) report(b *testing.B) {
	each := func(n int) float64 { return float64(n) / float64(s.rounds) }
	b.ReportMetric(each(s.moved), "moved")
	b.ReportMetric(each(s.ideal), "ideally-moved")
	b.ReportMetric(milliseconds(percentile(s.pauses, 50)), "pause-p50-ms")
	b.ReportMetric(milliseconds(percentile(s.pauses, 99)), "pause-p99-ms")
	b.ReportMetric(milliseconds(percentile(s.pauses, 100)), "pause-max-ms")
	b.ReportMetric(float64(s.failures()), "failed")
	b.ReportMetric(float64(s.elsewhereSlow), "slow-elsewhere")
	b.ReportMetric(milliseconds(s.slowest), "slowest-elsewhere-ms")
	b.ReportMetric(0, "ns/op")
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// table shows all figures beside their targets.
func (s *handOverSummary) table(h *handOver) string {
	var text strings.Builder
	w := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	row := func(what, is, target string, ok bool) {
		if !ok {
			target += "  MISSED"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\n", what, is, target)
	}
	plain := func(what, is string) { row(what, is, "", true) }
	ms := func(d time.Duration) string { return fmt.Sprintf("%.1f ms", milliseconds(d)) }
	count := func(n int) string { return fmt.Sprint(n) }

	fmt.Fprintf(w, "%s, %d rounds: each partition is asked every %v\n", h.name, s.rounds, handOverInterval)
	plain("usual latency, p50 and p99", ms(percentile(s.usual, 50))+", "+ms(percentile(s.usual, 99)))
	plain("  slower than "+ms(s.threshold), fmt.Sprintf("%d of %d", s.usualSlow, len(s.usual)))
	plain("  the load was late by", ms(s.late))
	if percentile(s.usual, 99) > handOverInterval {
		plain("  the machine is busy", "what follows tells of it more than of the service")
	}
	row("partitions moved", count(s.moved), "ideally "+count(s.ideal), true)
	row("  between owners that stay", count(s.excess), "0", s.excess == 0)
	row("  not moved, but claimed anew", count(s.claimed), "0", s.claimed == 0)
	percents := []int{50, 99, 100}
	if s.moved == 0 {
		percents = nil
	}
	for _, p := range percents {
		pause, target, ok := percentile(s.pauses, p), "", true
		if p == h.percent && h.pause > 0 {
			target, ok = "< "+ms(h.pause), pause < h.pause
		}
		row(fmt.Sprintf("pause of those moved, p%d", p), ms(pause), target, ok)
	}
	plain("  of the others, p50 and p99", ms(percentile(s.lulls, 50))+", "+ms(percentile(s.lulls, 99)))
	row("requests failed", fmt.Sprintf("%d of %d", s.failures(), s.requests), "0", s.failures() == 0)
	for _, code := range slices.Sorted(maps.Keys(s.failed)) {
		plain("  "+code, count(s.failed[code]))
	}
	plain("  not answered", count(s.unanswered))
	row("slow in other partitions", fmt.Sprintf("%d of %d", s.elsewhereSlow, s.elsewhere), "0", s.elsewhereSlow == 0)
	plain("  slowest", ms(s.slowest))
	w.Flush()
	return text.String()
}
