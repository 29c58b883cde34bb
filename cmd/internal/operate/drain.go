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

const drainAbout = `Makes instances hand over all their partitions, and waits until they have none. They
take no partitions until "glotpod-ident undrain" or a restart. They still consume the
shared queue and reply to the requests that any instance can serve.

The key of the JSON document is instances. Each of these has instance, state (as in
"glotpod-ident status --json") and partitions (how many the instance has).

If no instance would remain that takes partitions, it is refused. If others are drained
at the same time so that none remains, the named instances are undrained again.

Exit status: 0 if the instances have no partitions, 1 if an instance does not exist or
no instance would remain that takes partitions, 3 if they did not hand over all
partitions in time.`

const undrainAbout = `Undoes "glotpod-ident drain": the instances take partitions again.

The key of the JSON document is instances.

Exit status: 0 if the instances have accepted the request, 1 if an instance does not
exist, 3 if one did not reply in time.`

const (
	// requestTimeout bounds the wait for the reply of an instance.
	requestTimeout = 5 * time.Second

	// pollInterval is how often the instances are asked for their status.
	pollInterval = 250 * time.Millisecond

	// drainTimeout bounds the wait until instances have no partitions.
	drainTimeout = time.Minute
)

// NewDrain returns the command drain.
func NewDrain(env *cli.Env) *cobra.Command {
	var asJSON, all bool
	var timeout time.Duration
	c := &cobra.Command{
		Use:   "drain <instance>…",
		Short: "make instances hand over all their partitions",
		Long:  drainAbout,
	}
	cli.JSONFlag(c, &asJSON)
	c.Flags().DurationVar(&timeout, "timeout", drainTimeout, "how long to wait until the instances have no partitions")
	c.Flags().BoolVar(&all, "all", false, "also if no instance remains that takes partitions: then most requests wait")
	c.RunE = withInstances(env, func(ctx context.Context, conn *amqp.Connection, names []string) error {
		ctx, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		progress := env.Stdout
		if asJSON {
			progress = io.Discard
		}
		result, err := drain(ctx, conn, names, all, progress)
		if err == nil && asJSON {
			err = env.PrintJSON(result)
		}
		return err
	})
	return c
}

// drained is the output of drain --json.
type drained struct {
	Instances []drainedInstance `json:"instances"` // in the order of the arguments
}

type drainedInstance struct {
	Instance   string `json:"instance"`
	State      string `json:"state"`
	Partitions int    `json:"partitions"`
}

// NewUndrain returns the command undrain.
func NewUndrain(env *cli.Env) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "undrain <instance>…",
		Short: "let instances take partitions again",
		Long:  undrainAbout,
	}
	cli.JSONFlag(c, &asJSON)
	c.RunE = withInstances(env, func(ctx context.Context, conn *amqp.Connection, names []string) error {
		if !asJSON {
			return undrain(ctx, conn, names, env.Stdout)
		}
		if err := undrain(ctx, conn, names, io.Discard); err != nil {
			return err
		}
		return env.PrintJSON(struct {
			Instances []string `json:"instances"`
		}{names})
	})
	return c
}

// undrain asks instances to take partitions again.
func undrain(ctx context.Context, conn *amqp.Connection, names []string, out io.Writer) error {
	if err := requestDrain(ctx, conn, names, false, true); err != nil {
		return err
	}
	for _, name := range names {
		if _, err := fmt.Fprintf(out, "%s takes partitions again.\n", name); err != nil {
			return err
		}
	}
	return nil
}

// withInstances returns the function of a command whose arguments name instances. It calls do
// with a connection to the broker and the names.
func withInstances(env *cli.Env, do func(ctx context.Context, conn *amqp.Connection, names []string) error) func(*cobra.Command, []string) error {
	return func(c *cobra.Command, names []string) error {
		if err := checkNames(names); err != nil {
			return err
		}
		return withBroker(c, env, func(ctx context.Context, conn *amqp.Connection) error { return do(ctx, conn, names) })
	}
}

// checkNames returns an error unless names can be those of different instances.
func checkNames(names []string) error {
	for n, name := range names {
		if !membership.IsName(name) {
			return cli.Usagef("%q is not a valid name of an instance", name)
		}
		if slices.Contains(names[:n], name) {
			return cli.Usagef("%s is named twice", name)
		}
	}
	return nil
}

// withBroker calls do with a connection to the broker.
func withBroker(c *cobra.Command, env *cli.Env, do func(ctx context.Context, conn *amqp.Connection) error) error {
	conn, err := dialBroker(c.Context(), env, c.Name(), connect.Timeout)
	if err != nil {
		return err
	}
	defer connect.Close(conn)
	if err := do(c.Context(), conn); err != nil {
		return classify(conn, err)
	}
	return nil
}

