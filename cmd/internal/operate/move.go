package operate

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/spf13/cobra"

	"github.com/glotpod/ident/cluster/membership"
	"github.com/glotpod/ident/cluster/ownership"
	"github.com/glotpod/ident/cluster/ownership/hashring"
	"github.com/glotpod/ident/cluster/ownership/moves"
	"github.com/glotpod/ident/cluster/wait"
	"github.com/glotpod/ident/cmd/internal/cli"
)

const moveAbout = `Moves a partition to an instance, whatever the hash ring says, and waits until the
instance serves it. The partition stays there until "glotpod-ident move --undo", or
until the process of the instance ends. While the instance is drained, the partition
is where the hash ring assigns it to. A later move of the partition replaces an
earlier one.

With --undo, the partition goes back to where the hash ring assigns it to.

The keys of the JSON document are partition, and instance (which serves it).

Exit status: 0 if the partition is served where it should be, 1 if the move is refused
or the instance does not exist, 3 if it did not happen in time.`

// errRefused means that the instances cannot do what they were asked to.
var errRefused = errors.New("refused")

func refuse(format string, args ...any) error {
	return fmt.Errorf("%w: %s", errRefused, fmt.Sprintf(format, args...))
}

// NewMove returns the command move.
func NewMove(env *cli.Env) *cobra.Command {
	var asJSON, undo bool
	var timeout time.Duration
	c := &cobra.Command{
		Use:   "move <partition> [instance]",
		Short: "move a partition to an instance",
		Long:  moveAbout,
	}
	cli.JSONFlag(c, &asJSON)
	c.Flags().BoolVar(&undo, "undo", false, "undo the move of the partition; names no instance")
	c.Flags().DurationVar(&timeout, "timeout", time.Minute, "how long to wait until the partition is served where it should be")
	c.RunE = func(c *cobra.Command, args []string) error {
		m := mover{progress: env.Stdout}
		var err error
		switch m.partition, err = strconv.Atoi(args[0]); {
		case err != nil || m.partition < 0:
			return cli.Usagef("%q is not the number of a partition", args[0])
		case undo && len(args) > 1:
			return cli.Usagef("--undo takes no instance")
		case !undo && len(args) == 1:
			return cli.Usagef("the argument <instance> is missing")
		case !undo && !membership.IsName(args[1]):
			return cli.Usagef("%q is not a valid name of an instance", args[1])
		}
		if asJSON {
			m.progress = io.Discard
		}
		return withBroker(c, env, func(ctx context.Context, conn *amqp.Connection) error {
			ctx, cancel := context.WithTimeout(ctx, timeout)
			defer cancel()
			m.conn = conn
			owner, err := m.run(ctx, args[1:])
			if err == nil && asJSON {
				err = env.PrintJSON(struct {
					Partition int    `json:"partition"`
					Instance  string `json:"instance"`
				}{m.partition, owner})
			}
			return err
		})
	}
	return c
}

// A mover moves one partition.
type mover struct {
	conn      *amqp.Connection
	partition int
	progress  io.Writer
	printed   string // the line that was printed last
}

// run moves the partition to the instance that is named or, if none is, undoes its move. It returns
// the instance that serves the partition then.
func (m *mover) run(ctx context.Context, name []string) (owner string, err error) {
	if len(name) == 0 {
		return m.undo(ctx)
	}
	return m.move(ctx, name[0])
}

// move moves the partition to the named instance, and waits until that serves it.
func (m *mover) move(ctx context.Context, name string) (owner string, err error) {
	reports, _, err := askReplying(ctx, m.conn)
	if err != nil {
		return "", err
	}
	if err := m.check(reports, name); err != nil {
		return "", err
	}
	if err := m.request(ctx, name, false); err != nil {
		return "", err
	}
	return m.await(ctx, func(reports []membership.Report) (owner string, err error) {
		switch target := findReport(reports, name); {
		case target == nil:
			return "", noInstanceError(reports, name)
		case !slices.Contains(target.Moved, m.partition):
			return "", refuse("%s is %s, and the partition is not moved to it any more, or another move has replaced this one", name, target.State)
		}
		return name, nil
	}, "It stays there until it is moved again, \"glotpod-ident move --undo "+strconv.Itoa(m.partition)+"\", or a restart of "+name+".")
}

