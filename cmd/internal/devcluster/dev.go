package devcluster

import (
	"cmp"
	"context"
	"sync"

	"github.com/spf13/cobra"

	"github.com/glotpod/ident/cmd/internal/cli"
	"github.com/glotpod/ident/config"
)

const about = `Runs some instances with a RabbitMQ and a PostgreSQL of their own, on free ports
of the loopback address of this machine, until Ctrl-C. An instance that ends is
restarted. The next run uses the same data. A second Ctrl-C kills everything.
Of the settings in the environment, only ` + levelVariable + ` is used.`

// devOptions are the options of the program.
type devOptions struct {
	instances int
	folder    string
	reset     bool
	logFormat string
}

func newRoot(env *cli.Env) *cobra.Command {
	var o devOptions
	root := &cobra.Command{
		Use:   Name,
		Short: "run a cluster of glotpod-ident on this machine",
		Long:  about,
		RunE:  func(c *cobra.Command, _ []string) error { return run(c.Context(), env, o) },
	}
	root.Flags().IntVar(&o.instances, "instances", 3, "run `n` instances, 1 to 9")
	root.Flags().StringVar(&o.folder, "data", "", "the `folder` for all data (default: /var/lib/glotpod-ident/dev for root, else glotpod-ident/dev in $XDG_STATE_HOME or ~/.local/state)")
	root.Flags().BoolVar(&o.reset, "reset", false, "delete all data first, the encryption key too")
	root.Flags().StringVar(&o.logFormat, "log-format", config.LogConsole, "the `format` of the instances' logs, console or json")
	cli.CompleteFlag(root, "log-format", config.LogConsole, config.LogJSON)
	return root
}

func run(ctx context.Context, env *cli.Env, o devOptions) error {
	if err := o.check(); err != nil {
		return err
	}
	program, err := FindProgram()
	if err != nil {
		return err
	}
	c, err := Open(Options{
		Program:   program,
		Folder:    cmp.Or(o.folder, defaultFolder()),
		Instances: o.instances,
		LogFormat: o.logFormat,
		Metrics:   true,
		Environ:   env.Environ,
		Stdout:    env.Stdout,
		Stderr:    env.Stderr,
	})
	if err != nil {
		return err
	}
	defer c.Close()
	if o.reset {
		if err := c.folder.reset(); err != nil {
			return err
		}
	}
	ctx, hurry, release := cli.StopSignals(ctx)
	defer release()
	err = c.run(ctx)
	if ctx.Err() != nil {
		err = nil // a signal asked it to stop, which may have interrupted a start
	}
	if err != nil {
		c.printError(err)
	}
	if stopErr := c.stop(hurry); stopErr != nil {
		c.printError(stopErr)
		err = stopErr
	}
	c.say("Stopped. The data stays in %s.", c.folder.path)
	if err != nil {
		return cli.WithStatus(cli.StatusFailure, nil)
	}
	return nil
}

func (o devOptions) check() error {
	switch {
	case o.instances < 1 || o.instances > MaxInstances:
		return cli.Usagef("--instances must be 1 to %d, not %d", MaxInstances, o.instances)
	case o.logFormat != config.LogConsole && o.logFormat != config.LogJSON:
		return cli.Usagef("--log-format must be console or json, not %q", o.logFormat)
	}
	return nil
}

// run starts everything, explains how to use it, and returns when ctx is done or one
// of the servers ends by itself. It stops nothing.
func (c *Cluster) run(ctx context.Context) error {
	c.say("Starting RabbitMQ and PostgreSQL with their data in %s.", c.folder.path)
	if err := c.StartServers(ctx); err != nil {
		return err
	}
	if err := c.StartInstances(ctx); err != nil {
		return err
	}
	c.explain()
	return c.keepRunning(ctx)
}

// keepRunning restarts each instance that ends, until ctx is done or one of the
// servers ends.
func (c *Cluster) keepRunning(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var keepers sync.WaitGroup
	defer keepers.Wait()
	defer cancel()
	for _, i := range c.instances {
		keepers.Go(func() { i.keepRunning(ctx) })
	}
	select {
	case <-ctx.Done():
		return nil
	case <-c.rabbitmq.Done():
		return c.rabbitmq.Err()
	case <-c.postgres.Done():
		return c.postgres.Err()
	}
}
