package cli

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strconv"
)

const benchCompareAbout = `Compares two runs that "bench --save" has written. Rates and latencies differ also
with what else the machines did; their ratios to the echo of the same run hardly
do. Where the ratios of all pairs of one run are beyond those of the other run, the
case has become better or worse.`

func runBenchCompare(_ context.Context, args []string, stdout, stderr io.Writer) int {
	flags := newFlags("bench compare", stderr, "before.json after.json", benchCompareAbout)
	files, status, done := flags.parseMixed(args)
	if done {
		return status
	}
	if len(files) != 2 {
		flags.Usage()
		return exitUsage
	}
	var reports [2]*benchReport
	for i, file := range files {
		var err error
		if reports[i], err = readBenchReport(file); err != nil {
			return fail(stderr, err)
		}
	}
	var b bytes.Buffer
	compareBenchReports(&b, reports[0], reports[1])
	if _, err := stdout.Write(b.Bytes()); err != nil {
		return fail(stderr, err)
	}
	return exitOK
}

// compareBenchReports prints how the cells compare that both runs have.
func compareBenchReports(w io.Writer, before, after *benchReport) {
	for _, r := range []*benchReport{before, after} {
		fmt.Fprintf(w, "%s  %s\n", r.Started.Format("2006-01-02 15:04 UTC"), r.Cluster.text())
	}
	fmt.Fprintln(w)
	t := newTable(w, "CASE", "IN FLIGHT", "PER SECOND", "", "P50 MS", "", "CPU S/1000", "", "RATE : ECHO", "P50 : ECHO", "")
	for _, a := range before.Cells {
		b := after.cell(a.Case, a.InFlight)
		if b == nil {
			continue
		}
		x, y := a.Sides[0], b.Sides[0]
		cpuText, cpuChange := "-", ""
		if x.CPU != nil && y.CPU != nil {
			cpuText, cpuChange = pair(x.CPU.total(), y.CPU.total())
		}
		rate, rateChange := pair(x.PerSecond, y.PerSecond)
		latency, latencyChange := pair(x.P50, y.P50)
		ea, eb := a.side(benchEcho), b.side(benchEcho)
		ratio, latencyRatio, verdict := "-", "-", ""
		if ea != nil && eb != nil {
			ratio, latencyRatio = spreads(ea.Rate, eb.Rate), spreads(ea.Latency, eb.Latency)
			verdict = compareEchoes(ea, eb)
		}
		t.row(a.Case, strconv.Itoa(a.InFlight), rate, rateChange, latency, latencyChange, cpuText, cpuChange, ratio, latencyRatio, verdict)
	}
	t.Flush()
}

func (r *benchReport) cell(name string, inFlight int) *benchCell {
	for i, c := range r.Cells {
		if c.Case == name && c.InFlight == inFlight {
			return &r.Cells[i]
		}
	}
	return nil
}

func (c *benchCost) total() float64 { return c.Server + c.Broker + c.Database }

// pair shows two values, and by how much the second one is more.
func pair(a, b float64) (values, change string) {
	values = digits(a) + " > " + digits(b)
	if a > 0 {
		change = fmt.Sprintf("%+.0f%%", 100*(b/a-1))
	}
	return values, change
}

func spreads(a, b *benchSpread) string {
	if a == nil || b == nil {
		return "-"
	}
	return digits(a.Median) + " > " + digits(b.Median)
}

// compareEchoes says whether the service has become better or worse beside the
// echo, if that is more than noise.
func compareEchoes(a, b *benchSide) string {
	if a.Rate == nil || b.Rate == nil || a.Rate.overlaps(*b.Rate) {
		return "same within noise"
	}
	if b.Rate.Median > a.Rate.Median {
		return "better"
	}
	return "WORSE"
}
