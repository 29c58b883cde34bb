package localserver

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"syscall"
	"time"
)

// characterLocale is the locale by which a new database knows what a letter is, so
// that upper and lower case work beyond ASCII.
const characterLocale = "C.UTF-8"

// dieWithParent makes the kernel send the child a signal when the thread that
// starts it ends, as it does when this program is killed.
func dieWithParent(attr *syscall.SysProcAttr, sig syscall.Signal) {
	attr.Pdeathsig = sig
}

// A descendant is a process that another one started, directly or not. The start
// time tells it from a later process with the same id.
type descendant struct {
	pid     int
	started uint64 // in clock ticks since the machine's boot
}

// findDescendants lists what the process has started and what is still running.
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
	family := children[pid]
	for i := 0; i < len(family); i++ {
		family = append(family, children[family[i].pid]...)
	}
	return family
}

// killAll kills those of the family that are still there, and waits until none is.
// They have lost their parent, so they have to be looked for.
func killAll(family []descendant) {
	for _, r := range family {
		for {
			_, state, started, ok := stat(r.pid)
			if !ok || started != r.started || state == 'Z' {
				break
			}
			syscall.Kill(r.pid, syscall.SIGKILL)
			time.Sleep(time.Millisecond)
		}
	}
}

// stat reads what /proc says of a process; ok is false when there is none.
func stat(pid int) (parent int, state byte, started uint64, ok bool) {
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, 0, 0, false
	}
	// The second field, the name, is in parentheses and may hold anything.
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
