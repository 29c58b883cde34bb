// Package operate has the commands that ask and steer running instances.
package operate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/glotpod/ident/cluster"
	"github.com/glotpod/ident/cluster/membership"
	"github.com/glotpod/ident/cmd/internal/cli"
	"github.com/glotpod/ident/cmd/internal/clusterview"
	"github.com/glotpod/ident/cmd/internal/connect"
	"github.com/glotpod/ident/config"
)

const statusAbout = `Asks all instances over RabbitMQ how they are, and prints who there is, who has
which partition, and how many messages wait.

Each instance answers for itself, one after another. A partition that moves
meanwhile can appear twice, or not at all.

Ends with status 0 when each partition has one owner, 1 when one has none or
several or no instance is there, 3 when an instance has not answered in time,
129 when RabbitMQ is out of reach.`

// Status is the command status.
var Status = cli.Command{Name: "status", Summary: "tell which instances there are, and who has which partition", Run: runStatus}

func runStatus(ctx context.Context, env *cli.Env, args []string) int {
	flags := env.NewFlags("", statusAbout)
	asJSON := flags.Bool("json", false, "print one JSON document, for programs")
	timeout := flags.Duration("timeout", 5*time.Second, "how long to wait for the instances, and then for the broker")
	if status, done := flags.Parse(args, 0); done {
		return status
	}
	conn, err := connectToAsk(ctx, env, *timeout)
	if err != nil {
		return env.Fail(err)
	}
	defer connect.Close(conn)

	o, err := clusterview.Survey(ctx, conn, *timeout, *timeout)
	if err != nil {
		return failAsking(env, conn, err)
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
		return env.Fail(fmt.Errorf("printing the status: %w", err))
	}
	switch {
	case len(o.Missing) > 0:
		return cli.StatusNoReply
	case len(o.Unowned) > 0 || len(o.Contested) > 0:
		return cli.StatusFailure
	}
	return cli.StatusOK
}

// connectToAsk connects as the settings say.
func connectToAsk(ctx context.Context, env *cli.Env, timeout time.Duration) (*amqp.Connection, error) {
	c, err := config.LoadClient(env.Environ)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	return connect.Dial(ctx, c, env.Command, env.Version)
}

// failAsking reports why the instances could not be asked, and returns the
// status that belongs to it.
func failAsking(env *cli.Env, conn *amqp.Connection, err error) int {
	switch {
	case errors.Is(err, membership.ErrNoInstance):
		return env.FailWith(cli.StatusFailure, err)
	case errors.Is(err, context.DeadlineExceeded):
		return env.FailWith(cli.StatusNoReply, err)
	case conn.IsClosed():
		err = fmt.Errorf("%w: %w", cluster.ErrUnreachable, err)
	}
	return env.Fail(err)
}
