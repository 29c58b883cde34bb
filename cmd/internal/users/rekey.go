package users

import (
	"context"
	"errors"
	"fmt"

	"go.uber.org/zap"

	"github.com/glotpod/ident/cluster"
	"github.com/glotpod/ident/cmd/internal/cli"
	"github.com/glotpod/ident/cmd/internal/connect"
	"github.com/glotpod/ident/config"
	"github.com/glotpod/ident/store"
)

const rekeyAbout = `Seals all access tokens in the database by the first key of
database.encryption_key, and the notifications in the outbox that hold any, as far
as another key of that list opens them. Then the other keys can be removed. Before,
every instance has to run with the new key as the first.

The service goes on meanwhile. What is sealed by the first key already is only
read, so this may be interrupted, and run again to go on. It goes through
everything until there is nothing left to do.

What no key opens is listed, and left as it is. With --dry-run nothing is changed:
it counts what is sealed by which key, and finds what none opens.

Ends with status 0 when all that is stored is sealed by the first key or, with
--dry-run, by any; 1 when something is not, or this was interrupted; 78 when the
settings or the schema are wrong; 129 when PostgreSQL is out of reach.`

// Rekey is the command rekey.
var Rekey = cli.Command{Name: "rekey", Summary: "seal all access tokens by the first encryption key", Run: runRekey}

func runRekey(ctx context.Context, env *cli.Env, args []string) int {
	flags := env.NewFlags("[--dry-run] [--rate n] [--batch n] [--json]", rekeyAbout)
	dryRun := flags.Bool("dry-run", false, "change nothing; only count")
	rate := flags.Int("rate", 1000, "re-seal at most `n` rows a second, and read ten times as many; 0 is no limit")
	batch := flags.Int("batch", 200, "read and write `n` rows at a time, 1 to 10000")
	asJSON := flags.Bool("json", false, "print one JSON document, for programs")
	if status, done := flags.Parse(args, 0); done {
		return status
	}
	if *rate < 0 || *batch < 1 || *batch > 10_000 {
		return flags.Wrong(errors.New("--rate is at least 0, and --batch is 1 to 10000"))
	}
	c, err := config.Load(env.Environ)
	if err != nil {
		return env.Fail(err)
	}
	progress := newRekeyProgress(env.Stderr)
	report, err := rekey(ctx, c, store.RekeyOptions{DryRun: *dryRun, Rate: *rate, Batch: *batch, Progress: progress.at})
	progress.clear()

	r := &rekeyReport{RekeyReport: report, dryRun: *dryRun, interrupted: err != nil && ctx.Err() != nil}
	if report.Passes > 0 {
		printReport := r.print
		if *asJSON {
			printReport = r.printJSON
		}
		if err := printReport(env.Stdout); err != nil {
			return env.Fail(fmt.Errorf("printing the report: %w", err))
		}
	}
	switch {
	case err == nil && r.good():
		return cli.StatusOK
	case err != nil && !r.interrupted:
		return env.Fail(err)
	}
	return cli.StatusFailure
}

// rekey opens the database and has it rekeyed.
func rekey(ctx context.Context, c *config.Config, o store.RekeyOptions) (store.RekeyReport, error) {
	opening, cancel := context.WithTimeout(ctx, connect.Timeout)
	defer cancel()
	options := connect.Store(c, zap.NewNop())
	options.Name, options.MaxConnections = "rekey", 2
	users, err := store.Open(opening, options)
	if err != nil {
		if ctx.Err() == nil && cli.StatusOf(err) != cli.StatusSettings {
			err = fmt.Errorf("%w: %w", cluster.ErrUnreachable, err)
		}
		return store.RekeyReport{}, err
	}
	defer users.Close()
	report, err := users.Rekey(ctx, o)
	if err != nil && ctx.Err() == nil {
		asking, cancel := context.WithTimeout(ctx, connect.Timeout)
		defer cancel()
		if users.Ping(asking) != nil {
			err = fmt.Errorf("%w: %w", cluster.ErrUnreachable, err)
		}
	}
	return report, err
}
