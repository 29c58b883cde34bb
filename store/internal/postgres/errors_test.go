package postgres

import (
	"context"
	"errors"
	"fmt"
	"io"
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
	t.Run("nothing_sent_is_not_unknown", func(t *testing.T) {
		for _, err := range []error{&unsentError{context.DeadlineExceeded}, &unsentError{&fs.PathError{Err: syscall.ENOENT}}, &pgconn.ConnectError{}} {
			if got := Classify(fmt.Errorf("doing: %w", err)); got != Unsent || !IsUnreachable(err) {
				t.Errorf("%v: %v", err, got)
			}
		}
	})
	t.Run("lost_is_unknown", func(t *testing.T) {
		for _, err := range []error{
			&lostError{errors.New("not a message")}, context.DeadlineExceeded, context.Canceled, io.ErrUnexpectedEOF,
			pgconn.ErrConnClosed, net.ErrClosed, ErrNotReplicated,
		} {
			if got := Classify(fmt.Errorf("doing: %w", err)); got != Unknown || !IsUnreachable(err) {
				t.Errorf("%v: %v", err, got)
			}
		}
	})
	t.Run("codes", testCodes)
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

// testCodes: an error that leaves the session open says that its transaction was not
// committed, with the exceptions that the table names. One that ends the session does not.
func testCodes(t *testing.T) {
	special := map[string]Class{
		"23505": Contended, "23503": Contended, "40001": Contended, "40P01": Contended, "55P03": Contended, "26000": Contended,
		"25006": Unknown, "25P03": Unknown, "40003": Unknown, "53300": Unknown, "57014": Failed,
	}
	codes := []string{"", "0", "42P01", "22001", "23502", "25P02", "40000", "53100", "53200", "54000", "55000", "58030", "P0001", "XX000"}
	for code := range special {
		codes = append(codes, code)
	}
	for _, class := range []string{"08", "57"} {
		for _, rest := range []string{"000", "003", "006", "P01", "P02", "P05"} {
			special[class+rest] = Unknown
			codes = append(codes, class+rest)
		}
	}
	for _, code := range codes {
		for _, x := range []struct {
			pg   pgconn.PgError
			want Class
		}{
			{pgconn.PgError{Severity: "ERROR"}, special[code]}, // Failed if it is not special
			{pgconn.PgError{Severity: "FEHLER", SeverityUnlocalized: "ERROR"}, special[code]},
			{pgconn.PgError{Severity: "FATAL"}, Unknown}, // as some poolers send it
			{pgconn.PgError{Severity: "FATAL", SeverityUnlocalized: "FATAL"}, Unknown},
			{pgconn.PgError{Severity: "PANIK", SeverityUnlocalized: "PANIC"}, Unknown},
		} {
			x.pg.Code = code
			if got := Classify(fmt.Errorf("doing: %w", &x.pg)); got != x.want {
				t.Errorf("%s %q: %v, want %v", x.pg.Severity, code, got, x.want)
			}
		}
	}
}
