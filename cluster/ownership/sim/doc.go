// Package sim simulates whole clusters of ownership cores: many instances, a broker, an
// epoch table and a network, in one goroutine and with a clock of its own. It consists
// of tests alone.
//
// TestHistories runs random histories full of faults and checks the promises of package
// ownership; TestScripts replays the scripts of testdata; the other tests count how many
// partitions move and measure for how long no instance serves one. A history depends on its
// seed alone, so a failure can be repeated and traced.
package sim
