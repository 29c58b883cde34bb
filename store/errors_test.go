package store_test

import (
	"fmt"
	"io/fs"
	"net"
	"os"
	"syscall"
	"testing"

	"github.com/glotpod/ident/store"
)

func TestAFullDiskIsNoDatabaseOutOfReach(t *testing.T) {
	for err, want := range map[error]bool{
		&fs.PathError{Op: "write", Path: "users", Err: syscall.ENOSPC}: false,
		syscall.EFBIG: false,
		&net.OpError{Op: "read", Net: "tcp", Err: os.NewSyscallError("read", syscall.ECONNRESET)}: true,
		&net.OpError{Op: "dial", Net: "unix", Err: syscall.ECONNREFUSED}:                          true,
		os.ErrDeadlineExceeded: true,
	} {
		if got := store.Unreachable(fmt.Errorf("doing: %w", err)); got != want {
			t.Errorf("%v: %v", err, got)
		}
	}
}
