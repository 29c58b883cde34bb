// Package bench is the program glotpod-ident-bench. It measures the service in turn
// with an echo and with a plain service, so that a result depends on the machine as
// little as possible.
package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/glotpod/ident/cmd/internal/cli"
	"github.com/glotpod/ident/cmd/internal/devcluster"
	"github.com/glotpod/ident/config"
)

const about = `Measures the service in turn with an echo, a consumer that replies to each request
with the same user. Both run on the same machine and get the same load over the same
connections. The ratio between them is the cost of the service. A second baseline is a
plain service: 32 workers take requests from one queue, and handle each one in a
transaction that locks the row of the user, without caches or promises.

  glotpod-ident-bench --local 1
  glotpod-ident-bench --local 1,3 --cases patch
  glotpod-ident-bench --cases patch,create --in-flight 32 --save before.json
  glotpod-ident-bench compare before.json after.json

With --local it starts instances of glotpod-ident, a RabbitMQ and a durable
PostgreSQL with their data in a temporary folder (see TMPDIR), and removes them at
the end. The tables have 100,000 users more than requests use, added when the
instances have planned their statements. Without --local it measures the cluster in
the settings: it creates users whose email begins with "bench-" and deletes them at
the end; subscribers get notifications for them. It then measures no CPU time, and
measures the database and the plain service only if the database is reachable. The
plain service opens 32 connections to it, and uses copies of these users.

With several numbers of instances, as in --local 1,3, there is a cluster of each, with
a virtual host and a database of its own on the same servers. They are measured in
turn, and the first one is a baseline of the others. The other clusters are idle
meanwhile, which takes a few percent of a core.

In get-client the Go client sends the requests, over one connection. Its baseline raw
is the same load without the client, with the same properties.

The cases get, get-email, patch and create use the shared queue. The cases whose
name ends with -direct use the partition queue of the user. patch-one patches the
same user each time. mix has nine gets for each patch. The plain service serves get,
patch, create and mix, always from one queue.

Statements per commit include BEGIN and COMMIT. They are printed if the database
has the extension pg_stat_statements; with --local it has it if it is installed.

The keys of the JSON document are format, version, started, machine, cluster and cells
(each is one case with one number in flight). "glotpod-ident-bench compare" reads it.

Exit status: 0 also if a target is missed, 1 if a request failed.`

// options are the options of a run.
type options struct {
	local      []int // for each cluster to start, the number of its instances; nil: measure a running cluster
	queueType  string
	partitions int
	inFlight   []int
	cases      []benchCase
	duration   time.Duration // of the measurement of each case with each number in flight
	asJSON     bool
	save       string // a file, "" for none
	keep       bool   // do not delete the users
}

// listOptions are the options that are lists, as they are given.
type listOptions struct {
	local, inFlight, cases string
}

// Name is the name of the program.
const Name = "glotpod-ident-bench"

// Program returns the program glotpod-ident-bench.
func Program(version string) cli.Program {
	return cli.Program{Name: Name, Version: version, New: newRoot}
}

func newRoot(env *cli.Env) *cobra.Command {
	var o options
	var lists listOptions
	root := &cobra.Command{
		Use:   Name,
		Short: "measure glotpod-ident",
		Long:  about,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := o.parse(lists, c.Flags()); err != nil {
				return cli.WithStatus(cli.StatusUsage, err)
			}
			return run(c.Context(), env, o)
		},
	}
	flags := root.Flags()
	flags.StringVar(&lists.local, "local", "", "start this `number` of instances to measure, 1 to 9, or several numbers in turn, as in 1,3")
	flags.StringVar(&o.queueType, "queue-type", config.QueueClassic, "the `type` of the partition queues, quorum or classic, with --local")
	flags.IntVar(&o.partitions, "partitions", 64, "the `number` of partitions, with --local")
	flags.StringVar(&lists.inFlight, "in-flight", "1,128", "the `numbers` of requests in flight to measure with")
	flags.StringVar(&lists.cases, "cases", caseNames(), "the `cases` to measure")
	flags.DurationVar(&o.duration, "duration", 10*time.Second, "how long each case and its baselines are measured with each number in flight")
	cli.JSONFlag(root, &o.asJSON)
	flags.StringVar(&o.save, "save", "", "also write the JSON document to a `file`")
	flags.BoolVar(&o.keep, "keep", false, "do not delete the users that were created")
	cli.CompleteFlag(root, "queue-type", config.QueueQuorum, config.QueueClassic)
	cli.CompleteFlag(root, "cases", strings.Split(caseNames(), ",")...)
	root.AddCommand(newCompare(env), newEcho(env), newPlain(env))
	return root
}

func run(ctx context.Context, env *cli.Env, o options) error {
	ctx, hurry, release := cli.StopSignals(ctx)
	defer release()
	report, err := runBenchmark(ctx, env, o, hurry)
	if err != nil && ctx.Err() != nil {
		return cli.WithStatus(cli.StatusFailure, fmt.Errorf("interrupted: %w", err))
	}
	if err != nil {
		return err
	}
	text, err := report.encode()
	if err == nil && o.save != "" {
		err = os.WriteFile(o.save, text, 0o666)
	}
	if err == nil && o.asJSON {
		_, err = env.Stdout.Write(text)
	} else if err == nil {
		err = report.print(env.Stdout)
	}
	return err
}

// parse sets the options that are lists, and checks all.
func (o *options) parse(lists listOptions, flags *pflag.FlagSet) (err error) {
	if o.cases, err = casesNamed(lists.cases); err != nil {
		return err
	}
	if o.inFlight, err = parseNumbers("in-flight", lists.inFlight, 1<<placeBits); err != nil {
		return err
	}
	if flags.Changed("local") {
		if o.local, err = parseNumbers("local", lists.local, devcluster.MaxInstances); err != nil {
			return err
		}
	}
	return o.check(flags.Changed)
}

// check checks the options. given says whether an option is given.
func (o options) check(given func(name string) bool) error {
	total := 0
	for _, n := range o.local {
		total += n
	}
	switch {
	case total > devcluster.MaxInstances:
		return fmt.Errorf("--local is at most %d instances in all, not %d", devcluster.MaxInstances, total)
	case len(o.local) > len(slices.Compact(slices.Sorted(slices.Values(o.local)))):
		return errors.New("--local has a number twice")
	case !o.isLocal() && (given("queue-type") || given("partitions")):
		return errors.New("--queue-type and --partitions need --local")
	case o.isLocal() && o.keep:
		return errors.New("--keep does not go with --local")
	case o.queueType != config.QueueQuorum && o.queueType != config.QueueClassic:
		return fmt.Errorf("--queue-type is quorum or classic, not %q", o.queueType)
	case o.partitions < 1 || o.partitions > 1024:
		return fmt.Errorf("--partitions is 1 to 1024, not %d", o.partitions)
	case o.duration <= 0:
		return fmt.Errorf("--duration must be positive, not %v", o.duration)
	}
	return nil
}

func (o options) isLocal() bool { return len(o.local) > 0 }

// parseNumbers parses the value of a flag that is a list of numbers from 1 to most.
func parseNumbers(flag, list string, most int) (numbers []int, err error) {
	for text := range strings.SplitSeq(list, ",") {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > most {
			return nil, fmt.Errorf("--%s has numbers from 1 to %d, not %q", flag, most, text)
		}
		numbers = append(numbers, n)
	}
	return numbers, nil
}
