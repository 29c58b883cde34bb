package metrics

import (
	"syscall"
	"time"
)

// ProcessCPU returns the CPU time that this process has used. It returns 0 if the operating
// system does not tell.
func ProcessCPU() time.Duration {
	var used syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &used) != nil {
		return 0
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}
