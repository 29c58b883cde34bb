package users

import (
	"context"
	"errors"
	"fmt"

	"go.uber.org/zap"

	"github.com/glotpod/ident/cluster/wait"
	"github.com/glotpod/ident/cmd/internal/cli"
	"github.com/glotpod/ident/cmd/internal/connect"
	"github.com/glotpod/ident/config"
	"github.com/glotpod/ident/store"
)

const rekeyAbout = `Encrypts all access tokens in the database, and the notifications to be sent that
contain any, with the first key of database.encryption_key. The other keys of the
list decrypt them. Then the other keys can be removed. Before, each instance must
run with the new key as the first.

The service can run at the same time. Values that are encrypted with the first key
are only read, so that rekey can be interrupted and run again. It makes passes over
the tables until nothing is left to do.

Values that no key decrypts are listed and not changed. With --dry-run nothing is
changed: rekey counts the values of each key and finds those that no key decrypts.

Exit status: 0 if all values are encrypted with the first key or, with --dry-run,
with any key; 1 if some are not, or rekey was interrupted; 78 if the settings or
the schema are wrong; 129 if PostgreSQL is unreachable.`

// Rekey is the command rekey.
var Rekey = cli.Command{Name: "rekey", Summary: "encrypt all access tokens with the first encryption key", Run: runRekey}

func runRekey(ctx context.Context, env *cli.Env, args []string) int {
	flags := env.NewFlags("[--dry-run] [--rate n] [--batch n] [--json]", rekeyAbout)
	dryRun := flags.Bool("dry-run", false, "change nothing; only count")
	rate := flags.Int("rate", 1000, "encrypt at most `n` rows per second and read at most ten times as many; 0 means no limit")
	batch := flags.Int("batch", 200, "read and write `n` rows at a time, 1 to 10000")
	asJSON := flags.Bool("json", false, "print one JSON document, for programs")
	if status, done := flags.Parse(args, 0); done {
		return status
	}
	if *rate < 0 || *batch < 1 || *batch > 10_000 {
		return flags.Wrong(errors.New("--rate must be at least 0 and --batch must be 1 to 10000"))
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
			return env.Fail(fmt.Errorf("print the report: %w", err))
		}
	}
	switch {
	case err == nil && r.succeeded():
		return cli.StatusOK
	case err != nil && !r.interrupted:
		return env.Fail(err)
	}
	return cli.StatusFailure
}

// rekey opens the database and rekeys it.
func rekey(ctx context.Context, c *config.Config, o store.RekeyOptions) (store.RekeyReport, error) {
	opening, cancel := context.WithTimeout(ctx, connect.Timeout)
	defer cancel()
	options := connect.Store(c, zap.NewNop())
	options.Name, options.MaxConnections = "rekey", 2
	users, err := store.Open(opening, options)
	if err != nil {
		if ctx.Err() == nil && cli.StatusOf(err) != cli.StatusSettings {
			err = fmt.Errorf("%w: %w", wait.ErrUnreachable, err)
		}
		return store.RekeyReport{}, err
	}
	defer users.Close()
	report, err := users.Rekey(ctx, o)
	if err != nil && ctx.Err() == nil {
		asking, cancel := context.WithTimeout(ctx, connect.Timeout)
		defer cancel()
		if users.Ping(asking) != nil {
			err = fmt.Errorf("%w: %w", wait.ErrUnreachable, err)
		}
	}
	return report, err
}
