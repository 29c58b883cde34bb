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
	"github.com/glotpod/ident/cluster/wait"
	"github.com/glotpod/ident/cmd/internal/cli"
	"github.com/glotpod/ident/cmd/internal/connect"
)

const drainAbout = `Makes an instance hand over all its partitions, and waits until it has none. The
instance takes no partitions until "glotpod-ident undrain" or a restart. It still
consumes the shared queue and replies to the requests that any instance can serve.

Exit status: 0 if the instance has no partitions, 1 if the instance does not
exist, 3 if it did not hand over all partitions in time, 78 if the settings are
wrong or RabbitMQ refuses the login, 129 if RabbitMQ is unreachable.`

const undrainAbout = `Undoes "glotpod-ident drain": the instance takes partitions again.

Exit status: 0 if the instance has accepted the request, 1 if the instance does
not exist, 3 if it did not reply in time, 78 if the settings are wrong or
RabbitMQ refuses the login, 129 if RabbitMQ is unreachable.`

const (
	// requestTimeout bounds the wait for the reply of an instance.
	requestTimeout = 5 * time.Second

	// pollInterval is how often a draining instance is asked for its status.
	pollInterval = 250 * time.Millisecond
)

// Drain is the command drain.
var Drain = cli.Command{Name: "drain", Summary: "make an instance hand over all its partitions", Run: runDrain}

// Undrain is the command undrain.
var Undrain = cli.Command{Name: "undrain", Summary: "let an instance take partitions again", Run: runUndrain}

func runDrain(ctx context.Context, env *cli.Env, args []string) int {
	flags := env.NewFlags("<instance>", drainAbout)
	timeout := flags.Duration("timeout", time.Minute, "how long to wait until the instance has no partitions")
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

// withInstance parses the arguments, which name one instance, and calls do with a
// connection to the broker and the name of the instance.
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
		return flags.Wrong(fmt.Errorf("%q is not a valid name of an instance", words[0]))
	}
	conn, err := dialBroker(ctx, env, connect.Timeout)
	if err != nil {
		return env.Fail(err)
	}
	defer connect.Close(conn)
	if err := do(conn, words[0]); err != nil {
		return fail(env, conn, err)
	}
	return cli.StatusOK
}

// drain asks an instance to drain, and waits until it has no partitions.
func drain(ctx context.Context, conn *amqp.Connection, name string, stdout io.Writer) error {
	if err := requestDrain(ctx, conn, name, true); err != nil {
		return err
	}
	for printed := -1; ; {
		report, err := askInstance(ctx, conn, name)
		if err != nil {
			return err
		}
		if left := len(report.Partitions); left == 0 && !takesPartitions(report) {
			fmt.Fprintf(stdout, "%s has no partitions. It takes none until it is undrained or restarted.\n", name)
			return nil
		} else if left != printed {
			printed = left
			fmt.Fprintf(stdout, "%s is %s; partitions left: %d\n", name, report.State, left)
		}
		if err := wait.For(ctx, pollInterval); err != nil {
			return fmt.Errorf("wait until %s has no partitions: %w", name, err)
		}
	}
}

// takesPartitions says whether an instance may claim partitions.
func takesPartitions(r membership.Report) bool {
	return !slices.Contains([]string{ownership.Draining.String(), ownership.Leaving.String(), ownership.Left.String()}, r.State)
}

// requestDrain asks an instance to drain, or to stop draining. If the instance does not
// exist, the error names those that do.
func requestDrain(ctx context.Context, conn *amqp.Connection, name string, drain bool) error {
	asking, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	reports, err := membership.AskStatus(asking, conn)
	if err == nil && findReport(reports, name) == nil {
		return noInstanceError(reports, name)
	}
	if err != nil && !errors.As(err, new(*membership.MissingError)) {
		return err
	}
	asking, cancel = context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	return membership.RequestDrain(asking, conn, name, drain)
}

// askInstance asks an instance for its status until it replies.
func askInstance(ctx context.Context, conn *amqp.Connection, name string) (membership.Report, error) {
	for {
		asking, cancel := context.WithTimeout(ctx, requestTimeout)
		reports, err := membership.AskStatus(asking, conn)
		inTime := asking.Err() == nil
		cancel()
		switch report := findReport(reports, name); {
		case report != nil:
			return *report, nil
		case err == nil:
			return membership.Report{}, noInstanceError(reports, name)
		case ctx.Err() != nil:
			return membership.Report{}, fmt.Errorf("wait for the status of %s: %w", name, ctx.Err())
		case inTime:
			return membership.Report{}, err
		}
	}
}

func findReport(reports []membership.Report, name string) *membership.Report {
	i := slices.IndexFunc(reports, func(r membership.Report) bool { return r.Name == name })
	if i < 0 {
		return nil
	}
	return &reports[i]
}

func noInstanceError(reports []membership.Report, name string) error {
	var names []string
	for _, r := range reports {
		names = append(names, r.Name)
	}
	return fmt.Errorf("%w: %s is not one of %s", membership.ErrNoInstance, name, strings.Join(names, ", "))
}
