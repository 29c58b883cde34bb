package cluster

import "github.com/glotpod/ident/cluster/internal/topology"

// RequestQueue is the name of the shared queue.
const RequestQueue = topology.RequestQueue

// PartitionQueue returns the name of a partition's queue.
func PartitionQueue(partition int) string { return topology.PartitionQueue(partition) }

// A SetupError means that the broker is not set up as the service needs it. Only the
// broker's operator can change that.
type SetupError = topology.SetupError
