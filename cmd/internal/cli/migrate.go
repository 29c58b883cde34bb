package cli

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"

	"github.com/glotpod/ident/cluster"
	"github.com/glotpod/ident/config"
	"github.com/glotpod/ident/store"
)

func runMigrate(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	flags := newFlags("migrate", stderr, "[--check]",
		"Brings the database's schema up to date: an empty database, an older one, or\none that the Python service filled. What is up to date is left alone.")
	check := flags.Bool("check", false, "change nothing; end with status 78 where there is something to be done")
	if status, done := flags.parse(args, 0); done {
		return status
	}
	c, err := config.Load(os.Environ())
	if err != nil {
		return fail(stderr, err)
	}
	if err := migrate(ctx, c, *check, stdout); err != nil {
		return fail(stderr, err)
	}
	return exitOK
}

func migrate(ctx context.Context, c *config.Config, check bool, stdout io.Writer) error {
	pool, err := store.PoolConfig(storeOptions(c, zap.NewNop()))
	if err != nil {
		return err
	}
	conn, err := pgx.ConnectConfig(ctx, pool.ConnConfig)
	if err != nil {
		return fmt.Errorf("%w: %w", cluster.ErrUnreachable, err)
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
		fmt.Fprintf(stdout, "the schema is newer than this program's version %d, which works with it: version %d\n", want, version)
		return nil
	}
	fmt.Fprintf(stdout, "the schema is up to date: version %d\n", version)
	return nil
}
