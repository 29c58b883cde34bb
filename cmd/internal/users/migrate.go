package users

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"github.com/glotpod/ident/cmd/internal/cli"
	"github.com/glotpod/ident/cmd/internal/connect"
	"github.com/glotpod/ident/config"
	"github.com/glotpod/ident/store"
)

// NewMigrate returns the command migrate.
func NewMigrate(env *cli.Env) *cobra.Command {
	var check, asJSON bool
	c := &cobra.Command{
		Use:   "migrate",
		Short: "migrate the schema of the database",
		Long: `Migrates the schema of the database to the version of this program. The database
may be empty, of an older version, or of the Python service. A schema that is up
to date is not changed.

The keys of the JSON document are schema (the version of the database's schema), wanted
(that of this program), current (whether instances of this program can run with it) and
applied (the migrations that were applied, each with version and name).

Exit status: 0 if this program works with the schema; with --check, 78 if the schema
must be migrated.`,
		RunE: func(c *cobra.Command, _ []string) error { return runMigrate(c.Context(), env, check, asJSON) },
	}
	cli.JSONFlag(c, &asJSON)
	c.Flags().BoolVar(&check, "check", false, "change nothing; end with status 78 if the schema must be migrated")
	return c
}

// A migration is the output of migrate --json.
type migration struct {
	Schema  int       `json:"schema"`
	Wanted  int       `json:"wanted"`
	Current bool      `json:"current"`
	Applied []applied `json:"applied"`
}

type applied struct {
	Version int    `json:"version"`
	Name    string `json:"name"`
}

func runMigrate(ctx context.Context, env *cli.Env, check, asJSON bool) error {
	c, err := config.LoadCommand(env.Environ)
	if err != nil {
		return err
	}
	progress := env.Stdout
	if asJSON {
		progress = io.Discard
	}
	m, err := migrate(ctx, c, check, progress)
	mismatch, differs := errors.AsType[*store.SchemaError](err)
	if differs {
		m.Schema = mismatch.Have
	}
	if asJSON && (err == nil || differs) {
		if err := env.PrintJSON(m); err != nil {
			return err
		}
	}
	if err != nil || asJSON {
		return err
	}
	if m.Schema > m.Wanted {
		_, err = fmt.Fprintf(env.Stdout, "the schema has version %d, which is newer than version %d of this program but compatible\n", m.Schema, m.Wanted)
		return err
	}
	_, err = fmt.Fprintf(env.Stdout, "the schema is up to date: version %d\n", m.Schema)
	return err
}

// migrate migrates the schema or, if check is set, only checks it.
func migrate(ctx context.Context, c *config.Config, check bool, progress io.Writer) (m migration, err error) {
	m = migration{Wanted: store.SchemaVersion(), Applied: []applied{}}
	conn, err := store.Connect(ctx, connect.Store(c, zap.NewNop()))
	if err != nil {
		return m, connect.StoreError(err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if check {
		m.Schema, err = store.CheckSchema(ctx, conn)
	} else {
		m.Schema, err = store.Migrate(ctx, conn, func(version int, name string) {
			m.Applied = append(m.Applied, applied{version, name})
			fmt.Fprintf(progress, "applying migration %d: %s\n", version, name)
		})
	}
	m.Current = err == nil
	return m, err
}