// drain asks instances to drain, and waits until they have no partitions. It prints how many are left.
func drain(ctx context.Context, conn *amqp.Connection, names []string, all bool, progress io.Writer) (drained, error) {
	if err := requestDrain(ctx, conn, names, true, all); err != nil {
		return drained{}, err
	}
	printed := make(map[string]string) // the last line about each instance
	for {
		reports, err := askInstances(ctx, conn, names)
		if err != nil {
			return drained{}, err
		}
		var result drained
		var busy []string
		for _, name := range names {
			report := findReport(reports, name)
			left := len(report.Partitions)
			result.Instances = append(result.Instances, drainedInstance{name, report.State, left})
			line := fmt.Sprintf("%s is %s; partitions left: %d\n", name, report.State, left)
			if left == 0 && !takesPartitions(*report) {
				line = fmt.Sprintf("%s has no partitions. It takes none until it is undrained or restarted.\n", name)
			} else {
				busy = append(busy, name)
			}
			if printed[name] != line {
				printed[name] = line
				io.WriteString(progress, line)
			}
		}
		if len(busy) == 0 {
			return result, nil
		}
		if err := wait.For(ctx, pollInterval); err != nil {
			return drained{}, fmt.Errorf("wait until %s has no partitions: %w", strings.Join(busy, ", "), err)
		}
	}
}

// takesPartitions says whether an instance may claim partitions.
func takesPartitions(r membership.Report) bool {
	return !slices.Contains([]string{ownership.Draining.String(), ownership.Leaving.String(), ownership.Left.String()}, r.State)
}

// requestDrain asks instances to drain, or to stop draining. If one of them does not
// exist, the error names those that do, and no instance is asked. Nor is any if none would remain
// that takes partitions, unless all is true.
func requestDrain(ctx context.Context, conn *amqp.Connection, names []string, drain, all bool) error {
	reports, complete, err := askReplying(ctx, conn)
	if err != nil {
		return err
	}
	for _, name := range names {
		if complete && findReport(reports, name) == nil {
			return noInstanceError(reports, name)
		}
	}
	if !all && !anyRemains(reports, names) {
		return refuse("no instance would remain that takes partitions, as far as they reply, and most requests would wait; with all, or --all, they are drained all the same")
	}
	if err := requestEach(ctx, conn, names, drain); err != nil || all {
		return err
	}
	// Others may have been drained since the first look. Of two operators, each looks again after
	// its own request, so that at least one sees the request of the other.
	if reports, _, err = askReplying(ctx, conn); err != nil || anyRemains(reports, names) {
		return err
	}
	if err := requestEach(ctx, conn, names, false); err != nil {
		return fmt.Errorf("no other instance that replied takes partitions any more, and those named are not undrained: %w", err)
	}
	return refuse("no other instance that replied takes partitions any more; those named are undrained again")
}

// anyRemains reports whether one of the instances takes partitions that is not named.
func anyRemains(reports []membership.Report, names []string) bool {
	return slices.ContainsFunc(reports, func(r membership.Report) bool {
		return takesPartitions(r) && !slices.Contains(names, r.Name)
	})
}

// requestEach asks each instance to drain, or to stop draining.
func requestEach(ctx context.Context, conn *amqp.Connection, names []string, drain bool) error {
	for _, name := range names {
		if err := ask(ctx, func(ctx context.Context) error { return membership.RequestDrain(ctx, conn, name, drain) }); err != nil {
			return err
		}
	}
	return nil
}

// ask makes a request to an instance within requestTimeout.
func ask(ctx context.Context, request func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	return request(ctx)
}

// askReplying asks all instances for their status. complete is false if some did not reply.
func askReplying(ctx context.Context, conn *amqp.Connection) (reports []membership.Report, complete bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	reports, err = membership.AskStatus(ctx, conn)
	if errors.As(err, new(*membership.MissingError)) {
		return reports, false, nil
	}
	return reports, true, err
}

// askInstances asks for the status of all instances until those that are named reply.
func askInstances(ctx context.Context, conn *amqp.Connection, names []string) ([]membership.Report, error) {
	for {
		asking, cancel := context.WithTimeout(ctx, requestTimeout)
		reports, err := membership.AskStatus(asking, conn)
		inTime := asking.Err() == nil
		cancel()
		missing := slices.IndexFunc(names, func(name string) bool { return findReport(reports, name) == nil })
		switch {
		case missing < 0:
			return reports, nil
		case err == nil:
			return nil, noInstanceError(reports, names[missing])
		case ctx.Err() != nil:
			return nil, fmt.Errorf("wait for the status of %s: %w", names[missing], ctx.Err())
		case inTime:
			return nil, err
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
