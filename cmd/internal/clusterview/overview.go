// Package clusterview makes one view of the whole cluster: it asks the instances and
// the broker, finds what is wrong, and prints the result.
package clusterview

import (
	"cmp"
	"slices"

	"github.com/glotpod/ident/cluster"
	"github.com/glotpod/ident/cluster/membership"
)

// overviewFormat is raised when a key of an overview changes its meaning or
// goes away, and not when one is added.
const overviewFormat = 1

// An Overview is what status prints: in JSON as it is.
type Overview struct {
	Format      int                 `json:"format"`
	Members     []membership.Report `json:"members"` // by name
	Missing     []string            `json:"missing"` // names of those who are there and have not answered
	SharedQueue queueDepth          `json:"shared_queue"`
	Partitions  []partitionView     `json:"partitions"` // by number
	Unowned     []int               `json:"unowned"`    // numbers of partitions that nobody has
	Contested   []int               `json:"contested"`  // numbers of partitions that several believe to have
}

type queueDepth struct {
	Name          string `json:"name"`
	MessagesReady *int   `json:"messages_ready"` // nil: there is no such queue
}

// A partitionView is what all members together say of a partition. Of several
// who claim it, the one with the greatest epoch counts: the database refuses the
// others' writes.
type partitionView struct {
	Partition         int        `json:"partition"`
	Owner             string     `json:"owner"` // "": nobody
	Epoch             int64      `json:"epoch"`
	Phase             string     `json:"phase"`
	RequestsPerSecond float64    `json:"requests_per_second"`
	OutdatedClaims    []claim    `json:"outdated_claims"`
	Queue             queueDepth `json:"queue"`
}

type claim struct {
	Member string `json:"member"`
	Epoch  int64  `json:"epoch"`
}

// newOverview makes of reports all but what the broker knows.
func newOverview(reports []membership.Report) *Overview {
	o := &Overview{
		Format:      overviewFormat,
		Members:     reports,
		Missing:     []string{},
		SharedQueue: queueDepth{Name: cluster.RequestQueue},
		Unowned:     []int{},
		Contested:   []int{},
	}
	partitions := 0
	for _, r := range reports {
		partitions = max(partitions, r.Parameters.Partitions)
	}
	o.Partitions = make([]partitionView, partitions)
	for p := range o.Partitions {
		o.Partitions[p] = partitionView{Partition: p, OutdatedClaims: []claim{}, Queue: queueDepth{Name: cluster.PartitionQueue(p)}}
	}
	for _, r := range reports {
		for _, held := range r.Partitions {
			o.Partitions[held.Partition].add(r.Name, held)
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

// add notes that a member holds the partition.
func (v *partitionView) add(member string, held membership.ServedPartition) {
	outdated := claim{member, held.Epoch}
	if v.Owner == "" || held.Epoch > v.Epoch {
		outdated = claim{v.Owner, v.Epoch}
		v.Owner, v.Epoch, v.Phase, v.RequestsPerSecond = member, held.Epoch, held.Phase, held.RequestsPerSecond
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
