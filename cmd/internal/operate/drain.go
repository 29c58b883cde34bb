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
	"github.com/spf13/cobra"

	"github.com/glotpod/ident/cluster/membership"
	"github.com/glotpod/ident/cluster/ownership"
	"github.com/glotpod/ident/cluster/wait"
	"github.com/glotpod/ident/cmd/internal/cli"
	"github.com/glotpod/ident/cmd/internal/connect"
)

const drainAbout = `Makes an instance hand over all its partitions, and waits until it has none. The
instance takes no partitions until "glotpod-ident undrain" or a restart. It still
consumes the shared queue and replies to the requests that any instance can serve.

The keys of the JSON document are instance, state (as in "glotpod-ident status
--json") and partitions (how many the instance has).

Exit status: 0 if the instance has no partitions, 1 if the instance does not
exist, 3 if it did not hand over all partitions in time.`

const undrainAbout = `Undoes "glotpod-ident drain": the instance takes partitions again.

The key of the JSON document is instance.

Exit status: 0 if the instance has accepted the request, 1 if the instance does
not exist, 3 if it did not reply in time.`

const (
	// requestTimeout bounds the wait for the reply of an instance.
	requestTimeout = 5 * time.Second

	// pollInterval is how often a draining instance is asked for its status.
	pollInterval = 250 * time.Millisecond
)

// NewDrain returns the command drain.
func NewDrain(env *cli.Env) *cobra.Command {
	var asJSON bool
	var timeout time.Duration
	c := &cobra.Command{
		Use:   "drain <instance>",
		Short: "make an instance hand over all its partitions",
		Long:  drainAbout,
	}
	cli.JSONFlag(c, &asJSON)
	c.Flags().DurationVar(&timeout, "timeout", time.Minute, "how long to wait until the instance has no partitions")
	c.RunE = withInstance(env, func(ctx context.Context, conn *amqp.Connection, name string) error {
		ctx, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		progress := env.Stdout
		if asJSON {
			progress = io.Discard
		}
		report, err := drain(ctx, conn, name, progress)
		if err != nil {
			return err
		}
		if asJSON {
			return env.PrintJSON(drained{name, report.State, len(report.Partitions)})
		}
		_, err = fmt.Fprintf(env.Stdout, "%s has no partitions. It takes none until it is undrained or restarted.\n", name)
		return err
	})
	return c
}

// drained is the output of drain --json.
type drained struct {
	Instance   string `json:"instance"`
	State      string `json:"state"`
	Partitions int    `json:"partitions"`
}

// NewUndrain returns the command undrain.
func NewUndrain(env *cli.Env) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "undrain <instance>",
		Short: "let an instance take partitions again",
		Long:  undrainAbout,
	}
	cli.JSONFlag(c, &asJSON)
	c.RunE = withInstance(env, func(ctx context.Context, conn *amqp.Connection, name string) error {
		err := requestDrain(ctx, conn, name, false)
		if err != nil {
			return err
		}
		if asJSON {
			return env.PrintJSON(struct {
				Instance string `json:"instance"`
			}{name})
		}
		_, err = fmt.Fprintf(env.Stdout, "%s takes partitions again.\n", name)
		return err
	})
	return c
}

// withInstance returns the function of a command whose argument names an instance. It calls do
// with a connection to the broker and the name.
func withInstance(env *cli.Env, do func(ctx context.Context, conn *amqp.Connection, name string) error) func(*cobra.Command, []string) error {
	return func(c *cobra.Command, args []string) error {
		name := args[0]
		if !membership.IsName(name) {
			return cli.Usagef("%q is not a valid name of an instance", name)
		}
		conn, err := dialBroker(c.Context(), env, c.Name(), connect.Timeout)
		if err != nil {
			return err
		}
		defer connect.Close(conn)
		if err := do(c.Context(), conn, name); err != nil {
			return classify(conn, err)
		}
		return nil
	}
}

// drain asks an instance to drain, and waits until it has no partitions. It prints how many are left.
func drain(ctx context.Context, conn *amqp.Connection, name string, progress io.Writer) (membership.Report, error) {
	if err := requestDrain(ctx, conn, name, true); err != nil {
		return membership.Report{}, err
	}
	for printed := -1; ; {
		report, err := askInstance(ctx, conn, name)
		if err != nil {
			return report, err
		}
		if left := len(report.Partitions); left == 0 && !takesPartitions(report) {
			return report, nil
		} else if left != printed {
			printed = left
			fmt.Fprintf(progress, "%s is %s; partitions left: %d\n", name, report.State, left)
		}
		if err := wait.For(ctx, pollInterval); err != nil {
			return report, fmt.Errorf("wait until %s has no partitions: %w", name, err)
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
