// Package clusterview makes one view of the whole cluster: it asks the instances and
// the broker, finds problems, and prints the result. A [Watcher] does so for the status
// page, and finds out what has changed since the last view.
package clusterview

import (
	"cmp"
	"slices"

	"github.com/glotpod/ident/cluster"
	"github.com/glotpod/ident/cluster/membership"
)

// overviewFormat is raised when a key of the JSON document is removed or changes its
// meaning, but not when a key is added.
const overviewFormat = 1

// An Overview is the state of the cluster. Its JSON form is the output of
// glotpod-ident status --json.
type Overview struct {
	Format      int                 `json:"format"`
	Members     []membership.Report `json:"members"` // by name
	Missing     []string            `json:"missing"` // names of instances that are alive but did not reply
	SharedQueue queueLength         `json:"shared_queue"`
	Partitions  []partitionView     `json:"partitions"` // by number
	Unowned     []int               `json:"unowned"`    // numbers of partitions that have no owner
	Contested   []int               `json:"contested"`  // numbers of partitions that several instances serve
}

type queueLength struct {
	Name          string `json:"name"`
	MessagesReady *int   `json:"messages_ready"` // nil: the queue does not exist
}

// A partitionView is what all members together report about a partition. If several
// members serve it, its owner is the one with the greatest epoch: the database refuses
// the writes of the others.
type partitionView struct {
	Partition         int         `json:"partition"`
	Owner             string      `json:"owner"` // "": none
	Epoch             int64       `json:"epoch"`
	Phase             string      `json:"phase"`
	RequestsPerSecond float64     `json:"requests_per_second"`
	MovedTo           string      `json:"moved_to,omitempty"` // the instance to which an operator has moved it
	OutdatedClaims    []claim     `json:"outdated_claims"`    // by epoch, the greatest first
	Queue             queueLength `json:"queue"`
}

type claim struct {
	Member string `json:"member"`
	Epoch  int64  `json:"epoch"`
}

// newOverview makes an overview from the reports. It lacks the lengths of the queues.
func newOverview(reports []membership.Report) *Overview {
	o := &Overview{
		Format:      overviewFormat,
		Members:     reports,
		Missing:     []string{},
		SharedQueue: queueLength{Name: cluster.RequestQueue},
		Unowned:     []int{},
		Contested:   []int{},
	}
	first, partitions := 0, 0 // of the latest generation that an instance works with
	for _, r := range reports {
		if r.Parameters.First > first {
			first, partitions = r.Parameters.First, 0
		}
		if r.Parameters.First == first {
			partitions = max(partitions, r.Parameters.Partitions)
		}
	}
	o.Partitions = make([]partitionView, partitions)
	for p := range o.Partitions {
		o.Partitions[p] = partitionView{Partition: p, OutdatedClaims: []claim{}, Queue: queueLength{Name: cluster.PartitionQueue(first + p)}}
	}
	for _, r := range reports {
		if r.Parameters.First != first {
			continue // a repartition is about to end its partitions
		}
		for _, served := range r.Partitions {
			o.Partitions[served.Partition].add(r.Name, served)
		}
		for _, p := range r.Moved {
			o.Partitions[p].MovedTo = r.Name
		}
	}
	for p, view := range o.Partitions {
		if view.Owner == "" {
			o.Unowned = append(o.Unowned, p)
		}
		if len(view.OutdatedClaims) > 0 {
			o.Contested = append(o.Contested, p)
		}
	}
	return o
}

// add adds that a member serves the partition.
func (v *partitionView) add(member string, served membership.ServedPartition) {
	outdated := claim{member, served.Epoch}
	if v.Owner == "" || served.Epoch > v.Epoch {
		outdated = claim{v.Owner, v.Epoch}
		v.Owner, v.Epoch, v.Phase, v.RequestsPerSecond = member, served.Epoch, served.Phase, served.RequestsPerSecond
	}
	if outdated.Member != "" {
		v.OutdatedClaims = append(v.OutdatedClaims, outdated)
		slices.SortFunc(v.OutdatedClaims, func(a, b claim) int { return -cmp.Compare(a.Epoch, b.Epoch) })
	}
}

// healthy says whether each instance has replied and each partition has one owner.
func (o *Overview) healthy() bool {
	return len(o.Missing) == 0 && len(o.Unowned) == 0 && len(o.Contested) == 0
}

// RemoveTraffic removes the members' traffic.
func (o *Overview) RemoveTraffic() {
	for i := range o.Members {
		o.Members[i].Traffic = membership.Traffic{}
	}
}
