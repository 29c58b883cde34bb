package clusterview

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/glotpod/ident/cmd/internal/cli"
)

// Print prints the overview for people. now is the time that uptimes refer to.
func (o *Overview) Print(w io.Writer, now time.Time) error {
	var b bytes.Buffer
	o.printMembers(&b, now)
	fmt.Fprintf(&b, "\nShared queue %s: %s\n\n", o.SharedQueue.Name, o.SharedQueue.text("no such queue", " ready"))
	o.printPartitions(&b)
	fmt.Fprintln(&b)
	o.printShares(&b)
	o.printVerdict(&b)
	_, err := w.Write(b.Bytes())
	return err
}

func (o *Overview) printMembers(w io.Writer, now time.Time) {
	table := cli.NewTable(w, "INSTANCE", "INCARNATION", "STATE", "VERSION", "UP", "PARTITIONS", "REQUESTS/S", "SHARED/S", "CACHED USERS")
	for _, m := range o.Members {
		rate := 0.0
		for _, p := range m.Partitions {
			rate += p.RequestsPerSecond
		}
		up := "-"
		if !m.StartedAt.IsZero() {
			up = max(0, now.Sub(m.StartedAt)).Truncate(time.Second).String()
		}
		table.Row(m.Name, fmt.Sprintf("%d.%d", m.Start, m.Session), m.State, m.Version, up, strconv.Itoa(len(m.Partitions)),
			rateText(rate), rateText(m.SharedRequestsPerSecond), strconv.Itoa(m.CachedUsers))
	}
	for _, name := range o.Missing {
		table.Row(name, "-", "no reply", "-", "-", "-", "-", "-", "-")
	}
	table.Flush()
}

// printPartitions prints the partitions, those without an owner first.
func (o *Overview) printPartitions(w io.Writer) {
	table := cli.NewTable(w, "PARTITION", "OWNER", "EPOCH", "STATE", "READY", "REQUESTS/S")
	views := slices.Clone(o.Partitions)
	slices.SortStableFunc(views, func(a, b partitionView) int {
		switch {
		case a.Owner == "" && b.Owner != "":
			return -1
		case a.Owner != "" && b.Owner == "":
			return 1
		}
		return 0
	})
	for _, v := range views {
		owner, epoch, phase := v.Owner, strconv.FormatInt(v.Epoch, 10), v.Phase
		if owner == "" {
			owner, epoch, phase = "none", "-", "-"
		}
		table.Row(strconv.Itoa(v.Partition), owner, epoch, phase, v.Queue.text("no queue", ""), rateText(v.RequestsPerSecond))
	}
	table.Flush()
}

// printShares prints the weights, if they are not all the same, and the moves, if there are any.
func (o *Overview) printShares(w io.Writer) {
	var weights, moved []string
	differ := false
	for _, m := range o.Members {
		if m.Weight != 0 {
			weights = append(weights, fmt.Sprintf("%s %v", m.Name, m.Weight))
			differ = differ || m.Weight != o.Members[0].Weight
		}
		if len(m.Moved) > 0 {
			moved = append(moved, fmt.Sprintf("%s to %s", ranges(m.Moved), m.Name))
		}
	}
	if differ {
		fmt.Fprintf(w, "Weights: %s\n", strings.Join(weights, ", "))
	}
	if len(moved) > 0 {
		fmt.Fprintf(w, "Moved by operators: %s\n", strings.Join(moved, "; "))
	}
}

// printVerdict prints the problems, or that there are none.
func (o *Overview) printVerdict(w io.Writer) {
	if len(o.Missing) > 0 {
		fmt.Fprintf(w, "No reply in time from %s. Partitions without an owner may belong there.\n", strings.Join(o.Missing, ", "))
	}
	if len(o.Unowned) > 0 {
		fmt.Fprintf(w, "%d of %d partitions have no owner: %s\n", len(o.Unowned), len(o.Partitions), ranges(o.Unowned))
	}
	if len(o.Contested) > 0 {
		fmt.Fprintf(w, "Several instances serve %d of %d partitions. Only the one with the greatest epoch can write:\n", len(o.Contested), len(o.Partitions))
		for _, p := range o.Contested {
			v := o.Partitions[p]
			fmt.Fprintf(w, "  %d: %s under epoch %d", p, v.Owner, v.Epoch)
			for _, c := range v.OutdatedClaims {
				fmt.Fprintf(w, ", not %s under epoch %d", c.Member, c.Epoch)
			}
			fmt.Fprintln(w)
		}
	}
	if o.healthy() {
		fmt.Fprintf(w, "Each of %d partitions has one owner.\n", len(o.Partitions))
	}
}

func (q queueLength) text(missing, unit string) string {
	if q.MessagesReady == nil {
		return missing
	}
	return strconv.Itoa(*q.MessagesReady) + unit
}

func rateText(perSecond float64) string { return strconv.FormatFloat(perSecond, 'f', 1, 64) }

// ranges formats ascending numbers as in "0-3, 7".
func ranges(numbers []int) string {
	var parts []string
	for i := 0; i < len(numbers); {
		first, last := numbers[i], numbers[i]
		for i++; i < len(numbers) && numbers[i] == last+1; i++ {
			last = numbers[i]
		}
		part := strconv.Itoa(first)
		if last > first {
			part += "-" + strconv.Itoa(last)
		}
		parts = append(parts, part)
	}
	return strings.Join(parts, ", ")
}
