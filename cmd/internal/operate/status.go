// Package operate has the commands for running instances: status, drain, undrain and
// call.
package operate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/glotpod/ident/cluster/membership"
	"github.com/glotpod/ident/cluster/wait"
	"github.com/glotpod/ident/cmd/internal/cli"
	"github.com/glotpod/ident/cmd/internal/clusterview"
	"github.com/glotpod/ident/cmd/internal/connect"
	"github.com/glotpod/ident/config"
)

const statusAbout = `Asks all instances for their status over RabbitMQ, and prints the instances, the
owner of each partition and the number of messages in each queue.

The instances reply independently. A partition that moves at this time can appear
twice or without an owner.

Exit status: 0 if each partition has one owner, 1 if a partition has none or
several or no instance is alive, 3 if an instance did not reply in time, 78 if
the settings are wrong or RabbitMQ refuses the login, 129 if RabbitMQ is
unreachable.`

// Status is the command status.
var Status = cli.Command{Name: "status", Summary: "show the instances and the owner of each partition", Run: runStatus}

func runStatus(ctx context.Context, env *cli.Env, args []string) int {
	flags := env.NewFlags("", statusAbout)
	asJSON := flags.Bool("json", false, "print one JSON document, for programs")
	timeout := flags.Duration("timeout", 5*time.Second, "how long to wait for the replies of the instances, and then of the broker")
	if status, done := flags.Parse(args, 0); done {
		return status
	}
	conn, err := dialBroker(ctx, env, *timeout)
	if err != nil {
		return env.Fail(err)
	}
	defer connect.Close(conn)

	o, err := clusterview.Survey(ctx, conn, *timeout, *timeout)
	if err != nil {
		return fail(env, conn, err)
	}
	o.RemoveTraffic()
	if *asJSON {
		encoder := json.NewEncoder(env.Stdout)
		encoder.SetIndent("", "  ")
		err = encoder.Encode(o)
	} else {
		err = o.Print(env.Stdout, time.Now())
	}
	if err != nil {
		return env.Fail(fmt.Errorf("print the status: %w", err))
	}
	switch {
	case len(o.Missing) > 0:
		return cli.StatusNoReply
	case len(o.Unowned) > 0 || len(o.Contested) > 0:
		return cli.StatusFailure
	}
	return cli.StatusOK
}

// dialBroker connects to the broker in the settings.
func dialBroker(ctx context.Context, env *cli.Env, timeout time.Duration) (*amqp.Connection, error) {
	c, err := config.LoadClient(env.Environ)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	return connect.Dial(ctx, c, env.Command, env.Version)
}

// fail prints why the instances could not be asked, and returns the exit status for it.
func fail(env *cli.Env, conn *amqp.Connection, err error) int {
	switch {
	case errors.Is(err, membership.ErrNoInstance):
		return env.FailWith(cli.StatusFailure, err)
	case errors.Is(err, context.DeadlineExceeded):
		return env.FailWith(cli.StatusNoReply, err)
	case conn.IsClosed():
		err = fmt.Errorf("%w: %w", wait.ErrUnreachable, err)
	}
	return env.Fail(err)
}
