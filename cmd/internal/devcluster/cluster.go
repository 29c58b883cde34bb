package devcluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/glotpod/ident/config"
	"github.com/glotpod/ident/deploy/localserver"
)

const (
	// defaultDatabase is the default of database.postgres.database.
	defaultDatabase = "glotpod.ident"

	// MaxInstances is how many instances a cluster can have: as many as have short
	// names in the log, and connections enough to the database.
	MaxInstances = 9
)

// The settings in which instances with the same settings file differ.
const (
	instanceVariable = "GLOTPOD_IDENT__CLUSTER__INSTANCE"
	listenVariable   = "GLOTPOD_IDENT__HTTP__LISTEN"
	vhostVariable    = "GLOTPOD_IDENT__AMQP__VHOST"
	databaseVariable = "GLOTPOD_IDENT__DATABASE__POSTGRES__DATABASE"
)

// levelVariable is the one setting that instances take from the environment. Other
// settings might name a broker or a database that is in use.
const levelVariable = "GLOTPOD_IDENT__LOG__LEVEL"

// Options are the options of a [Cluster].
type Options struct {
	Program   string   // the path of glotpod-ident
	Folder    string   // for all data
	Instances int      // 1 to MaxInstances
	LogFormat string   // of the instances, as in log.format
	Metrics   bool     // RabbitMQ has metrics
	Count     bool     // PostgreSQL counts statements, if it can
	Variables []string // settings of the instances, as NAME=value
	Environ   []string // of this process

	// Stdout gets messages for people, Stderr the logs of the instances.
	Stdout, Stderr io.Writer
}

// A Cluster is a private RabbitMQ, a private PostgreSQL and instances.
type Cluster struct {
	options   Options
	folder    *folder
	ports     *portBlock
	console   *console
	instances []*instance

	rabbitmq *localserver.RabbitMQ // nil before it has started
	postgres *localserver.Postgres // likewise
	database string                // the name of the instances' database
	besides  []*Cluster            // those that use the same servers
}

// Open makes the folder for the data if there is none, and locks it. It starts
// nothing.
func Open(o Options) (*Cluster, error) {
	folder, err := openFolder(o.Folder)
	if err != nil {
		return nil, err
	}
	c := &Cluster{options: o, folder: folder, ports: claimPorts(), console: newConsole(), database: defaultDatabase}
	c.addInstances()
	return c, nil
}

func (c *Cluster) addInstances() {
	for i := range c.options.Instances {
		c.instances = append(c.instances, &instance{cluster: c, name: instanceName(i)})
	}
}

// Beside returns another cluster, which uses the servers of c with a virtual host and a
// database of its own. Kill and Close of c end it too.
func (c *Cluster) Beside(ctx context.Context, name string, instances int) (*Cluster, error) {
	if err := c.rabbitmq.Management.CreateVHost(ctx, name); err != nil {
		return nil, fmt.Errorf("create the virtual host %s: %w", name, err)
	}
	beside := &Cluster{
		options: c.options, folder: c.folder, ports: c.ports, console: c.console,
		rabbitmq: c.rabbitmq, postgres: c.postgres, database: name,
	}
	beside.options.Instances = instances
	beside.options.Variables = append(slices.Clone(c.options.Variables), vhostVariable+"="+name, databaseVariable+"="+name)
	beside.addInstances()
	c.besides = append(c.besides, beside)
	if err := beside.createDatabase(ctx); err != nil {
		return nil, fmt.Errorf("create the database %s: %w", name, err)
	}
	return beside, beside.migrate(ctx)
}

// Close unlocks the folder. Everything must have been stopped or killed before.
func (c *Cluster) Close() {
	c.console.close()
	c.ports.close()
	c.folder.close()
}

// StartServers starts the broker and the database, and brings the schema up to date.
func (c *Cluster) StartServers(ctx context.Context) error {
	starts, starting := errgroup.WithContext(ctx)
	starts.Go(func() error {
		return c.timed("PostgreSQL", func() (err error) {
			c.postgres, err = localserver.StartPostgres(starting, localserver.PostgresOptions{Dir: c.folder.postgres(), Durable: true, CountStatements: c.options.Count})
			return err
		})
	})
	starts.Go(func() error {
		return c.timed("RabbitMQ", func() (err error) {
			c.rabbitmq, err = localserver.StartRabbitMQ(starting, localserver.RabbitMQOptions{Dir: c.folder.rabbitmq(), Metrics: c.options.Metrics})
			return err
		})
	})
	if err := starts.Wait(); err != nil {
		return err
	}
	if err := c.createDatabase(ctx); err != nil {
		return fmt.Errorf("create the database: %w", err)
	}
	if err := c.folder.writeSettings(c.rabbitmq, c.postgres, c.options.LogFormat); err != nil {
		return fmt.Errorf("write the settings: %w", err)
	}
	return c.migrate(ctx)
}

// createDatabase creates the instances' database if there is none.
func (c *Cluster) createDatabase(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, c.postgres.URL("postgres"))
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	var exists bool
	err = conn.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)", c.database).Scan(&exists)
	if err != nil || exists {
		return err
	}
	_, err = conn.Exec(ctx, "CREATE DATABASE "+pgx.Identifier{c.database}.Sanitize())
	return err
}

