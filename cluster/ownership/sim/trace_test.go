package sim

import (
	"fmt"
	"strings"

	"github.com/glotpod/ident/cluster/ownership"
	"github.com/glotpod/ident/cluster/partition"
)

// traceStep prints the commands of a step in one line, unless they are only heartbeats
// and checks. Commands of one type are printed together.
func (i *instance) traceStep(commands []ownership.Command) {
	var parts []string
	var last string
	for _, command := range commands {
		verb, object := describe(command)
		switch {
		case verb == "":
			continue
		case verb == last:
			parts[len(parts)-1] += " " + object
		default:
			parts = append(parts, verb+" "+object)
		}
		last = verb
	}
	if len(parts) > 0 {
		i.w.trace("%8.3fs %s: %s", i.w.elapsed().Seconds(), i.core.Status().Self, strings.Join(parts, ", "))
	}
}

// describe returns the text of a command, or "" for a command that is given all the
// time. Partition 3 with epoch 7 is printed as 3@7.
func describe(command ownership.Command) (verb, object string) {
	switch c := command.(type) {
	case ownership.Broadcast:
		if text := describeNews(c.Message); text != "" {
			return "broadcast", text
		}
		return "", ""
	case ownership.Send:
		return "send", "to " + c.To.String() + " " + describeNews(c.Message)
	case ownership.Probe, ownership.Survey:
		return "", ""
	case ownership.Claim:
		if c.Depose != 0 {
			return "depose", fmt.Sprintf("%d@%d", c.Partition, c.Depose)
		}
		return "claim", fmt.Sprint(c.Partition)
	case ownership.Consume:
		return "consume", fmt.Sprintf("%d@%d", c.Partition, c.Epoch)
	case ownership.HandOver:
		if c.To != (ownership.Member{}) {
			return "hand over", fmt.Sprintf("%d@%d to %s", c.Partition, c.Epoch, c.To.Name)
		}
		return "hand over", fmt.Sprintf("%d@%d", c.Partition, c.Epoch)
	case ownership.Abandon:
		return "abandon", fmt.Sprintf("%d@%d", c.Partition, c.Epoch)
	case ownership.Release:
		return "release", fmt.Sprintf("%d@%d", c.Partition, c.Epoch)
	case ownership.ReportRefusal:
		return "refuse", fmt.Sprintf("%v (%s)", c.Member, c.Reason)
	case ownership.ReportSuspicion:
		if c.Wrong {
			return "hear again", c.Member.String()
		}
		return "suspect", c.Member.String()
	case ownership.Reconnect:
		return "reconnect", "(" + c.Reason + ")"
	case ownership.ReportState:
		return "become", c.State.String()
	case ownership.Stop:
		return "stop", fmt.Sprintf("%v (%s)", c.Reason, c.Detail)
	default:
		return "do", fmt.Sprintf("%#v", c)
	}
}

// describeNews returns the news in a message, "" if there are none.
func describeNews(msg ownership.Message) string {
	var parts []string
	leases := func(what string, leases []partition.Lease) {
		for n, l := range leases {
			if n == 0 {
				parts = append(parts, what)
			}
			parts = append(parts, fmt.Sprintf("%d@%d", l.Partition, l.Epoch))
		}
	}
	leases("wants", msg.Wants)
	leases("granted", msg.Granted)
	leases("released", msg.Released)
	leases("taken", msg.Taken)
	for _, m := range msg.Gone {
		parts = append(parts, m.String()+" is gone")
	}
	return strings.Join(parts, " ")
}
