package ownership

import (
	"fmt"
	"strings"
)

// traceCommands prints what an instance does, in a line for each step that has
// it do anything but look around and say that it is there. Commands of one kind
// are put together.
func (i *instance) traceCommands(commands []Command) {
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
		i.w.trace("%8.3fs %s: %s", i.w.elapsed().Seconds(), i.core.self, strings.Join(parts, ", "))
	}
}

// describe returns what a command says, "" for what is done all the time. A
// partition is followed by the epoch that is meant.
func describe(command Command) (verb, object string) {
	switch c := command.(type) {
	case Broadcast:
		if said := news(c.Message); said != "" {
			return "say", said
		}
		return "", ""
	case Send:
		return "tell", c.To.String() + " " + news(c.Message)
	case Probe, Survey:
		return "", ""
	case Claim:
		if c.Depose != 0 {
			return "depose", fmt.Sprintf("%d@%d", c.Partition, c.Depose)
		}
		return "claim", fmt.Sprint(c.Partition)
	case Consume:
		return "consume", fmt.Sprintf("%d@%d", c.Partition, c.Epoch)
	case HandOver:
		if c.To != (Member{}) {
			return "hand over", fmt.Sprintf("%d@%d to %s", c.Partition, c.Epoch, c.To.Name)
		}
		return "hand over", fmt.Sprintf("%d@%d", c.Partition, c.Epoch)
	case Abandon:
		return "abandon", fmt.Sprintf("%d@%d", c.Partition, c.Epoch)
	case Release:
		return "release", fmt.Sprintf("%d@%d", c.Partition, c.Epoch)
	case ReportRefusal:
		return "refuse", fmt.Sprintf("%v (%s)", c.Member, c.Reason)
	case Reconnect:
		return "reconnect", "(" + c.Reason + ")"
	case ReportState:
		return "become", c.State.String()
	case Stop:
		return "stop", fmt.Sprintf("%v (%s)", c.Reason, c.Detail)
	default:
		return "do", fmt.Sprintf("%#v", c)
	}
}

// news returns what a message says beyond that its sender is there.
func news(msg Message) string {
	var parts []string
	leases := func(what string, leases []HeldLease) {
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
