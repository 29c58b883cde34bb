package operate

import (
	"testing"

	"github.com/glotpod/ident/cmd/systemtest/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }

// Short names for what all tests use.
type (
	dict = harness.Dict
	list = harness.List
)

var op = harness.Op
