package operate

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/glotpod/ident/cluster/membership"
	"github.com/glotpod/ident/cluster/ownership"
	"github.com/glotpod/ident/cmd/internal/cli"
	"github.com/glotpod/ident/cmd/internal/connect"
)

const drainAbout = `Has an instance hand all its partitions over to the others, and waits until it
has none. It takes no more until "glotpod-ident undrain", or until it is started
anew. It goes on answering requests that any instance can answer.

Ends with status 0 when the instance has no partitions, 1 when there is no such
instance, 3 when it has not handed all over in time, 129 when RabbitMQ is out of
reach.`

const undrainAbout = `Takes back "glotpod-ident drain": the instance takes partitions again.

Ends with status 0 when the instance has taken the request, 1 when there is no
such instance, 3 when it has not answered in time, 129 when RabbitMQ is out of
reach.`

const (
	// requestTimeout is how long an instance has for taking a request, and for
	// telling its status once.
	requestTimeout = 5 * time.Second

	// lookEvery is how often a draining instance is asked how far it is.
	lookEvery = 250 * time.Millisecond
)

// Drain is the command drain.
var Drain = cli.Command{Name: "drain", Summary: "have an instance hand over its partitions", Run: runDrain}

// Undrain is the command undrain.
var Undrain = cli.Command{Name: "undrain", Summary: "let an instance take partitions again", Run: runUndrain}

func runDrain(ctx context.Context, env *cli.Env, args []string) int {
	flags := env.NewFlags("<instance>", drainAbout)
	timeout := flags.Duration("timeout", time.Minute, "how long to wait for the instance to have no partitions")
	return withInstance(ctx, env, flags, args, func(conn *amqp.Connection, name string) error {
		ctx, cancel := context.WithTimeout(ctx, *timeout)
		defer cancel()
		return drain(ctx, conn, name, env.Stdout)
	})
}

func runUndrain(ctx context.Context, env *cli.Env, args []string) int {
	flags := env.NewFlags("<instance>", undrainAbout)
	return withInstance(ctx, env, flags, args, func(conn *amqp.Connection, name string) error {
		if err := requestDrain(ctx, conn, name, false); err != nil {
			return err
		}
		fmt.Fprintf(env.Stdout, "%s takes partitions again.\n", name)
		return nil
	})
}

// withInstance does what a command does to the one instance that it names.
func withInstance(ctx context.Context, env *cli.Env, flags *cli.Flags, args []string, do func(conn *amqp.Connection, name string) error) int {
	words, status, done := flags.ParseMixed(args)
	if done {
		return status
	}
	if len(words) != 1 {
		flags.Usage()
		return cli.StatusUsage
	}
	if !membership.IsName(words[0]) {
		return flags.Wrong(fmt.Errorf("no instance can have the name %q", words[0]))
	}
	conn, err := connectToAsk(ctx, env, connect.Timeout)
	if err != nil {
		return env.Fail(err)
	}
	defer connect.Close(conn)
	if err := do(conn, words[0]); err != nil {
		return failAsking(env, conn, err)
	}
	return cli.StatusOK
}

// drain asks an instance to drain, and waits until it has.
func drain(ctx context.Context, conn *amqp.Connection, name string, stdout io.Writer) error {
	if err := requestDrain(ctx, conn, name, true); err != nil {
		return err
	}
	for told := -1; ; {
		report, err := reportOf(ctx, conn, name)
		if err != nil {
			return err
		}
		if left := len(report.Partitions); left == 0 && !takesPartitions(report) {
			fmt.Fprintf(stdout, "%s has no partitions, and takes none until it is undrained or started anew.\n", name)
			return nil
		} else if left != told {
			told = left
			fmt.Fprintf(stdout, "%s is %s; partitions left: %d\n", name, report.State, left)
		}
		select {
		case <-time.After(lookEvery):
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s to have no partitions: %w", name, ctx.Err())
		}
	}
}

// takesPartitions reports whether an instance may get partitions by and by.
func takesPartitions(r membership.Report) bool {
	return !slices.Contains([]string{ownership.Draining.String(), ownership.Leaving.String(), ownership.Left.String()}, r.State)
}

// requestDrain asks an instance to drain or not to. Where it is not known, it
// says who is.
func requestDrain(ctx context.Context, conn *amqp.Connection, name string, yes bool) error {
	asking, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	reports, err := membership.AskStatus(asking, conn)
	if err == nil && find(reports, name) == nil {
		return notThere(reports, name)
	}
	if err != nil && !errors.As(err, new(*membership.MissingError)) {
		return err
	}
	asking, cancel = context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	return membership.RequestDrain(asking, conn, name, yes)
}

// reportOf asks an instance for its status until it answers.
func reportOf(ctx context.Context, conn *amqp.Connection, name string) (membership.Report, error) {
	for {
		asking, cancel := context.WithTimeout(ctx, requestTimeout)
		reports, err := membership.AskStatus(asking, conn)
		inTime := asking.Err() == nil
		cancel()
		switch report := find(reports, name); {
		case report != nil:
			return *report, nil
		case err == nil:
			return membership.Report{}, notThere(reports, name)
		case ctx.Err() != nil:
			return membership.Report{}, fmt.Errorf("waiting for the status of %s: %w", name, ctx.Err())
		case inTime:
			return membership.Report{}, err
		}
	}
}

func find(reports []membership.Report, name string) *membership.Report {
	i := slices.IndexFunc(reports, func(r membership.Report) bool { return r.Name == name })
	if i < 0 {
		return nil
	}
	return &reports[i]
}

func notThere(reports []membership.Report, name string) error {
	var names []string
	for _, r := range reports {
		names = append(names, r.Name)
	}
	return fmt.Errorf("%w: %s is not among %s", membership.ErrNoInstance, name, strings.Join(names, ", "))
}
