package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/glotpod/ident/config"
	"github.com/glotpod/ident/deploy/localserver"
)

// A benchCluster is a cluster with a broker and a durable database of its own,
// in a temporary folder.
type benchCluster struct {
	dev *dev
	dir string
}

// startBenchCluster starts so many instances. The cluster is to be stopped also
// when that fails, unless it is nil.
func startBenchCluster(ctx context.Context, o benchOptions, stderr io.Writer, progress *progressLine) (*benchCluster, error) {
	dir, err := os.MkdirTemp("", "glotpod-ident-bench-")
	if err != nil {
		return nil, err
	}
	d := &dev{ports: claimDevPorts(), logFormat: config.LogConsole, console: newDevConsole(), stdout: io.Discard, stderr: stderr}
	c := &benchCluster{dev: d, dir: dir}
	if os.Geteuid() == 0 {
		if err := os.Chmod(dir, 0o711); err != nil { // for PostgreSQL's user
			return c, err
		}
	}
	if d.folder, err = openDevFolder(filepath.Join(dir, "data")); err != nil {
		return c, err
	}
	progress.show("starting RabbitMQ and PostgreSQL in %s", dir)
	if err := c.startServers(ctx); err != nil {
		return c, err
	}
	if err := d.createDatabase(ctx); err != nil {
		return c, fmt.Errorf("create the database: %w", err)
	}
	if err := d.folder.writeSettings(d.rabbitmq, d.postgres, d.logFormat); err != nil {
		return c, fmt.Errorf("write the settings: %w", err)
	}
	if err := d.migrate(ctx); err != nil {
		return c, err
	}
	progress.show("starting %d instances", o.local)
	return c, c.startInstances(ctx, o)
}

func (c *benchCluster) startServers(ctx context.Context) error {
	starts, ctx := errgroup.WithContext(ctx)
	starts.Go(func() (err error) {
		c.dev.postgres, err = localserver.StartPostgres(ctx, localserver.PostgresOptions{Dir: c.dev.folder.postgres(), Durable: true})
		return err
	})
	starts.Go(func() (err error) {
		c.dev.rabbitmq, err = localserver.StartRabbitMQ(ctx, localserver.RabbitMQOptions{Dir: c.dev.folder.rabbitmq()})
		return err
	})
	return starts.Wait()
}

// startInstances starts all at once, and returns when each is ready.
func (c *benchCluster) startInstances(ctx context.Context, o benchOptions) error {
	starts, ctx := errgroup.WithContext(ctx)
	for n, address := range c.dev.ports.addresses(o.local) {
		i := &devInstance{dev: c.dev, name: devInstanceName(n), http: address}
		c.dev.instances = append(c.dev.instances, i)
		starts.Go(func() (err error) {
			variables := []string{devInstanceVariable + "=" + i.name, devListenVariable + "=" + i.http, devLevelVariable + "=warn"}
			if i.run, err = c.dev.launch(i.name, "serve", append(variables, o.variables()...)...); err != nil {
				return err
			}
			if i.becomesReady(ctx) {
				return nil
			}
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return fmt.Errorf("%s ended before it was ready (%v)", i.name, i.run.Status())
		})
	}
	return starts.Wait()
}

// variables are the settings of a cluster that is started.
func (o benchOptions) variables() []string {
	return []string{
		"GLOTPOD_IDENT__CLUSTER__PARTITIONS=" + strconv.Itoa(o.partitions),
		"GLOTPOD_IDENT__CLUSTER__QUEUE_TYPE=" + o.queueType,
	}
}

// environ returns the settings by which the cluster is found.
func (c *benchCluster) environ(o benchOptions) []string {
	return append(withoutSettings(os.Environ()), append(o.variables(), config.SettingsVariable+"="+c.dev.folder.settings())...)
}

// processes returns the instances'.
func (c *benchCluster) processes() (pids []int) {
	for _, i := range c.dev.instances {
		pids = append(pids, i.run.child.Pid)
	}
	return pids
}

// stop ends everything at once, since the data goes too.
func (c *benchCluster) stop() error {
	c.dev.killInstances()
	if r := c.dev.rabbitmq; r != nil {
		r.Kill()
	}
	if p := c.dev.postgres; p != nil {
		p.Kill()
	}
	c.dev.console.close()
	c.dev.ports.close()
	if c.dev.folder != nil {
		c.dev.folder.close()
	}
	if err := os.RemoveAll(c.dir); err != nil {
		return errors.Join(errors.New("the temporary data could not be removed"), err)
	}
	return nil
}

// withoutSettings leaves out of an environment what would change settings: they
// might name a broker or a database that people use.
func withoutSettings(environ []string) (others []string) {
	for _, entry := range environ {
		if !strings.HasPrefix(entry, "GLOTPOD_IDENT__") && !strings.HasPrefix(entry, config.SettingsVariable+"=") {
			others = append(others, entry)
		}
	}
	return others
}
