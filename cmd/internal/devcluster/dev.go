package devcluster

import (
	"context"
	"fmt"
	"sync"

	"github.com/glotpod/ident/cmd/internal/cli"
	"github.com/glotpod/ident/config"
)

const about = `Runs some instances with a RabbitMQ and a PostgreSQL of their own, on free ports
of the loopback address of this machine, until Ctrl-C. An instance that ends is
restarted. The next run uses the same data. A second Ctrl-C kills everything.
Of the settings in the environment, only ` + levelVariable + ` is used.`

func run(ctx context.Context, env *cli.Env, args []string) int {
	o, reset, status, done := parse(env, args)
	if done {
		return status
	}
	var err error
	if o.Program, err = FindProgram(); err != nil {
		return env.Fail(err)
	}
	c, err := Open(o)
	if err != nil {
		return env.Fail(err)
	}
	defer c.Close()
	if reset {
		if err := c.folder.reset(); err != nil {
			return env.Fail(err)
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
		return cli.StatusFailure
	}
	return cli.StatusOK
}

func parse(env *cli.Env, args []string) (o Options, reset bool, status int, done bool) {
	flags := env.NewFlags("[--instances n] [--data folder] [--reset] [--log-format format]", about)
	o = Options{Metrics: true, Environ: env.Environ, Stdout: env.Stdout, Stderr: env.Stderr}
	flags.IntVar(&o.Instances, "instances", 3, "run `n` instances, 1 to 9")
	flags.StringVar(&o.Folder, "data", defaultFolder(), "the `folder` for all data")
	flags.BoolVar(&reset, "reset", false, "delete all data first, the encryption key too")
	flags.StringVar(&o.LogFormat, "log-format", config.LogConsole, "the `format` of the instances' logs, console or json")
	if status, done := flags.Parse(args, 0); done {
		return o, false, status, true
	}
	if o.Instances < 1 || o.Instances > MaxInstances {
		return o, false, flags.Wrong(fmt.Errorf("--instances is 1 to %d, not %d", MaxInstances, o.Instances)), true
	}
	if o.LogFormat != config.LogConsole && o.LogFormat != config.LogJSON {
		return o, false, flags.Wrong(fmt.Errorf("--log-format is console or json, not %q", o.LogFormat)), true
	}
	return o, reset, cli.StatusOK, false
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
