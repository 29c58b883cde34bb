package operate

import (
	"context"
	"errors"
	"fmt"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"github.com/glotpod/ident/cluster"
	"github.com/glotpod/ident/cluster/membership"
	"github.com/glotpod/ident/cluster/partition"
	"github.com/glotpod/ident/cluster/wait"
	"github.com/glotpod/ident/cmd/internal/cli"
	"github.com/glotpod/ident/cmd/internal/connect"
	"github.com/glotpod/ident/config"
	"github.com/glotpod/ident/store"
)

const repartitionAbout = `Changes the number of partitions, or the type of their queues, while the service runs.
All requests wait meanwhile, usually for one to three seconds. None is lost or carried
out twice, and those of a caller that waits for its replies stay in order. None fails,
except those that need a queue which is not available.

The instances do the work. The command begins it and shows how far it is. It can be
interrupted: run it again to see the rest. If an instance, RabbitMQ or the database
fails, another instance goes on. It is refused unless all instances reply and have the
version of this program, and all queues take messages in. If it cannot go on in the
first seconds, the old partitions stay, and the command says why. Afterwards, the
settings cluster.partitions and cluster.queue_type do not count any more, partitions
that were moved are where the hash ring assigns them to, and programs that do not know
this command cannot be started.

The keys of the JSON document are phase ("done", or "planned" after --dry-run), from and
to (each with first, partitions and queue_type), moved (requests that went to the new
queues), attempts and seconds.

Exit status: 0 if it is done, or could be done, 1 if it is refused or was given up, 3 if
an instance did not reply in time.`

const (
	// maxPartitions is the greatest number of partitions, as of the setting.
	maxPartitions = 1024

	// watchInterval is how often the command looks how far a repartition is.
	watchInterval = 100 * time.Millisecond

	// prepareTimeout bounds what is done before a repartition begins.
	prepareTimeout = time.Minute
)

// A repartition is a run of the command.
type repartition struct {
	env        *cli.Env
	partitions int
	queueType  string
	dryRun     bool
	abort      bool
	asJSON     bool

	settings *config.Config
	name     string // of the command
	records  records
	users    *store.Store
	conn     *amqp.Connection
}

// records are what the command uses of the record of repartitions.
type records interface {
	Look(context.Context) (partition.Generation, *partition.Repartition, error)
	Next(ctx context.Context, partitions int, queueType string) (partition.Generation, error)
	Begin(context.Context, partition.Generation) error
	GiveUp(ctx context.Context, number int, why string) error
	HeldBack(context.Context) (users int, err error)
}

// NewRepartition returns the command repartition.
func NewRepartition(env *cli.Env) *cobra.Command {
	r := &repartition{env: env}
	c := &cobra.Command{
		Use:   "repartition",
		Short: "change the number of partitions, or the type of their queues",
		Long:  repartitionAbout,
		RunE:  func(c *cobra.Command, _ []string) error { return r.run(c.Context(), c.Name()) },
	}
	cli.JSONFlag(c, &r.asJSON)
	c.Flags().IntVar(&r.partitions, "partitions", 0, "the number of partitions, 1 to 1024; 0 keeps it")
	c.Flags().StringVar(&r.queueType, "queue-type", "", "the `type` of the partition queues: quorum or classic; empty keeps it")
	c.Flags().BoolVar(&r.dryRun, "dry-run", false, "change nothing; only check, and say what would be done")
	c.Flags().BoolVar(&r.abort, "abort", false, "keep the old partitions, if no request was moved yet")
	cli.CompleteFlag(c, "queue-type", config.QueueQuorum, config.QueueClassic)
	return c
}

func (r *repartition) run(ctx context.Context, name string) error {
	if err := r.checkArguments(); err != nil {
		return err
	}
	c, err := config.LoadCommand(r.env.Environ)
	if err != nil {
		return err
	}
	return r.runWith(ctx, c, name)
}

func (r *repartition) checkArguments() error {
	switch {
	case r.partitions < 0 || r.partitions > maxPartitions:
		return cli.Usagef("--partitions must be 1 to %d, not %d", maxPartitions, r.partitions)
	case r.queueType != "" && r.queueType != config.QueueQuorum && r.queueType != config.QueueClassic:
		return cli.Usagef("--queue-type must be quorum or classic, not %q", r.queueType)
	}
	return nil
}

