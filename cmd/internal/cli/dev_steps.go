package cli

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/glotpod/ident/config"
	"github.com/glotpod/ident/deploy/localserver"
)

// startServers starts both at once, as each takes its time.
func (d *dev) startServers(ctx context.Context) error {
	starts, ctx := errgroup.WithContext(ctx)
	starts.Go(func() error {
		return d.timed("PostgreSQL", func() (err error) {
			d.postgres, err = localserver.StartPostgres(ctx, localserver.PostgresOptions{Dir: d.folder.postgres(), Durable: true})
			return err
		})
	})
	starts.Go(func() error {
		return d.timed("RabbitMQ", func() (err error) {
			d.rabbitmq, err = localserver.StartRabbitMQ(ctx, localserver.RabbitMQOptions{Dir: d.folder.rabbitmq(), Metrics: true})
			return err
		})
	})
	return starts.Wait()
}

// createDatabase makes the instances' database if there is none.
func (d *dev) createDatabase(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, d.postgres.URL("postgres"))
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	var exists bool
	err = conn.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)", devDatabase).Scan(&exists)
	if err != nil || exists {
		return err
	}
	_, err = conn.Exec(ctx, "CREATE DATABASE "+pgx.Identifier{devDatabase}.Sanitize())
	return err
}

func (d *dev) migrate(ctx context.Context) error {
	run, err := d.launch("migrate", "migrate")
	if err != nil {
		return err
	}
	select {
	case <-run.Exited():
	case <-ctx.Done():
		run.Kill()
		return ctx.Err()
	}
	if status := run.Status(); !status.Success() {
		return fmt.Errorf("migrate failed (%v)", status)
	}
	return nil
}

// startInstances starts all at once, and returns when each is ready.
func (d *dev) startInstances(ctx context.Context) error {
	for i, address := range d.ports.addresses(len(d.instances)) {
		d.instances[i].http = address
	}
	starts, ctx := errgroup.WithContext(ctx)
	for _, i := range d.instances {
		starts.Go(func() error {
			return d.timed(i.name, func() error {
				if err := i.launch(); err != nil {
					return err
				}
				if !i.becomesReady(ctx) {
					if ctx.Err() != nil {
						return ctx.Err()
					}
					return fmt.Errorf("%s ended before it was ready (%v)", i.name, i.run.Status())
				}
				return nil
			})
		})
	}
	return starts.Wait()
}

// launch starts this program with another command, on the folder's settings and
// what variables change of them. Its output has each line begin with name.
func (d *dev) launch(name, command string, variables ...string) (*devProcess, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(program, command)
	for _, entry := range os.Environ() {
		if !strings.HasPrefix(entry, "GLOTPOD_IDENT__") || strings.HasPrefix(entry, devLevelVariable+"=") {
			cmd.Env = append(cmd.Env, entry)
		}
	}
	cmd.Env = append(cmd.Env, config.SettingsVariable+"="+d.folder.settings())
	cmd.Env = append(cmd.Env, variables...)
	cmd.Stdout = d.console.lines(d.stdout, name+" | ")
	cmd.Stderr = d.console.lines(d.stderr, name+" | ")
	p, err := localserver.Launch(cmd, syscall.SIGTERM)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	return &devProcess{Process: p, child: cmd.Process}, nil
}

// A devProcess is a run of this program.
type devProcess struct {
	*localserver.Process
	child *os.Process
}
