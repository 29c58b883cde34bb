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
	r.printCPU(&b)
	r.printDatabase(&b)
	r.printTargets(&b)
	_, err := w.Write(b.Bytes())
	return err
}

func (s setup) text() string {
	text := "A running cluster"
	if s.Local > 0 {
		text = fmt.Sprintf("Instances: %d", s.Local)
		for _, n := range s.MoreLocal {
			text += fmt.Sprintf(" and %d in turn", n)
		}
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
	fmt.Fprintln(w, "Ratios are the service's value divided by the baseline's, over all pairs of turns. A batch is a message from one instance to another:")
	t := cli.NewTable(w, "CASE", "IN FLIGHT", "PER SECOND", "P50 MS", "P99 MS", "P99.9 MS", "RATE RATIO (MIN-MAX)", "P50 RATIO (MIN-MAX)", "REQUESTS/BATCH")
	for _, c := range r.Cells {
		for i, s := range c.Sides {
			t.Row(r.label(c, i), strconv.Itoa(c.InFlight), fmt.Sprintf("%.0f", s.PerSecond), digits(s.P50), digits(s.P99), digits(s.P999),
				s.Rate.text(), s.Latency.text(), knownDigits(s.Relayed))
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

// printCPU prints the CPU time of requests, if it is known.
func (r *report) printCPU(w io.Writer) {
	t := cli.NewTable(w, "CASE", "IN FLIGHT", "SERVICE", "BROKER", "DATABASE", "TOTAL RATIO (MIN-MAX)", "BROKER RATIO (MIN-MAX)", "DATABASE RATIO (MIN-MAX)")
	known := false
	for _, c := range r.Cells {
		for i, s := range c.Sides {
			if s.CPU != nil {
				known = true
				t.Row(r.label(c, i), strconv.Itoa(c.InFlight), digits(s.CPU.Server), digits(s.CPU.Broker), digits(s.CPU.Database),
					s.TotalCPU.text(), s.BrokerCPU.text(), s.DatabaseCPU.text())
			}
		}
	}
	if known {
		fmt.Fprintln(w, "CPU seconds per 1,000 requests, which is milliseconds per request:")
		t.Flush()
		fmt.Fprintln(w)
	}
}

// printDatabase prints what the database does, if it is known.
func (r *report) printDatabase(w io.Writer) {
	t := cli.NewTable(w, "CASE", "IN FLIGHT", "COMMITS/S", "WRITES/COMMIT", "STATEMENTS/COMMIT", "TRANSACTIONS", "ROUND TRIPS", "ROWS", "WAL BYTES")
	known := false
	for _, c := range r.Cells {
		for i, s := range c.Sides {
			if d := s.Database; d != nil {
				known = true
				t.Row(r.label(c, i), strconv.Itoa(c.InFlight), fmt.Sprintf("%.0f", d.CommitsPerSecond), knownDigits(d.WritesPerCommit), knownDigits(d.StatementsPerCommit),
					pointerDigits(d.Transactions), pointerDigits(d.RoundTrips), digits(d.Rows), fmt.Sprintf("%.0f", d.WAL))
			}
		}
	}
	if known {
		fmt.Fprintln(w, "What the database does, the last four for each request. Only transactions that write count as commits:")
		t.Flush()
		fmt.Fprintln(w)
	}
}

// label returns the text of a side in the first column of a table.
func (r *report) label(c cell, side int) string {
	switch {
	case side > 0:
		return "  " + c.Sides[side].Name
	case len(r.Cluster.MoreLocal) > 0:
		return c.Case + ", " + instancesSide(c.Instances)
	default:
		return c.Case
	}
}

func (r *report) printTargets(w io.Writer) {
	t := cli.NewTable(w, "TARGET OF", "IN FLIGHT", "TARGET", "LIMIT", "MEASURED", "OF THE LIMIT (MIN-MAX)", "")
	any := false
	for _, c := range r.Cells {
		for _, o := range c.Targets {
			any = true
			verdict := "MISSED"
			if o.Met {
				verdict = "met"
			}
			t.Row(r.label(c, 0), strconv.Itoa(c.InFlight), o.Target, digits(o.Limit)+o.Unit, digits(o.Measured)+o.Unit, o.Share.text(), verdict)
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

// knownDigits is digits for a number that is 0 if it is unknown.
func knownDigits(x float64) string {
	if x == 0 {
		return "-"
	}
	return digits(x)
}

func pointerDigits(x *float64) string {
	if x == nil {
		return "-"
	}
	return digits(*x)
}
