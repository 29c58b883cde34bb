package metrics

import (
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
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

// Processors returns how many processors this process may use at the same time: those that Go uses,
// or the limit of its container (cgroup version 2) if that is less.
func Processors() float64 { return min(float64(runtime.GOMAXPROCS(0)), cpuLimit()) }

// cpuLimit returns the limit that the container had at the first call.
var cpuLimit = sync.OnceValue(func() float64 {
	text, err := os.ReadFile("/sys/fs/cgroup/cpu.max")
	if err != nil {
		return float64(runtime.NumCPU())
	}
	return parseCPULimit(string(text))
})

// parseCPULimit returns the limit of a file cpu.max: the time that may be used in a period, or
// "max", and the period.
func parseCPULimit(text string) float64 {
	quota, period, _ := strings.Cut(strings.TrimSpace(text), " ")
	used, err := strconv.ParseFloat(quota, 64)
	of, err2 := strconv.ParseFloat(period, 64)
	if err != nil || err2 != nil || used <= 0 || of <= 0 {
		return float64(runtime.NumCPU())
	}
	return used / of
}
