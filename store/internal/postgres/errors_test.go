package postgres

import (
	"fmt"
	"io/fs"
	"net"
	"os"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
)

func TestClassify(t *testing.T) {
	t.Run("full_disk_is_not_unreachable", func(t *testing.T) {
		for err, want := range map[error]Class{
			&fs.PathError{Op: "write", Path: "users", Err: syscall.ENOSPC}: Failed,
			syscall.EFBIG: Failed,
			&net.OpError{Op: "read", Net: "tcp", Err: os.NewSyscallError("read", syscall.ECONNRESET)}: Unknown,
			&net.OpError{Op: "dial", Net: "unix", Err: syscall.ECONNREFUSED}:                          Unknown,
			os.ErrDeadlineExceeded: Unknown,
		} {
			if got := Classify(fmt.Errorf("doing: %w", err)); got != want {
				t.Errorf("%v: %v, want %v", err, got, want)
			}
		}
	})
	t.Run("only_outdated_plans_are_retried", func(t *testing.T) {
		for err, want := range map[pgconn.PgError]Class{
			{Code: "0A000", Routine: "RevalidateCachedQuery"}: Contended,
			{Code: "0A000", Routine: "ATExecAlterColumnType"}: Failed,
			{Code: "0A000"}: Failed,
			{Code: "26000", Routine: "FetchPreparedStatement"}: Contended,
			{Code: "42601", Routine: "RevalidateCachedQuery"}:  Failed,
		} {
			if got := Classify(fmt.Errorf("doing: %w", &err)); got != want {
				t.Errorf("%+v: %v, want %v", err, got, want)
			}
		}
	})
}
