package operate

import (
	"context"
	"strconv"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/spf13/cobra"

	"github.com/glotpod/ident/cmd/internal/cli"
	"github.com/glotpod/ident/cmd/internal/clusterview"
)

const waitingAbout = `Asks the instances over RabbitMQ what a user waits for, and prints it: the user's
partition and its owner, the requests in progress and in the mailbox, what the commit of
the writes is doing, and the notifications that are not confirmed. It shows no data of
the user. Requests that other instances forward at this time are not in it.

The keys of the JSON document are user_id, partition, owner, epoch, phase, queue, cached,
in_progress, waiting, writes, mailbox (how many may wait), oldest_seconds, commit,
notifications and explained (the same in sentences). If owner is empty, the owner did not
reply or there is none, and all from epoch to notifications except queue is unknown.

Exit status: 0 if the owner of the partition has replied, 1 if no instance is alive, 3 if
the owner did not reply in time.`

// NewWaiting returns the command user waiting.
func NewWaiting(env *cli.Env) *cobra.Command {
	var asJSON bool
	var timeout time.Duration
	c := &cobra.Command{Use: "waiting <id>", Short: "show what the user waits for", Long: waitingAbout}
	cli.JSONFlag(c, &asJSON)
	c.Flags().DurationVar(&timeout, "timeout", requestTimeout, "how long to wait for the owner of the partition, and then for the broker")
	c.RunE = func(c *cobra.Command, args []string) error {
		id, err := UserID(args[0])
		if err != nil {
			return err
		}
		return withBroker(c, env, func(ctx context.Context, conn *amqp.Connection) error {
			v, err := clusterview.SurveyUser(ctx, conn, id, timeout)
			switch {
			case err != nil:
				return err
			case asJSON:
				err = env.PrintJSON(v)
			default:
				err = v.Print(env.Stdout)
			}
			if err == nil && v.Owner == "" {
				return cli.WithStatus(cli.StatusNoReply, nil)
			}
			return err
		})
	}
	return c
}

// UserID returns the id of a user in an argument.
func UserID(argument string) (int64, error) {
	id, err := strconv.ParseInt(argument, 10, 64)
	if err != nil || id < 1 {
		return 0, cli.Usagef("%q is not the id of a user, which is a whole number from 1", argument)
	}
	return id, nil
}
