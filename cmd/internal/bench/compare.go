package bench

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/glotpod/ident/cmd/internal/cli"
)

const compareAbout = `Compares two runs that were saved with --save. Rates and latencies depend on what
else the machine does; their ratios to the echo of the same run hardly do. A case
is better or worse if the ranges of these ratios do not overlap.`

func newCompare(env *cli.Env) *cobra.Command {
	return &cobra.Command{
		Use:   "compare <file-before> <file-after>",
		Short: "compare two runs",
		Long:  compareAbout,
		RunE:  func(_ *cobra.Command, files []string) error { return runCompare(env, files) },
	}
}

func runCompare(env *cli.Env, files []string) error {
	var reports [2]*report
	for i, file := range files {
		var err error
		if reports[i], err = readReport(file); err != nil {
			return err
		}
	}
	var b bytes.Buffer
	compareReports(&b, reports[0], reports[1])
	_, err := env.Stdout.Write(b.Bytes())
	return err
}

// compareReports prints a line for each cell that both reports have.
func compareReports(w io.Writer, before, after *report) {
	for _, r := range []*report{before, after} {
		fmt.Fprintf(w, "%s  %s\n", r.Started.Format("2006-01-02 15:04 UTC"), r.Cluster.text())
	}
	fmt.Fprintln(w)
	t := cli.NewTable(w, "CASE", "IN FLIGHT", "PER SECOND", "", "P50 MS", "", "CPU S/1000", "", "RATE : ECHO", "P50 : ECHO", "")
	for _, a := range before.Cells {
		b := after.cellLike(before, a)
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
		ea, eb := a.side(echoSide), b.side(echoSide)
		ratio, latencyRatio, verdict := "-", "-", ""
		if ea != nil && eb != nil {
			ratio, latencyRatio = spreads(ea.Rate, eb.Rate), spreads(ea.Latency, eb.Latency)
			verdict = compareEchoes(ea, eb)
		}
		t.Row(before.label(a, 0), strconv.Itoa(a.InFlight), rate, rateChange, latency, latencyChange, cpuText, cpuChange, ratio, latencyRatio, verdict)
	}
	t.Flush()
}

// cellLike returns the cell that corresponds to one of another report. Numbers of instances may
// differ if each report has only one.
func (r *report) cellLike(other *report, like cell) *cell {
	anyNumber := len(r.Cluster.MoreLocal) == 0 && len(other.Cluster.MoreLocal) == 0
	for i, c := range r.Cells {
		if c.Case == like.Case && c.InFlight == like.InFlight && (anyNumber || r.instances(c) == other.instances(like)) {
			return &r.Cells[i]
		}
	}
	return nil
}

// instances returns the number of instances of a cell. Older reports have it for all cells together.
func (r *report) instances(c cell) int { return cmp.Or(c.Instances, r.Cluster.Local) }

func (c *cpuCost) total() float64 { return c.Server + c.Broker + c.Database }

// pair formats two values, and by how many percent the second is greater.
func pair(a, b float64) (values, change string) {
	values = digits(a) + " > " + digits(b)
	if a > 0 {
		change = fmt.Sprintf("%+.0f%%", 100*(b/a-1))
	}
	return values, change
}

func spreads(a, b *spread) string {
	if a == nil || b == nil {
		return "-"
	}
	return digits(a.Median) + " > " + digits(b.Median)
}

// compareEchoes says whether the ratio to the echo is better or worse beyond noise.
func compareEchoes(a, b *sideResult) string {
	if a.Rate == nil || b.Rate == nil || a.Rate.overlaps(*b.Rate) {
		return "same within noise"
	}
	if b.Rate.Median > a.Rate.Median {
		return "better"
	}
	return "WORSE"
}
