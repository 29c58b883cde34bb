package main

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

	"github.com/glotpod/ident/deploy/private"
)

const (
	// devDatabase is the default of database.postgres.database.
	devDatabase = "glotpod.ident"

	// devLevelVariable is the one setting in the environment that reaches the
	// instance: the others might name a broker or a database that people use.
	devLevelVariable = "GLOTPOD_IDENT__LOG__LEVEL"

	// devDrainTimeout is far more than an instance takes that ends in order.
	devDrainTimeout = 15 * time.Minute
)

func runDev(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	flags := newFlags("dev", stderr, "[--data folder] [--reset] [--log-format format]",
		"Runs an instance with a RabbitMQ and a PostgreSQL of its own, on free ports of\n"+
			"this machine's loopback address, until Ctrl-C. The next start finds the data\n"+
			"again. A second Ctrl-C ends everything at once. Of the settings in the\n"+
			"environment, only "+devLevelVariable+" is heeded.")
	data := flags.String("data", defaultDevFolder(), "the folder for all data")
	reset := flags.Bool("reset", false, "forget all data first, and the encryption key too")
	logFormat := flags.String("log-format", "console", "the format of the instance's log, console or json")
	if status, done := flags.parse(args, 0); done {
		return status
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
	d := &dev{folder: folder, logFormat: *logFormat, stdout: stdout, stderr: stderr}
	err = d.run(ctx)
	if ctx.Err() != nil {
		err = nil // it was asked to stop; what that interrupted does not matter
	}
	if err != nil {
		fmt.Fprintf(stderr, "glotpod-ident dev: %v\n", err)
	}
	if stopErr := d.stop(hurry); stopErr != nil {
		fmt.Fprintf(stderr, "glotpod-ident dev: %v\n", stopErr)
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

// dev is an instance with a broker and a database of its own.
type dev struct {
	folder    *devFolder
	logFormat string
	stdout    io.Writer
	stderr    io.Writer
	saying    sync.Mutex // held while a line is written

	// What has been started; nil before.
	rabbitmq *private.RabbitMQ
	postgres *private.Postgres
	instance *private.Process
}

// run starts everything, says where it is, and returns when ctx is done or
// something ends by itself. What it has started is left for stop.
func (d *dev) run(ctx context.Context) error {
	d.say("Starting RabbitMQ and PostgreSQL with their data in %s.", d.folder.path)
	if err := d.startServers(ctx); err != nil {
		return err
	}
	if err := d.createDatabase(ctx); err != nil {
		return fmt.Errorf("create the database: %w", err)
	}
	http := devHTTPAddress()
	if err := d.folder.writeSettings(d.rabbitmq, d.postgres, http, d.logFormat); err != nil {
		return fmt.Errorf("write the settings: %w", err)
	}
	if err := d.migrate(ctx); err != nil {
		return err
	}
	if err := d.startInstance(ctx, http); err != nil {
		return err
	}
	d.explain(http)
	return d.untilSomethingEnds(ctx)
}

func (d *dev) untilSomethingEnds(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-d.instance.Exited():
		return d.instanceEnded()
	case <-d.rabbitmq.Done():
		return d.rabbitmq.Err()
	case <-d.postgres.Done():
		return d.postgres.Err()
	}
}

func (d *dev) instanceEnded() error {
	return fmt.Errorf("the instance ended by itself (%v)", d.instance.Status())
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
	if p := d.instance; p != nil {
		errs = append(errs, end("the instance", func() error {
			return p.End(syscall.SIGTERM, devDrainTimeout)
		}, p.Kill))
	}
	if r := d.rabbitmq; r != nil {
		errs = append(errs, end("RabbitMQ, which takes some seconds", r.Stop, r.Kill))
	}
	if p := d.postgres; p != nil {
		errs = append(errs, end("PostgreSQL", p.Stop, p.Kill))
	}
	return errors.Join(errs...)
}

func (d *dev) say(format string, args ...any) {
	d.saying.Lock()
	defer d.saying.Unlock()
	fmt.Fprintf(d.stdout, format+"\n", args...)
}
