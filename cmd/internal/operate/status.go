// Package operate has the commands for running instances: status, drain, undrain, move,
// repartition and call. An [Operator] does some of it for the status page.
package operate

import (
	"context"
	"errors"
	"fmt"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/spf13/cobra"

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

The keys of the JSON document are format (1; raised when a key goes or changes its
meaning), members (each with name, state, version, started_at, parameters, members,
partitions, shared_requests_per_second, warm_users, counters and problems), missing
(instances that did not reply), shared_queue, partitions (each with partition, owner,
epoch, phase, requests_per_second, outdated_claims and queue), unowned and contested
(numbers of partitions).

Exit status: 0 if each partition has one owner, 1 if a partition has none or
several or no instance is alive, 3 if an instance did not reply in time.`

// NewStatus returns the command status.
func NewStatus(env *cli.Env) *cobra.Command {
	var asJSON bool
	var timeout time.Duration
	c := &cobra.Command{
		Use:   "status",
		Short: "show the instances and the owner of each partition",
		Long:  statusAbout,
		RunE:  func(c *cobra.Command, _ []string) error { return runStatus(c, env, asJSON, timeout) },
	}
	cli.JSONFlag(c, &asJSON)
	c.Flags().DurationVar(&timeout, "timeout", 5*time.Second, "how long to wait for the replies of the instances, and then of the broker")
	return c
}

func runStatus(command *cobra.Command, env *cli.Env, asJSON bool, timeout time.Duration) error {
	ctx := command.Context()
	conn, err := dialBroker(ctx, env, command.Name(), timeout)
	if err != nil {
		return err
	}
	defer connect.Close(conn)

	o, err := clusterview.Survey(ctx, conn, timeout, timeout)
	if err != nil {
		return classify(conn, err)
	}
	o.RemoveTraffic()
	if asJSON {
		err = env.PrintJSON(o)
	} else if err = o.Print(env.Stdout, time.Now()); err != nil {
		err = fmt.Errorf("print the status: %w", err)
	}
	switch {
	case err != nil:
		return err
	case len(o.Missing) > 0:
		return cli.WithStatus(cli.StatusNoReply, nil)
	case len(o.Unowned) > 0 || len(o.Contested) > 0:
		return cli.WithStatus(cli.StatusFailure, nil)
	}
	return nil
}

// dialBroker connects to the broker in the settings. name is that of the command.
func dialBroker(ctx context.Context, env *cli.Env, name string, timeout time.Duration) (*amqp.Connection, error) {
	c, err := config.LoadClient(env.Environ)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	return connect.Dial(ctx, c, name, env.Version)
}

// classify gives an error of asking the instances its exit status.
func classify(conn *amqp.Connection, err error) error {
	switch {
	case errors.Is(err, membership.ErrNoInstance), errors.Is(err, errRefused):
		return cli.WithStatus(cli.StatusFailure, err)
	case errors.Is(err, context.DeadlineExceeded):
		return cli.WithStatus(cli.StatusNoReply, err)
	case conn.IsClosed():
		return fmt.Errorf("%w: %w", wait.ErrUnreachable, err)
	}
	return err
}
