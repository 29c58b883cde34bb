package cli

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/glotpod/ident/cluster"
	"github.com/glotpod/ident/cluster/broker"
	"github.com/glotpod/ident/cluster/ownership"
	"github.com/glotpod/ident/cluster/wait"
	"github.com/glotpod/ident/config"
	"github.com/glotpod/ident/store"
)

// The exit statuses.
const (
	StatusOK          = 0
	StatusFailure     = 1
	StatusUsage       = 2
	StatusNoReply     = 3
	StatusSettings    = 78 // sysexits.h: EX_CONFIG
	StatusUnreachable = 129
)

// An ExitStatus is a number that a program exits with, and what it means.
type ExitStatus struct {
	Status  int
	Meaning string
}

// ExitStatuses returns all statuses that the programs exit with by themselves.
func ExitStatuses() []ExitStatus {
	return []ExitStatus{
		{StatusOK, "success; an instance was asked to stop, and has stopped"},
		{StatusFailure, "another failure, which the last line of standard error names; or the command has found what it looks for: a partition without an owner, a problem, an error reply"},
		{StatusUsage, "wrong arguments; or the program has crashed, with a stack trace on standard error"},
		{StatusNoReply, "an instance, or the service, did not reply in time"},
		{StatusSettings, "the settings or the version of the schema are wrong, or RabbitMQ refuses the login or a permission; a restart does not help"},
		{StatusUnreachable, "RabbitMQ or PostgreSQL is unreachable, or the connection was lost; to be restarted"},
	}
}

func newExitStatus() *cobra.Command {
	var b strings.Builder
	b.WriteString("The exit status of a command is one of\n")
	for _, s := range ExitStatuses() {
		fmt.Fprintf(&b, "\n%5d  %s\n", s.Status, strings.TrimSpace(indent(s.Meaning, 7)))
	}
	b.WriteString(`
A signal that a program does not handle ends it without a status. A shell then shows
128 and the number of the signal: 137 after SIGKILL, as when memory runs out, and 130 or
143 after a second SIGINT or SIGTERM, which end a command at once.

The help of a command says what else 0, 1 and 3 mean for it.`)
	return &cobra.Command{Use: "exit-status", Short: "what the exit statuses mean", Long: b.String()}
}

// A statusError is an error with an exit status of its own.
type statusError struct {
	status int
	err    error // nil: everything is said
}

func (e *statusError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit status %d", e.status)
	}
	return e.err.Error()
}

func (e *statusError) Unwrap() error { return e.err }

// WithStatus gives an error an exit status of its own. If err is nil, the program exits
// with the status and prints no error.
func WithStatus(status int, err error) error { return &statusError{status, err} }

// StatusOf returns the exit status for an error.
func StatusOf(err error) int {
	var own *statusError
	var settings *config.Error
	var schema *store.SchemaError
	var pooler *store.PoolerError
	var parameters *store.ParametersError
	var setup *cluster.SetupError
	var stopped *cluster.StoppedError
	switch {
	case err == nil:
		return StatusOK
	case errors.As(err, &own):
		return own.status
	case errors.Is(err, wait.ErrUnreachable):
		return StatusUnreachable
	case errors.As(err, &settings), errors.As(err, &schema), errors.As(err, &pooler),
		errors.As(err, &parameters), errors.As(err, &setup), broker.LoginRefused(err), errors.As(err, &stopped) && stopped.Reason == ownership.ParametersDiffer:
		return StatusSettings
	}
	return StatusFailure
}