func (c *Cluster) migrate(ctx context.Context) error {
	p, err := c.launch("migrate", "migrate")
	if err != nil {
		return err
	}
	select {
	case <-p.run.Exited():
	case <-ctx.Done():
		p.run.Kill()
		return ctx.Err()
	}
	if status := p.run.Status(); !status.Success() {
		return fmt.Errorf("migrate failed (%v)", status)
	}
	return nil
}

// StartInstances starts all instances and returns when each is ready.
func (c *Cluster) StartInstances(ctx context.Context) error {
	for i, address := range c.ports.addresses(len(c.instances)) {
		c.instances[i].address = address
	}
	starts, ctx := errgroup.WithContext(ctx)
	for _, i := range c.instances {
		starts.Go(func() error {
			return c.timed(i.name, func() error { return i.start(ctx) })
		})
	}
	return starts.Wait()
}

// launch starts glotpod-ident with a command. Each line of its output begins with
// name.
func (c *Cluster) launch(name, command string, variables ...string) (*process, error) {
	cmd := exec.Command(c.options.Program, command)
	cmd.Env = append(c.Environ(), variables...)
	cmd.Stdout = c.console.lines(c.options.Stdout, name+" | ")
	cmd.Stderr = c.console.lines(c.options.Stderr, name+" | ")
	run, err := localserver.Launch(cmd, syscall.SIGTERM)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	return &process{run: run, child: cmd.Process}, nil
}

// Environ returns the environment of a program that uses this cluster.
func (c *Cluster) Environ() (environ []string) {
	for _, entry := range c.options.Environ {
		name, _, _ := strings.Cut(entry, "=")
		if name == levelVariable || name != config.SettingsVariable && !strings.HasPrefix(name, "GLOTPOD_IDENT__") {
			environ = append(environ, entry)
		}
	}
	environ = append(environ, c.options.Variables...)
	return append(environ, config.SettingsVariable+"="+c.folder.settings())
}

// Pids returns the process ids of the instances that have been started.
func (c *Cluster) Pids() (pids []int) {
	for _, i := range c.started() {
		pids = append(pids, i.process.child.Pid)
	}
	return pids
}

// URLs returns the URLs of the status pages of the instances.
func (c *Cluster) URLs() (urls []string) {
	for _, i := range c.instances {
		urls = append(urls, i.url())
	}
	return urls
}

// started returns the instances that have been started.
func (c *Cluster) started() (all []*instance) {
	for _, i := range c.instances {
		if i.process != nil {
			all = append(all, i)
		}
	}
	return all
}

// stop stops what has been started, in order. Once hurry is closed, it kills the rest.
func (c *Cluster) stop(hurry <-chan struct{}) error {
	end := func(name string, stop func() error, kill func()) error {
		c.say("Stopping %s.", name)
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
	if len(c.started()) > 0 {
		errs = append(errs, end("the instances", c.stopInstances, c.killInstances))
	}
	if r := c.rabbitmq; r != nil {
		errs = append(errs, end("RabbitMQ, which takes some seconds", r.Stop, r.Kill))
	}
	if p := c.postgres; p != nil {
		errs = append(errs, end("PostgreSQL", p.Stop, p.Kill))
	}
	return errors.Join(errs...)
}

// stopInstances asks all instances to stop and waits until they have.
func (c *Cluster) stopInstances() error {
	all := c.started()
	errs := make([]error, len(all))
	var stops sync.WaitGroup
	for n, i := range all {
		stops.Go(func() { errs[n] = i.stop() })
	}
	stops.Wait()
	return errors.Join(errs...)
}

// killInstances kills all instances. It may be called while stopInstances waits.
func (c *Cluster) killInstances() {
	for _, i := range c.started() {
		i.process.run.Kill()
	}
}

// Kill kills what has been started.
func (c *Cluster) Kill() {
	for _, beside := range c.besides {
		beside.killInstances()
	}
	c.killInstances()
	if c.rabbitmq != nil {
		c.rabbitmq.Kill()
	}
	if c.postgres != nil {
		c.postgres.Kill()
	}
}

// say prints a message for people.
func (c *Cluster) say(format string, args ...any) {
	c.console.print(c.options.Stdout, fmt.Sprintf(format+"\n", args...))
}

// printError prints an error.
func (c *Cluster) printError(err error) {
	c.console.print(c.options.Stderr, fmt.Sprintf("%s: %v\n", Name, err))
}

// timed runs a step, and prints at intervals and at its end how long it takes.
func (c *Cluster) timed(name string, step func() error) error {
	begin := time.Now()
	result := make(chan error, 1)
	go func() { result <- step() }()
	tick := time.NewTicker(5 * time.Second)
	defer tick.Stop()
	for {
		select {
		case err := <-result:
			if err == nil {
				c.say("%s is ready after %.1f s.", name, time.Since(begin).Seconds())
			}
			return err
		case <-tick.C:
			c.say("%s is still starting (%.0f s).", name, time.Since(begin).Seconds())
		}
	}
}
