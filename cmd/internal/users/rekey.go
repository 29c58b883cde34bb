package users

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"
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

The keys of the JSON document are dry_run, done, passes, access_tokens and notifications
(each with the numbers read, resealed, stale and unreadable), and unreadable (each with
user_id, and service or notification_id).

Exit status: 0 if all values are encrypted with the first key or, with --dry-run,
with any key; 1 if some are not, or rekey was interrupted.`

// NewRekey returns the command rekey.
func NewRekey(env *cli.Env) *cobra.Command {
	var asJSON bool
	var o store.RekeyOptions
	c := &cobra.Command{
		Use:   "rekey",
		Short: "encrypt all access tokens with the first encryption key",
		Long:  rekeyAbout,
		RunE:  func(c *cobra.Command, _ []string) error { return runRekey(c.Context(), env, o, asJSON) },
	}
	cli.JSONFlag(c, &asJSON)
	c.Flags().BoolVar(&o.DryRun, "dry-run", false, "change nothing; only count")
	c.Flags().IntVar(&o.Rate, "rate", 1000, "encrypt at most `n` rows per second and read at most ten times as many; 0 means no limit")
	c.Flags().IntVar(&o.Batch, "batch", 200, "read and write `n` rows at a time, 1 to 10000")
	return c
}

func runRekey(ctx context.Context, env *cli.Env, o store.RekeyOptions, asJSON bool) error {
	switch {
	case o.Rate < 0:
		return cli.Usagef("--rate must be at least 0, not %d", o.Rate)
	case o.Batch < 1 || o.Batch > 10_000:
		return cli.Usagef("--batch must be 1 to 10000, not %d", o.Batch)
	}
	c, err := config.LoadCommand(env.Environ)
	if err != nil {
		return err
	}
	progress := newRekeyProgress(env.Stderr)
	o.Progress = progress.at
	report, err := rekey(ctx, c, o)
	progress.clear()

	r := &rekeyReport{RekeyReport: report, dryRun: o.DryRun, interrupted: err != nil && ctx.Err() != nil}
	if report.Passes > 0 {
		if err := r.print(env, asJSON); err != nil {
			return err
		}
	}
	switch {
	case err != nil && !r.interrupted:
		return err
	case !r.succeeded() || err != nil:
		return cli.WithStatus(cli.StatusFailure, nil)
	}
	return nil
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
