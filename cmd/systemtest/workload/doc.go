package workload

import (
	"github.com/glotpod/ident/cmd/systemtest/harness"
)

// Short names for what all tests use.
type (
	dict = harness.Dict
	list = harness.List
)

var op = harness.Op
