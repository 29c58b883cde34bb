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

	"github.com/glotpod/ident/cmd/internal/cli"
	"github.com/glotpod/ident/cmd/internal/devcluster"
)

// cleanUpTimeout bounds the deletion of the users that were created.
const cleanUpTimeout = 10 * time.Minute

// A bench is a run of the benchmark.
type bench struct {
	options
	name     string // distinguishes the run from others
	version  string // of this program
	progress *cli.StatusLine
	part     string // the position of the current measurement, as in "2 of 8"
	stderr   io.Writer
	subjects []*subject // the baselines use the servers of the first one
}

// runBenchmark runs the benchmark and cleans up. Once hurry is closed, it waits for no
// more replies.
func runBenchmark(ctx context.Context, env *cli.Env, o options, hurry <-chan struct{}) (report *report, err error) {
	b := &bench{options: o, name: strings.ToLower(rand.Text()[:10]), version: env.Version, progress: cli.NewStatusLine(env.Stderr), stderr: env.Stderr}
	defer b.progress.Clear()
	clusters, environ := []*devcluster.Cluster{nil}, env.Environ
	if b.isLocal() {
		var private *privateCluster
		if private, err = openCluster(o, env); err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, private.stop()) }()
		if clusters, err = private.start(ctx, b.progress); err != nil {
			return nil, err
		}
		environ = private.first.Environ()
	}
	for _, c := range clusters {
		settings := environ
		if c != nil {
			settings = c.Environ()
		}
		s, err := b.openSubject(ctx, settings, c)
		if err != nil {
			return nil, err
		}
		defer s.load.close()
		defer closeUpon(hurry, s.load)()
		b.subjects = append(b.subjects, s)
	}
	b.findFamilies(clusters)
	return b.measureAll(ctx, environ)
}

// findFamilies sets the processes of each cluster, if they can be read.
func (b *bench) findFamilies(clusters []*devcluster.Cluster) {
	if !b.isLocal() {
		return
	}
	for i, s := range b.subjects {
		family := &processFamily{self: os.Getpid()}
		for j, c := range clusters {
			if i == j {
				family.instances = c.Pids()
			} else {
				family.others = append(family.others, c.Pids()...)
			}
		}
		if _, ok := family.cpu(); ok {
			s.family = family
		}
	}
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

// measureAll starts the baselines, creates users and measures each case.
func (b *bench) measureAll(ctx context.Context, environ []string) (report *report, err error) {
	direct := false
	for _, c := range b.cases {
		direct = direct || c.direct
	}
	first := b.subjects[0]
	echo, err := startBaseline(ctx, environ, b.stderr, echoCommand, "--run", b.name, "--direct="+strconv.FormatBool(direct),
		"--queue-type", first.config.Cluster.QueueType, "--partitions", strconv.Itoa(first.config.Cluster.Partitions))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, echo.stop()) }()
	leaving := context.WithoutCancel(ctx)
	for _, s := range b.subjects {
		if s.family != nil {
			s.family.echo = echo.pid
		}
		defer func() { err = errors.Join(err, b.tearDown(leaving, s)) }()
		if err := b.setUp(ctx, s); err != nil {
			return nil, err
		}
	}
	if first.database != nil {
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
			cells, err := b.measure(ctx, c, n)
			if err != nil {
				return nil, err
			}
			report.Cells = append(report.Cells, cells...)
		}
	}
	report.Machine.LoadAtEnd = loadAverage()
	return report, nil
}

// startPlain copies the users of the run, and starts a plain service with them.
func (b *bench) startPlain(ctx context.Context, environ []string) (*baselineProcess, error) {
	b.progress.Show("copying the users for the plain service")
	database := b.subjects[0].database
	if err := plainTables(database.schema).create(ctx, database.conn, b.name); err != nil {
		return nil, err
	}
	plain, err := startBaseline(ctx, environ, b.stderr, plainCommand, "--run", b.name)
	if err != nil {
		return nil, err
	}
	for _, s := range b.subjects {
		if s.family != nil {
			s.family.plain = plain.pid
		}
	}
	return plain, nil
}

// describe makes a report without cells.
func (b *bench) describe(ctx context.Context) (*report, error) {
	first := b.subjects[0]
	r := &report{
		Format:  reportFormat,
		Version: b.version,
		Started: time.Now().UTC().Truncate(time.Second),
		Machine: machine{CPUs: runtime.NumCPU(), System: runtime.GOOS + "/" + runtime.GOARCH, LoadAverage: loadAverage()},
		Cluster: setup{Partitions: first.config.Cluster.Partitions, QueueType: first.config.Cluster.QueueType},
	}
	if b.isLocal() {
		r.Cluster.Local, r.Cluster.MoreLocal = b.local[0], b.local[1:]
	}
	r.Cluster.RabbitMQ, _ = first.load.conns[0].conn.Properties["version"].(string)
	if first.database == nil {
		return r, nil
	}
	var err error
	r.Cluster.PostgreSQL, r.Cluster.Durable, err = first.database.describe(ctx)
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
