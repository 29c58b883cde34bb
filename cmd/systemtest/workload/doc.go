package workload

import (
	"github.com/glotpod/ident/cmd/systemtest/harness"
)

// The words that make test data readable.
type (
	dict = harness.Dict
	list = harness.List
)

var op = harness.Op
