// Package harness lets tests run the program as its users do: it starts processes
// of the program on a virtual host and a database of the test's own, and speaks
// AMQP, SQL and HTTP to them. Tests that use it call no function of the program.
//
// The program is the test binary itself, which plays it if an environment variable
// is set. So the program has the race detector if its tests have it, and no program
// has to be built first. Each package that uses harness therefore has
//
//	func TestMain(m *testing.M) { harness.Main(m) }
//
// A [Site] is where instances work together, an [Instance] a process that serves, a
// [Caller] a service that sends requests, and a [Subscriber] one that gets
// notifications.
package harness

import (
	"os"
	"testing"

	"github.com/glotpod/ident/deploy/testservers"
)

// Main plays a program if this process was started by [Launch], [LaunchDev] or
// [LaunchBench]. Otherwise it runs
// the tests of a package, as [testservers.Main] does.
func Main(m *testing.M) {
	if os.Getenv(programVariable) != "" {
		playProgram() // exits
	}
	testservers.Main(m)
}

// AsTest runs a part of a benchmark as a test, which is what sites and callers are made for.
func AsTest(b *testing.B, f func(t *testing.T)) {
	b.Helper()
	all := func(string, string) (bool, error) { return true, nil }
	if !testing.RunTests(all, []testing.InternalTest{{Name: b.Name(), F: f}}) {
		b.FailNow()
	}
}
