package localserver

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"syscall"
	"time"
)

// characterLocale is the LC_CTYPE of a new database. It makes upper and lower case
// work for letters beyond ASCII.
const characterLocale = "C.UTF-8"

// dieWithParent makes the kernel send sig to the child when the thread that starts the
// child ends. A thread ends at the latest when this program is killed.
func dieWithParent(attr *syscall.SysProcAttr, sig syscall.Signal) {
	attr.Pdeathsig = sig
}

// A descendant is a child of a process, or a child's descendant. The start time
// distinguishes it from a later process with the same id.
type descendant struct {
	pid     int
	started uint64 // in clock ticks since the machine's boot
}

// findDescendants returns the running descendants of a process.
func findDescendants(pid int) []descendant {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	children := make(map[int][]descendant)
	for _, e := range entries {
		id, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if parent, _, started, ok := stat(id); ok {
			children[parent] = append(children[parent], descendant{id, started})
		}
	}
	found := children[pid]
	for i := 0; i < len(found); i++ {
		found = append(found, children[found[i].pid]...)
	}
	return found
}

// killAll kills the descendants that still run, and returns when all are gone. They are
// not children of this program, so it cannot wait for them, but must poll.
func killAll(descendants []descendant) {
	for _, d := range descendants {
		for {
			_, state, started, ok := stat(d.pid)
			if !ok || started != d.started || state == 'Z' {
				break
			}
			syscall.Kill(d.pid, syscall.SIGKILL)
			time.Sleep(time.Millisecond)
		}
	}
}

// stat reads /proc/<pid>/stat. ok is false if there is no such process.
func stat(pid int) (parent int, state byte, started uint64, ok bool) {
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, 0, 0, false
	}
	// The second field is the name in parentheses. It may hold any character.
	i := bytes.LastIndexByte(line, ')')
	if i < 0 {
		return 0, 0, 0, false
	}
	fields := bytes.Fields(line[i+1:])
	const stateField, parentField, startField = 0, 1, 19
	if len(fields) <= startField {
		return 0, 0, 0, false
	}
	parent, err = strconv.Atoi(string(fields[parentField]))
	if err != nil {
		return 0, 0, 0, false
	}
	started, err = strconv.ParseUint(string(fields[startField]), 10, 64)
	return parent, fields[stateField][0], started, err == nil
}
