//go:build unix && !linux

package localserver

import "syscall"

// characterLocale is the LC_CTYPE of a new database. It makes upper and lower case
// work for letters beyond ASCII.
const characterLocale = "en_US.UTF-8"

// dieWithParent does nothing: only Linux can signal a child when its parent dies.
func dieWithParent(*syscall.SysProcAttr, syscall.Signal) {}

type descendant struct{}

// findDescendants finds nothing. The children of both servers end by themselves
// when their parent is gone.
func findDescendants(int) []descendant { return nil }

func killAll([]descendant) {}
