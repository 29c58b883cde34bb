package users

import (
	"context"
	"fmt"
	"io"

	"go.uber.org/zap"

	"github.com/glotpod/ident/cmd/internal/cli"
	"github.com/glotpod/ident/cmd/internal/connect"
	"github.com/glotpod/ident/config"
	"github.com/glotpod/ident/store"
)

// Migrate is the command migrate.
var Migrate = cli.Command{Name: "migrate", Summary: "migrate the schema of the database", Run: runMigrate}

func runMigrate(ctx context.Context, env *cli.Env, args []string) int {
	flags := env.NewFlags("[--check]",
		"Migrates the schema of the database to the version of this program. The database\nmay be empty, of an older version, or of the Python service. A schema that is up\nto date is not changed.")
	check := flags.Bool("check", false, "change nothing; end with status 78 if the schema must be migrated")
	if status, done := flags.Parse(args, 0); done {
		return status
	}
	c, err := config.Load(env.Environ)
	if err != nil {
		return env.Fail(err)
	}
	if err := migrate(ctx, c, *check, env.Stdout); err != nil {
		return env.Fail(err)
	}
	return cli.StatusOK
}

func migrate(ctx context.Context, c *config.Config, check bool, stdout io.Writer) error {
	conn, err := store.Connect(ctx, connect.Store(c, zap.NewNop()))
	if err != nil {
		return connect.StoreError(err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	var version int
	if check {
		version, err = store.CheckSchema(ctx, conn)
	} else {
		version, err = store.Migrate(ctx, conn, func(version int, name string) {
			fmt.Fprintf(stdout, "applying migration %d: %s\n", version, name)
		})
	}
	if err != nil {
		return err
	}
	if want := store.SchemaVersion(); version > want {
		fmt.Fprintf(stdout, "the schema has version %d, which is newer than version %d of this program but compatible\n", version, want)
		return nil
	}
	fmt.Fprintf(stdout, "the schema is up to date: version %d\n", version)
	return nil
}
