//go:build unix && !linux

package localserver

import "syscall"

func pids([]descendant) []int { return nil }

// Alive reports whether the process runs.
func Alive(pid int) bool { return syscall.Kill(pid, 0) == nil }
