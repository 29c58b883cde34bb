package bench

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"strconv"

	"github.com/glotpod/ident/cmd/internal/cli"
)

// print prints the report for people.
func (r *report) print(w io.Writer) error {
	var b bytes.Buffer
	fmt.Fprintln(&b, r.Cluster.text())
	fmt.Fprintf(&b, "%s on %s, %d CPUs; load average %s at the beginning, %s at the end.\n\n",
		r.Version, r.Machine.System, r.Machine.CPUs, cmp.Or(r.Machine.LoadAverage, "unknown"), cmp.Or(r.Machine.LoadAtEnd, "unknown"))
	r.printSpeed(&b)
	r.printCost(&b)
	r.printTargets(&b)
	_, err := w.Write(b.Bytes())
	return err
}

func (s setup) text() string {
	text := "A running cluster"
	if s.Local > 0 {
		text = fmt.Sprintf("Instances: %d", s.Local)
	}
	text += fmt.Sprintf(", %d partitions in %s queues, RabbitMQ %s", s.Partitions, s.QueueType, s.RabbitMQ)
	switch {
	case s.PostgreSQL == "":
		return text + ", and an unreachable database."
	case s.Durable:
		return text + ", PostgreSQL " + s.PostgreSQL + "."
	}
	return text + ", PostgreSQL " + s.PostgreSQL + ", whose commits do not wait for the disk."
}

// printSpeed prints the rate and the latency of each case and its baselines.
func (r *report) printSpeed(w io.Writer) {
	fmt.Fprintln(w, "Ratios are the service's value divided by the baseline's, over all pairs of turns:")
	t := cli.NewTable(w, "CASE", "IN FLIGHT", "PER SECOND", "P50 MS", "P99 MS", "P99.9 MS", "RATE RATIO (MIN-MAX)", "P50 RATIO (MIN-MAX)")
	for _, c := range r.Cells {
		for i, s := range c.Sides {
			name := c.Case
			if i > 0 {
				name = "  " + s.Name
			}
			t.Row(name, strconv.Itoa(c.InFlight), fmt.Sprintf("%.0f", s.PerSecond), digits(s.P50), digits(s.P99), digits(s.P999),
				s.Rate.text(), s.Latency.text())
		}
	}
	t.Flush()
	fmt.Fprintln(w)
}

func (s *spread) text() string {
	if s == nil {
		return ""
	}
	return fmt.Sprintf("%s (%s-%s)", digits(s.Median), digits(s.Min), digits(s.Max))
}

// printCost prints the cost of requests, if it is known.
func (r *report) printCost(w io.Writer) {
	known := false
	for _, c := range r.Cells {
		known = known || c.Database != nil || c.Sides[0].CPU != nil
	}
	if !known {
		return
	}
	fmt.Fprintln(w, "CPU seconds per 1,000 requests, and what the database does for each request:")
	t := cli.NewTable(w, "CASE", "IN FLIGHT", "SERVICE", "BROKER", "DATABASE", "ROUND TRIPS", "TRANSACTIONS", "WRITE COMMITS", "ROWS", "WAL BYTES", "WRITE COMMITS/S")
	for _, c := range r.Cells {
		for i, s := range c.Sides {
			if s.Name == rowLockSide || s.Name == commitSide {
				continue
			}
			cells := []string{c.Case, strconv.Itoa(c.InFlight), "-", "-", "-", "", "", "", "", "", ""}
			if i > 0 {
				cells[0] = "  " + s.Name
			}
			if s.CPU != nil {
				cells[2], cells[3], cells[4] = digits(s.CPU.Server), digits(s.CPU.Broker), digits(s.CPU.Database)
			}
			if d := c.Database; i == 0 && d != nil {
				if d.RoundTrips != nil {
					cells[5] = digits(*d.RoundTrips)
				}
				cells[6], cells[7], cells[8] = digits(d.Transactions), digits(d.Commits), digits(d.Rows)
				cells[9], cells[10] = fmt.Sprintf("%.0f", d.WAL), fmt.Sprintf("%.0f", d.CommitsPerSecond)
			}
			t.Row(cells...)
		}
	}
	t.Flush()
	fmt.Fprintln(w)
}

func (r *report) printTargets(w io.Writer) {
	t := cli.NewTable(w, "TARGET OF", "IN FLIGHT", "TARGET", "LIMIT", "MEASURED", "OF THE LIMIT (MIN-MAX)", "")
	any := false
	for _, c := range r.Cells {
		for _, o := range c.Targets {
			any = true
			verdict, unit := "MISSED", " ms"
			if o.Met {
				verdict = "met"
			}
			if o.Rate {
				unit = "/s"
			}
			t.Row(c.Case, strconv.Itoa(c.InFlight), o.Target, digits(o.Limit)+unit, digits(o.Measured)+unit, o.Share.text(), verdict)
		}
	}
	if any {
		t.Flush()
	}
}

// digits formats a number that is not negative with three digits, or with all digits
// before the decimal point.
func digits(x float64) string {
	decimals := 3
	for limit := 1.0; x >= limit && decimals > 0; limit *= 10 {
		decimals--
	}
	return strconv.FormatFloat(x, 'f', decimals, 64)
}
