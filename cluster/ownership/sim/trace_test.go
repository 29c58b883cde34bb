package sim

import (
	"fmt"
	"strings"

	"github.com/glotpod/ident/cluster/ownership"
)

// traceCommands prints what an instance does, in a line for each step that has
// it do anything but look around and say that it is there. Commands of one kind
// are put together.
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

// describe returns what a command says, "" for what is done all the time. A
// partition is followed by the epoch that is meant.
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

// news returns what a message says beyond that its sender is there.
func describeNews(msg ownership.Message) string {
	var parts []string
	leases := func(what string, leases []ownership.HeldLease) {
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
