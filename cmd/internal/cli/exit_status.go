package cli

import (
	"errors"
	"fmt"

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
	StatusUsage       = 2   // wrong arguments
	StatusNoReply     = 3   // an instance did not reply in time
	StatusSettings    = 78  // the settings or the schema are wrong; sysexits.h: EX_CONFIG
	StatusUnreachable = 129 // RabbitMQ or PostgreSQL is unreachable
)

// Fail prints an error and returns the exit status for it.
func (e *Env) Fail(err error) int {
	fmt.Fprintf(e.Stderr, "%s: %v\n", e.Program, err)
	return StatusOf(err)
}

// FailWith prints an error with the name of the command and returns status.
func (e *Env) FailWith(status int, err error) int {
	fmt.Fprintf(e.Stderr, "%s: %v\n", e.title(), err)
	return status
}

// StatusOf returns the exit status for an error.
func StatusOf(err error) int {
	var settings *config.Error
	var schema *store.SchemaError
	var pooler *store.PoolerError
	var parameters *store.ParametersError
	var setup *cluster.SetupError
	var stopped *cluster.StoppedError
	switch {
	case errors.Is(err, wait.ErrUnreachable):
		return StatusUnreachable
	case errors.As(err, &settings), errors.As(err, &schema), errors.As(err, &pooler),
		errors.As(err, &parameters), errors.As(err, &setup), broker.LoginRefused(err), errors.As(err, &stopped) && stopped.Reason == ownership.ParametersDiffer:
		return StatusSettings
	}
	return StatusFailure
}
