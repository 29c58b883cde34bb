package users

import (
	"testing"

	"github.com/glotpod/ident/cmd/systemtest/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }

// The words that make test data readable.
type (
	dict = harness.Dict
	list = harness.List
)

var op = harness.Op
