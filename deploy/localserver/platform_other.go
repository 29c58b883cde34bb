//go:build unix && !linux

package localserver

import "syscall"

// characters is the locale by which a new database knows what a letter is, so
// that upper and lower case work beyond ASCII.
const characters = "en_US.UTF-8"

// dieWithParent does nothing: only Linux can tie a child's life to its parent's.
func dieWithParent(*syscall.SysProcAttr, syscall.Signal) {}

type relative struct{}

// descendants finds nothing here: what the servers started ends when it notices
// that its parent is gone, which both servers' children do.
func descendants(int) []relative { return nil }

func bury([]relative) {}