// check returns why the partition cannot be moved to the named instance.
func (m *mover) check(reports []membership.Report, name string) error {
	target := findReport(reports, name)
	if target == nil {
		return noInstanceError(reports, name)
	}
	if most := target.Parameters.Partitions; m.partition >= most {
		return refuse("there is no partition %d; the %d partitions have the numbers 0 to %d", m.partition, most, most-1)
	}
	if target.State != ownership.Ready.String() {
		return refuse("%s is %s, and takes no partitions", name, target.State)
	}
	for _, r := range reports {
		if r.Weight == 0 {
			return refuse("%s has the version %s, which does not follow moves; update it first", r.Name, r.Version)
		}
	}
	if len(target.Moved) >= moves.Max && !slices.Contains(target.Moved, m.partition) {
		return refuse("%d partitions are moved to %s already; give it a greater cluster.weight instead", len(target.Moved), name)
	}
	return nil
}

// undo undoes the move of the partition, and waits until it is served where the hash ring
// assigns it to.
func (m *mover) undo(ctx context.Context) (owner string, err error) {
	reports, _, err := askReplying(ctx, m.conn)
	if err != nil {
		return "", err
	}
	moved := func(r membership.Report) bool { return slices.Contains(r.Moved, m.partition) }
	if !slices.ContainsFunc(reports, moved) {
		return "", refuse("partition %d is not moved", m.partition)
	}
	for _, r := range reports {
		if moved(r) {
			if err := m.request(ctx, r.Name, true); err != nil {
				return "", err
			}
		}
	}
	return m.await(ctx, func(reports []membership.Report) (owner string, err error) {
		if slices.ContainsFunc(reports, moved) {
			return "", refuse("the partition was moved again meanwhile")
		}
		return m.assigned(reports), nil
	}, "It is where the hash ring assigns it to.")
}

// request asks an instance to move the partition to itself, or to undo that.
func (m *mover) request(ctx context.Context, name string, undo bool) error {
	return ask(ctx, func(ctx context.Context) error { return membership.RequestMove(ctx, m.conn, name, m.partition, undo) })
}

// assigned returns the instance that the hash ring assigns the partition to, or "" if there is
// none.
func (m *mover) assigned(reports []membership.Report) string {
	var ready []hashring.Member
	partitions := 0
	for _, r := range reports {
		if r.State == ownership.Ready.String() {
			ready = append(ready, hashring.Member{Name: r.Name, Weight: membership.TenthsOf(r.Weight)})
			partitions = r.Parameters.Partitions
		}
	}
	if owners := hashring.Assign(ready, partitions); m.partition < len(owners) {
		return owners[m.partition]
	}
	return ""
}

// await waits until the instance that wanted returns serves the partition, and prints what
// happens until then.
func (m *mover) await(ctx context.Context, wanted func([]membership.Report) (owner string, err error), end string) (owner string, err error) {
	for {
		reports, _, err := askReplying(ctx, m.conn)
		if err != nil {
			return "", err
		}
		owner, err := wanted(reports)
		if err != nil {
			return "", err
		}
		serving, phase := m.serving(reports)
		if serving == owner && phase == ownership.PhaseOwned {
			_, err := fmt.Fprintf(m.progress, "%s serves partition %d. %s\n", owner, m.partition, end)
			return owner, err
		}
		line := fmt.Sprintf("partition %d is to move to %s; now no instance has it", m.partition, owner)
		if serving != "" {
			line = fmt.Sprintf("partition %d is to move to %s; now %s has it (%s)", m.partition, owner, serving, phase)
		}
		if line != m.printed {
			m.printed = line
			fmt.Fprintln(m.progress, line)
		}
		if err := wait.For(ctx, pollInterval); err != nil {
			return "", fmt.Errorf("wait until %s serves partition %d: %w", owner, m.partition, err)
		}
	}
}

// serving returns the instance that has the partition under the greatest epoch, and its phase there.
func (m *mover) serving(reports []membership.Report) (name, phase string) {
	epoch := int64(0)
	for _, r := range reports {
		for _, p := range r.Partitions {
			if p.Partition == m.partition && p.Epoch > epoch {
				name, phase, epoch = r.Name, p.Phase, p.Epoch
			}
		}
	}
	return name, phase
}
