package bench

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strconv"
)

// ticksPerSecond is the number of clock ticks per second. Linux reports this many to
// all programs, whatever the kernel uses itself.
const ticksPerSecond = 100

// A cpuTicks is CPU time in ticks by kind of process.
type cpuTicks struct {
	service, echo, plain, broker, database int64
}

func (c cpuTicks) since(before cpuTicks) cpuTicks {
	return cpuTicks{c.service - before.service, c.echo - before.echo, c.plain - before.plain, c.broker - before.broker, c.database - before.database}
}

func (c cpuTicks) plus(other cpuTicks) cpuTicks {
	return cpuTicks{c.service + other.service, c.echo + other.echo, c.plain + other.plain, c.broker + other.broker, c.database + other.database}
}

// A processFamily classifies the descendants of this process. Those that are neither
// instances nor baselines belong to the servers.
type processFamily struct {
	self      int
	instances []int // that are measured
	others    []int // instances that are idle meanwhile
	echo      int
	plain     int // 0: it does not run
}

// cpu reads the CPU time of all descendants. ok is false without /proc.
func (f processFamily) cpu() (sum cpuTicks, ok bool) {
	all := readProcesses()
	return f.classify(all), len(all) > 0
}

// classify adds up the CPU time by kind of process.
func (f processFamily) classify(all map[int]process) (sum cpuTicks) {
	for pid, p := range all {
		child, found := f.childOf(all, pid)
		if !found {
			continue
		}
		switch {
		case slices.Contains(f.instances, child):
			sum.service += p.ticks
		case slices.Contains(f.others, child):
		case child == f.echo:
			sum.echo += p.ticks
		case child == f.plain:
			sum.plain += p.ticks
		case all[child].name == "postgres":
			sum.database += p.ticks
		default:
			sum.broker += p.ticks
		}
	}
	return sum
}

// server returns the CPU time of the process that serves the requests of a side.
func (c cpuTicks) server(side string) int64 {
	switch side {
	case serviceSide:
		return c.service
	case plainSide:
		return c.plain
	default:
		return c.echo
	}
}

// childOf returns the child of this process that is the process pid or an ancestor of
// it.
func (f processFamily) childOf(all map[int]process, pid int) (child int, found bool) {
	for range len(all) {
		switch parent := all[pid].parent; parent {
		case f.self:
			return pid, true
		case 0:
			return 0, false
		default:
			pid = parent
		}
	}
	return 0, false
}

type process struct {
	name   string
	parent int
	ticks  int64 // including those of children that have ended
}

func readProcesses() map[int]process {
	files, _ := filepath.Glob("/proc/[0-9]*/stat") // an error would mean a malformed pattern
	all := make(map[int]process, len(files))
	for _, file := range files {
		line, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended
		}
		pid, p, ok := parseProcess(line)
		if ok {
			all[pid] = p
		}
	}
	return all
}

// parseProcess reads a line of /proc/<pid>/stat.
func parseProcess(line []byte) (pid int, p process, ok bool) {
	// The name is in parentheses and may contain any character.
	begin, end := bytes.IndexByte(line, '('), bytes.LastIndexByte(line, ')')
	if begin < 1 || end < begin {
		return 0, p, false
	}
	pid, err := strconv.Atoi(string(bytes.TrimSpace(line[:begin])))
	fields := bytes.Fields(line[end+1:])
	const parentField, firstTime, times = 1, 11, 4 // utime, stime, cutime, cstime
	if err != nil || len(fields) < firstTime+times {
		return 0, p, false
	}
	p.name = string(line[begin+1 : end])
	if p.parent, err = strconv.Atoi(string(fields[parentField])); err != nil {
		return 0, p, false
	}
	for _, field := range fields[firstTime : firstTime+times] {
		ticks, err := strconv.ParseInt(string(field), 10, 64)
		if err != nil {
			return 0, p, false
		}
		p.ticks += ticks
	}
	return pid, p, true
}