// runWith connects to the database and the broker under a name, and carries the repartition out.
func (r *repartition) runWith(ctx context.Context, c *config.Config, name string) (err error) {
	opening, cancel := context.WithTimeout(ctx, connect.Timeout)
	defer cancel()
	r.settings, r.name = c, name
	options := connect.Store(c, zap.NewNop())
	options.Name, options.MaxConnections = name, 2
	if r.users, err = store.Open(opening, options); err != nil {
		return connect.StoreError(err)
	}
	defer r.users.Close()
	r.records = store.Generations(r.users)
	if r.conn, err = connect.Dial(opening, c, name, r.env.Version); err != nil {
		return err
	}
	defer connect.Close(r.conn)
	begun := time.Now()
	result, err := r.carryOut(ctx)
	if err != nil {
		return classify(r.conn, err)
	}
	return r.print(result, time.Since(begun))
}

// carryOut begins a repartition, unless one is under way, and waits until it is done.
func (r *repartition) carryOut(ctx context.Context) (*partition.Repartition, error) {
	present, latest, err := r.records.Look(ctx)
	if err != nil {
		return nil, err
	}
	if r.abort {
		return latest, r.giveUp(ctx, latest)
	}
	if latest.IsUnderWay() {
		if r.dryRun || r.partitions != 0 && r.partitions != latest.To.Partitions || r.queueType != "" && r.queueType != latest.To.QueueType {
			return nil, fmt.Errorf("a repartition to %s is under way", latest.To)
		}
		return r.watch(ctx, latest.Number)
	}
	planned, err := r.plan(ctx, present)
	if err != nil {
		return nil, err
	}
	if err := r.prepare(ctx, planned); err != nil || r.dryRun {
		return planned, err
	}
	if err := r.records.Begin(ctx, planned.To); err != nil {
		return nil, err
	}
	if err := membership.AskToLook(ctx, r.conn); err != nil {
		fmt.Fprintln(r.env.Stderr, err) // the instances look by themselves, within a second
	}
	_, latest, err = r.records.Look(ctx)
	if err != nil {
		return nil, err
	}
	return r.watch(ctx, latest.Number)
}

// prepare checks that requests can be moved, and declares the new queues unless it is a dry run: nobody
// waits for that. A queue of the present partitions that takes nothing in leaves no new queues behind.
func (r *repartition) prepare(ctx context.Context, planned *partition.Repartition) error {
	ctx, cancel := context.WithTimeout(ctx, prepareTimeout)
	defer cancel()
	if err := r.probe(ctx, planned.From); err != nil || r.dryRun {
		return err
	}
	if err := cluster.DeclareQueues(r.conn, planned.To, zap.NewNop()); err != nil {
		return err
	}
	return r.probe(ctx, planned.To)
}

// probe checks that the queues of a generation take messages in.
func (r *repartition) probe(ctx context.Context, g partition.Generation) error {
	conn, err := connect.Dial(ctx, r.settings, r.name, r.env.Version)
	if err != nil {
		return err
	}
	return cluster.CheckQueues(ctx, conn, g)
}

func (r *repartition) giveUp(ctx context.Context, latest *partition.Repartition) error {
	if !latest.IsUnderWay() {
		return errors.New("no repartition is under way")
	}
	err := r.records.GiveUp(ctx, latest.Number, "an operator has asked for that")
	if errors.Is(err, partition.ErrSuperseded) {
		return errors.New("requests were moved to the new queues already: the repartition is carried out")
	}
	return err
}

// plan checks whether a repartition can begin, and returns it.
func (r *repartition) plan(ctx context.Context, present partition.Generation) (*partition.Repartition, error) {
	ctx, cancel := context.WithTimeout(ctx, prepareTimeout)
	defer cancel()
	to := present
	if r.partitions != 0 {
		to.Partitions = r.partitions
	}
	if r.queueType != "" {
		to.QueueType = r.queueType
	}
	if to == present {
		return nil, fmt.Errorf("the cluster has %s already", present)
	}
	next, err := r.records.Next(ctx, to.Partitions, to.QueueType)
	if err != nil {
		return nil, err
	}
	if err := r.check(ctx, present, next); err != nil {
		return nil, err
	}
	return &partition.Repartition{Phase: planned, From: present, To: next}, nil
}

// planned is the phase of a repartition that was only checked.
const planned partition.Phase = "planned"

