package bench

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/glotpod/ident/cmd/internal/cli"
	"github.com/glotpod/ident/cmd/internal/connect"
	"github.com/glotpod/ident/config"
)

// cleanUpTimeout bounds the deletion of the users that were created.
const cleanUpTimeout = 10 * time.Minute

// A bench is a run of the benchmark.
type bench struct {
	options
	name     string // distinguishes the run from others
	config   *config.Config
	version  string // of this program
	progress *cli.StatusLine
	part     string // the position of the current measurement, as in "2 of 8"
	stderr   io.Writer
	load     *loadGenerator
	users    *userPool
	database *database      // nil: unreachable
	family   *processFamily // nil: CPU time is unknown
}

// runBenchmark runs the benchmark and cleans up. Once hurry is closed, it waits for no
// more replies.
func runBenchmark(ctx context.Context, env *cli.Env, o options, hurry <-chan struct{}) (report *report, err error) {
	b := &bench{options: o, name: strings.ToLower(rand.Text()[:10]), version: env.Version, progress: cli.NewStatusLine(env.Stderr), stderr: env.Stderr}
	defer b.progress.Clear()
	environ := env.Environ
	if o.local > 0 {
		var private *privateCluster
		if private, err = openCluster(o, env); err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, private.stop()) }()
		if err := private.start(ctx, b.progress); err != nil {
			return nil, err
		}
		environ = private.cluster.Environ()
		family := &processFamily{self: os.Getpid(), instances: private.cluster.Pids()}
		if _, ok := family.cpu(); ok {
			b.family = family
		}
	}
	if err := b.configure(environ); err != nil {
		return nil, err
	}
	b.load, err = openLoadGenerator(ctx, connect.Broker(b.config, zap.NewNop(), "bench", b.version))
	if err != nil {
		return nil, err
	}
	defer b.load.close()
	defer closeUpon(hurry, b.load)()
	return b.measureAll(ctx, environ)
}

// closeUpon closes a load once hurry is closed. release ends that.
func closeUpon(hurry <-chan struct{}, load *loadGenerator) (release func()) {
	released, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		select {
		case <-hurry:
			load.close()
		case <-released:
		}
	}()
	return func() {
		close(released)
		<-ended
	}
}

// configure reads the settings. Settings of the database are optional for a running
// cluster.
func (b *bench) configure(environ []string) (err error) {
	if b.config, err = config.Load(environ); err == nil {
		return nil
	}
	client, clientErr := config.LoadClient(environ)
	if clientErr != nil {
		return clientErr
	}
	if b.local > 0 {
		return err
	}
	b.config = client
	return nil
}

// measureAll starts the baselines, creates users and measures each case.
func (b *bench) measureAll(ctx context.Context, environ []string) (report *report, err error) {
	direct := false
	for _, c := range b.cases {
		direct = direct || c.direct
	}
	echo, err := startBaseline(ctx, environ, b.stderr, echoCommand, "--run", b.name, "--direct="+strconv.FormatBool(direct),
		"--queue-type", b.config.Cluster.QueueType, "--partitions", strconv.Itoa(b.config.Cluster.Partitions))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, echo.stop()) }()
	if b.family != nil {
		b.family.echo = echo.pid
	}
	if err := b.openDatabase(ctx); err != nil {
		return nil, err
	}
	leaving := context.WithoutCancel(ctx)
	if b.database != nil {
		defer func() { err = errors.Join(err, b.database.close(leaving)) }()
	}
	b.users = newUserPool(b.name)
	defer func() { err = errors.Join(err, b.removeUsers(leaving)) }()
	b.progress.Show("creating %d users", userCount)
	if err := b.users.setUp(ctx, b.load); err != nil {
		return nil, err
	}
	if b.local > 0 {
		b.progress.Show("adding %d users", grownCount)
		if err := b.database.grow(ctx, b.name); err != nil {
			return nil, err
		}
	}
	if b.database != nil {
		if err := b.database.findStatements(ctx, b.local > 0); err != nil {
			return nil, err
		}
		var plain *baselineProcess
		if plain, err = b.startPlain(ctx, environ); err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, plain.stop()) }()
	}
	if report, err = b.describe(ctx); err != nil {
		return nil, err
	}
	for i, c := range b.cases {
		for j, n := range b.inFlight {
			b.part = fmt.Sprintf("%d of %d", i*len(b.inFlight)+j+1, len(b.cases)*len(b.inFlight))
			cell, err := b.measure(ctx, c, n)
			if err != nil {
				return nil, err
			}
			report.Cells = append(report.Cells, *cell)
		}
	}
	report.Machine.LoadAtEnd = loadAverage()
	return report, nil
}

// startPlain copies the users of the run, and starts a plain service with them.
func (b *bench) startPlain(ctx context.Context, environ []string) (*baselineProcess, error) {
	b.progress.Show("copying the users for the plain service")
	if err := plainTables(b.database.schema).create(ctx, b.database.conn, b.name); err != nil {
		return nil, err
	}
	plain, err := startBaseline(ctx, environ, b.stderr, plainCommand, "--run", b.name)
	if err == nil && b.family != nil {
		b.family.plain = plain.pid
	}
	return plain, err
}

// openDatabase connects to the database. For a running cluster, an unreachable database
// is no error.
func (b *bench) openDatabase(ctx context.Context) (err error) {
	if b.config.Database.EncryptionKeys == nil {
		return nil
	}
	b.database, err = openDatabase(ctx, b.config, b.name)
	if err != nil && b.local == 0 && ctx.Err() == nil {
		fmt.Fprintf(b.stderr, "glotpod-ident-bench: the database is not measured: %v\n", err)
		return nil
	}
	return err
}

// removeUsers deletes the users that were created, unless they are to be kept or the
// whole database is deleted.
func (b *bench) removeUsers(ctx context.Context) error {
	if b.keep || b.local > 0 {
		return nil
	}
	b.progress.Show("deleting %d users", len(b.users.created))
	ctx, cancel := context.WithTimeout(ctx, cleanUpTimeout)
	defer cancel()
	return b.users.removeAll(ctx, b.load)
}

// describe makes a report without cells.
func (b *bench) describe(ctx context.Context) (*report, error) {
	r := &report{
		Format:  reportFormat,
		Version: b.version,
		Started: time.Now().UTC().Truncate(time.Second),
		Machine: machine{CPUs: runtime.NumCPU(), System: runtime.GOOS + "/" + runtime.GOARCH, LoadAverage: loadAverage()},
		Cluster: setup{Local: b.local, Partitions: b.config.Cluster.Partitions, QueueType: b.config.Cluster.QueueType},
	}
	r.Cluster.RabbitMQ, _ = b.load.conns[0].conn.Properties["version"].(string)
	if b.database == nil {
		return r, nil
	}
	var err error
	r.Cluster.PostgreSQL, r.Cluster.Durable, err = b.database.describe(ctx)
	if err != nil {
		return nil, fmt.Errorf("ask the database for its settings: %w", err)
	}
	return r, nil
}

// loadAverage returns the load averages over 1, 5 and 15 minutes, "" if they are
// unknown.
func loadAverage() string {
	text, _ := os.ReadFile("/proc/loadavg") // only Linux has it
	fields := strings.Fields(string(text))
	return strings.Join(fields[:min(3, len(fields))], " ")
}
