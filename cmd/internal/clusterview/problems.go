package clusterview

import "fmt"

// FindProblems returns one sentence for each problem.
func (o *Overview) FindProblems() []string {
	all := []string{}
	add := func(format string, args ...any) { all = append(all, fmt.Sprintf(format, args...)) }
	for _, name := range o.Missing {
		add("%s does not reply, but other instances believe that it is alive.", name)
	}
	if len(o.Unowned) > 0 {
		reason := ""
		if len(o.Missing) > 0 {
			reason = " among the instances that replied"
		}
		add("%d of %d partitions have no owner%s: %s. Requests for their users wait.", len(o.Unowned), len(o.Partitions), reason, ranges(o.Unowned))
	}
	if len(o.Contested) > 0 {
		add("Several instances serve the same partitions, but only one of them can write: %s.", ranges(o.Contested))
	}
	if o.SharedQueue.MessagesReady == nil {
		add("The broker does not have the shared queue %s.", o.SharedQueue.Name)
	}
	var missing []int
	for _, p := range o.Partitions {
		if p.Queue.MessagesReady == nil {
			missing = append(missing, p.Partition)
		}
	}
	if len(missing) > 0 {
		add("The broker does not have the queues of these partitions: %s.", ranges(missing))
	}
	for _, m := range o.Members {
		for _, problem := range m.Problems {
			add("%s: %s.", m.Name, problem)
		}
	}
	return all
}