// check returns why a repartition cannot begin now, nil if it can.
func (r *repartition) check(ctx context.Context, present, next partition.Generation) error {
	asking, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	reports, err := membership.AskStatus(asking, r.conn)
	if err != nil {
		return err
	}
	replied := make(map[string]bool)
	for _, report := range reports {
		replied[report.Name] = true
		if report.Version != r.env.Version {
			return fmt.Errorf("%s has the version %s, and this program %s: first update all instances", report.Name, report.Version, r.env.Version)
		}
		if report.Parameters.First != present.First {
			return fmt.Errorf("%s does not work with the present partitions yet", report.Name)
		}
	}
	rows, err := r.users.Survey(ctx)
	if err != nil {
		return err
	}
	for _, row := range rows {
		if !row.Released && !replied[row.Holder.Name] {
			return fmt.Errorf("%s holds partitions and does not reply", row.Holder.Name)
		}
	}
	if need, allowed := cluster.ChannelsNeeded(next.Partitions, len(reports)), int(r.conn.Config.ChannelMax); allowed < need {
		return cli.WithStatus(cli.StatusSettings, fmt.Errorf("the broker allows %d channels for each connection (channel_max), and %d are needed for %d partitions", allowed, need, next.Partitions))
	}
	heldBack, err := r.records.HeldBack(ctx)
	if err == nil && heldBack > 0 {
		err = fmt.Errorf("notifications of %d users are held back, which would have to be sent first: see the runbook", heldBack)
	}
	return err
}

// watch shows how far a repartition is until it is done or given up.
func (r *repartition) watch(ctx context.Context, number int) (*partition.Repartition, error) {
	progress := cli.NewProgress(r.env.Stderr, watchInterval, time.Second)
	defer progress.Clear()
	var reported partition.Phase
	for {
		_, latest, err := r.records.Look(ctx)
		switch {
		case err != nil && ctx.Err() != nil:
			return nil, fmt.Errorf("interrupted; the repartition goes on: %w", ctx.Err())
		case err != nil:
			progress.Report("the database does not answer: " + err.Error())
		case latest == nil || latest.Number != number || latest.Phase == partition.Done:
			return latest, nil
		case latest.Phase == partition.GivenUp:
			return nil, fmt.Errorf("the repartition was given up, and the old partitions go on: %s", latest.Note)
		case latest.Phase != reported || progress.Due():
			reported = latest.Phase
			progress.Report(describe(latest))
		}
		if err := wait.For(ctx, watchInterval); err != nil {
			return nil, fmt.Errorf("interrupted; the repartition goes on: %w", err)
		}
	}
}

// describe says in one line how far a repartition is.
func describe(p *partition.Repartition) string {
	text := map[partition.Phase]string{
		partition.Stopping: "1/3 the instances complete their requests and release the old partitions",
		partition.Moving:   fmt.Sprintf("2/3 requests go from the old queues to the new ones: %d moved", p.Moved),
		partition.Clearing: fmt.Sprintf("3/3 the new partitions serve; %d of %d old queues deleted", p.Cleared, p.From.Partitions),
	}[p.Phase]
	if p.Note != "" {
		text += " (" + p.Note + ")"
	}
	return text
}

// repartitioned is the output of repartition --json.
type repartitioned struct {
	Phase    partition.Phase `json:"phase"`
	From     generationJSON  `json:"from"`
	To       generationJSON  `json:"to"`
	Moved    int64           `json:"moved"`
	Attempts int64           `json:"attempts"`
	Seconds  float64         `json:"seconds"`
}

type generationJSON struct {
	First      int    `json:"first"`
	Partitions int    `json:"partitions"`
	QueueType  string `json:"queue_type"`
}

func (r *repartition) print(p *partition.Repartition, took time.Duration) error {
	if r.asJSON {
		return r.env.PrintJSON(repartitioned{p.Phase, generationJSON(p.From), generationJSON(p.To), p.Moved, p.Attempt, took.Seconds()})
	}
	var err error
	switch {
	case r.abort:
		_, err = fmt.Fprintf(r.env.Stdout, "The cluster keeps %s.\n", p.From)
	case p.Phase == planned:
		_, err = fmt.Fprintf(r.env.Stdout, `%s become %s.
The queues %s to %s are made, and %s to %s are emptied and deleted.
All requests wait meanwhile, usually for one to three seconds. Nothing was changed.
`, p.From, p.To, cluster.PartitionQueue(p.To.First), cluster.PartitionQueue(p.To.End()-1),
			cluster.PartitionQueue(p.From.First), cluster.PartitionQueue(p.From.End()-1))
	default:
		_, err = fmt.Fprintf(r.env.Stdout, "The cluster has %s. %d requests were moved, in %.1f s.\n", p.To, p.Moved, took.Seconds())
	}
	return err
}
