package operate

import (
	"context"
	"io"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/glotpod/ident/cmd/internal/cli"
	"github.com/glotpod/ident/cmd/internal/connect"
	"github.com/glotpod/ident/config"
)

// An Operator does inside of an instance what the commands drain, undrain and repartition do,
// and refuses what they refuse. Each action has connections of its own. It writes to out what
// the command prints. Errors have the exit status of the command.
type Operator struct {
	Config  *config.Config
	Version string // of the program
}

// connectionName distinguishes the connections of actions.
const connectionName = "operate"

// Drain makes instances hand over all their partitions, and waits until they have none. With
// all, it does so also if no instance would remain that takes partitions.
func (o Operator) Drain(ctx context.Context, names []string, all bool, out io.Writer) error {
	return o.withInstances(ctx, names, func(conn *amqp.Connection) error {
		ctx, cancel := context.WithTimeout(ctx, drainTimeout)
		defer cancel()
		_, err := drain(ctx, conn, names, all, out)
		return err
	})
}

// Undrain lets instances take partitions again.
func (o Operator) Undrain(ctx context.Context, names []string, out io.Writer) error {
	return o.withInstances(ctx, names, func(conn *amqp.Connection) error { return undrain(ctx, conn, names, out) })
}

func (o Operator) withInstances(ctx context.Context, names []string, do func(*amqp.Connection) error) error {
	if len(names) == 0 {
		return cli.Usagef("no instance is named")
	}
	if err := checkNames(names); err != nil {
		return err
	}
	dialing, cancel := context.WithTimeout(ctx, connect.Timeout)
	defer cancel()
	conn, err := connect.Dial(dialing, o.Config, connectionName, o.Version)
	if err != nil {
		return err
	}
	defer connect.Close(conn)
	if err := do(conn); err != nil {
		return classify(conn, err)
	}
	return nil
}

// A RepartitionRequest has the flags of the command repartition.
type RepartitionRequest struct {
	Partitions int    `json:"partitions"`
	QueueType  string `json:"queue_type"`
	DryRun     bool   `json:"dry_run"`
	Abort      bool   `json:"abort"`
}

// Repartition changes the number of partitions, or the type of their queues. If ctx ends,
// a repartition that has begun goes on.
func (o Operator) Repartition(ctx context.Context, request RepartitionRequest, out io.Writer) error {
	r := &repartition{
		env:        &cli.Env{Version: o.Version, Stdout: out, Stderr: out},
		partitions: request.Partitions,
		queueType:  request.QueueType,
		dryRun:     request.DryRun,
		abort:      request.Abort,
	}
	if err := r.checkArguments(); err != nil {
		return err
	}
	return r.runWith(ctx, o.Config, connectionName)
}
