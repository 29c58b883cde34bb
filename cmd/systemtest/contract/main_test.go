package contract

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

var (
	op     = harness.Op
	opFrom = harness.OpFrom
)

// A served site has one instance and one caller. Subtests share it, one after another,
// if it does not matter to them which other users there are.
type served struct {
	site     *harness.Site
	instance *harness.Instance
	caller   *harness.Caller
}

func serve(t *testing.T) *served {
	t.Helper()
	s := harness.NewSite(t)
	return &served{s, s.Serve(t), s.NewCaller(t)}
}

func (x *served) run(t *testing.T, name string, test func(*testing.T, *served)) {
	t.Helper()
	t.Run(name, func(t *testing.T) { test(t, x) })
}
