package systemtest

import (
	"os"
	"testing"

	"github.com/glotpod/ident/cmd/internal/cli"
	"github.com/glotpod/ident/deploy/testservers"
)

// The tests of this folder hold the program to the wire contract. They speak
// AMQP and SQL to a running process of it, as its callers and neighbours do, and
// call none of its functions.
//
// That process is this test binary, which plays the program where the variable
// is set. So the program has the race detector where its tests have it, and
// nothing has to be built, or cleaned away, for them.
func TestMain(m *testing.M) {
	if os.Getenv("GLOTPOD_IDENT_TEST_PROGRAM") != "" {
		cli.Main("test") // exits
	}
	testservers.Main(m)
}
