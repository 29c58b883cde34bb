package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/glotpod/ident/deploy/localserver"
)

const (
	// devDatabase is the default of database.postgres.database.
	devDatabase = "glotpod.ident"

	// devLevelVariable is the one setting in the environment that reaches the
	// instances: the others might name a broker or a database that people use.
	devLevelVariable = "GLOTPOD_IDENT__LOG__LEVEL"

	// devMostInstances is how many still have short names in the log, and
	// connections enough to the database.
	devMostInstances = 9
)

func runDev(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	flags := newFlags("dev", stderr, "[--instances n] [--data folder] [--reset] [--log-format format]",
		"Runs some instances with a RabbitMQ and a PostgreSQL of their own, on free ports\n"+
			"of this machine's loopback address, until Ctrl-C. An instance that ends is\n"+
			"started again. The next start finds the data again. A second Ctrl-C ends\n"+
			"everything at once. Of the settings in the environment, only\n"+
			devLevelVariable+" is heeded.")
	instances := flags.Int("instances", 3, "run `n` instances, 1 to 9")
	data := flags.String("data", defaultDevFolder(), "the `folder` for all data")
	reset := flags.Bool("reset", false, "forget all data first, and the encryption key too")
	logFormat := flags.String("log-format", "console", "the `format` of the instances' logs, console or json")
	if status, done := flags.parse(args, 0); done {
		return status
	}
	if *instances < 1 || *instances > devMostInstances {
		fmt.Fprintf(stderr, "glotpod-ident dev: --instances is 1 to %d, not %d\n", devMostInstances, *instances)
		return exitUsage
	}
	if *logFormat != "console" && *logFormat != "json" {
		fmt.Fprintf(stderr, "glotpod-ident dev: --log-format is console or json, not %q\n", *logFormat)
		return exitUsage
	}
	folder, err := openDevFolder(*data)
	if err != nil {
		return fail(stderr, err)
	}
	defer folder.close()
	if *reset {
		if err := folder.reset(); err != nil {
			return fail(stderr, err)
		}
	}

	ctx, hurry, release := devSignals(ctx)
	defer release()
	ports := claimDevPorts()
	defer ports.close()
	d := &dev{folder: folder, ports: ports, logFormat: *logFormat, console: newDevConsole(), stdout: stdout, stderr: stderr}
	defer d.console.close()
	for i := range *instances {
		d.instances = append(d.instances, &devInstance{dev: d, name: devInstanceName(i)})
	}
	err = d.run(ctx)
	if ctx.Err() != nil {
		err = nil // it was asked to stop; what that interrupted does not matter
	}
	if err != nil {
		d.complain(err)
	}
	if stopErr := d.stop(hurry); stopErr != nil {
		d.complain(stopErr)
		err = stopErr
	}
	d.say("Stopped. The data stays in %s.", folder.path)
	if err != nil {
		return exitFailure
	}
	return exitOK
}

// devSignals returns a context that ends with the first signal to stop, and a
// channel that is closed with the second.
func devSignals(parent context.Context) (ctx context.Context, hurry <-chan struct{}, release func()) {
	ctx, cancel := context.WithCancel(parent)
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	second := make(chan struct{})
	released, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for _, act := range []func(){cancel, func() { close(second) }} {
			select {
			case <-signals:
				act()
			case <-released:
				return
			}
		}
	}()
	return ctx, second, func() {
		signal.Stop(signals)
		close(released)
		<-ended
		cancel()
	}
}

// dev is a cluster of instances with a broker and a database of its own.
type dev struct {
	folder    *devFolder
	ports     *devPorts
	logFormat string
	console   *devConsole
	stdout    io.Writer // to be written to by the console
	stderr    io.Writer // likewise
	instances []*devInstance

	// What has been started; nil before.
	rabbitmq *localserver.RabbitMQ
	postgres *localserver.Postgres
}

// run starts everything, says where it is, and returns when ctx is done or one
// of the servers ends by itself. What it has started is left for stop.
func (d *dev) run(ctx context.Context) error {
	d.say("Starting RabbitMQ and PostgreSQL with their data in %s.", d.folder.path)
	if err := d.startServers(ctx); err != nil {
		return err
	}
	if err := d.createDatabase(ctx); err != nil {
		return fmt.Errorf("create the database: %w", err)
	}
	if err := d.folder.writeSettings(d.rabbitmq, d.postgres, d.logFormat); err != nil {
		return fmt.Errorf("write the settings: %w", err)
	}
	if err := d.migrate(ctx); err != nil {
		return err
	}
	if err := d.startInstances(ctx); err != nil {
		return err
	}
	d.explain()
	return d.keepRunning(ctx)
}

// keepRunning starts again each instance that ends, until ctx is done or one of
// the servers ends.
func (d *dev) keepRunning(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var keepers sync.WaitGroup
	defer keepers.Wait()
	defer cancel()
	for _, i := range d.instances {
		keepers.Go(func() { i.keep(ctx) })
	}
	select {
	case <-ctx.Done():
		return nil
	case <-d.rabbitmq.Done():
		return d.rabbitmq.Err()
	case <-d.postgres.Done():
		return d.postgres.Err()
	}
}

// stop ends what has been started, in order or, once hurry is closed, at once.
func (d *dev) stop(hurry <-chan struct{}) error {
	end := func(name string, stop func() error, kill func()) error {
		d.say("Stopping %s.", name)
		stopped := make(chan error, 1)
		go func() { stopped <- stop() }()
		select {
		case err := <-stopped:
			return err
		case <-hurry:
			kill()
			return <-stopped
		}
	}
	var errs []error
	if len(d.started()) > 0 {
		errs = append(errs, end("the instances", d.stopInstances, d.killInstances))
	}
	if r := d.rabbitmq; r != nil {
		errs = append(errs, end("RabbitMQ, which takes some seconds", r.Stop, r.Kill))
	}
	if p := d.postgres; p != nil {
		errs = append(errs, end("PostgreSQL", p.Stop, p.Kill))
	}
	return errors.Join(errs...)
}

// say tells people something, on a line of its own.
func (d *dev) say(format string, args ...any) {
	d.console.print(d.stdout, fmt.Sprintf(format+"\n", args...))
}

func (d *dev) complain(err error) {
	d.console.print(d.stderr, fmt.Sprintf("glotpod-ident dev: %v\n", err))
}

// timed takes a step, and says from time to time and in the end how long that
// takes.
func (d *dev) timed(name string, step func() error) error {
	begin := time.Now()
	result := make(chan error, 1)
	go func() { result <- step() }()
	tick := time.NewTicker(5 * time.Second)
	defer tick.Stop()
	for {
		select {
		case err := <-result:
			if err == nil {
				d.say("%s is ready after %.1f s.", name, time.Since(begin).Seconds())
			}
			return err
		case <-tick.C:
			d.say("%s is still starting (%.0f s).", name, time.Since(begin).Seconds())
		}
	}
}
