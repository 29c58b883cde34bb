package bench

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"go.uber.org/zap"

	"github.com/glotpod/ident/cluster/membership"
	"github.com/glotpod/ident/cmd/internal/connect"
	"github.com/glotpod/ident/cmd/internal/devcluster"
	"github.com/glotpod/ident/config"
)

// A subject is a cluster that is measured. A run with --local has one for each number of
// instances.
type subject struct {
	instances int // 0: unknown
	config    *config.Config
	load      *loadGenerator
	users     *userPool
	database  *database      // nil: unreachable
	family    *processFamily // nil: CPU time is unknown
	urls      []string       // of the instances; none for a running cluster
}

// openSubject reads the settings of a cluster and connects to its broker. private is nil for
// a running cluster, for which settings of the database are optional.
func (b *bench) openSubject(ctx context.Context, environ []string, private *devcluster.Cluster) (s *subject, err error) {
	s = &subject{users: newUserPool(b.name)}
	if s.config, err = config.Load(environ); err != nil && private == nil {
		s.config, err = config.LoadClient(environ)
	}
	if err != nil {
		return nil, err
	}
	s.load, err = openLoadGenerator(ctx, connect.Broker(s.config, zap.NewNop(), "bench", b.version))
	if err != nil {
		return nil, err
	}
	if private != nil {
		s.instances, s.urls = len(private.Pids()), private.URLs()
		return s, nil
	}
	reports, _ := s.askStatus(ctx) // without an instance, the first request fails
	s.instances = len(reports)
	if s.config.Cluster.QueueType == config.QueueAuto {
		s.config.Cluster.QueueType = config.QueueQuorum
		for _, r := range reports {
			s.config.Cluster.QueueType = r.Parameters.QueueType
		}
	}
	return s, nil
}

// setUp connects to the database, and creates the users that requests use.
func (b *bench) setUp(ctx context.Context, s *subject) error {
	if err := b.openDatabase(ctx, s); err != nil {
		return err
	}
	b.progress.Show("creating %d users", userCount)
	if err := s.users.setUp(ctx, s.load); err != nil {
		return err
	}
	if b.isLocal() {
		b.progress.Show("adding %d users", grownCount)
		if err := s.database.grow(ctx, b.name); err != nil {
			return err
		}
	}
	if s.database == nil {
		return nil
	}
	return s.database.findStatements(ctx, b.isLocal())
}

// openDatabase connects to the database. For a running cluster, an unreachable database
// is no error.
func (b *bench) openDatabase(ctx context.Context, s *subject) (err error) {
	if s.config.Database.EncryptionKeys == nil {
		return nil
	}
	s.database, err = openDatabase(ctx, s.config, b.name)
	if err != nil && !b.isLocal() && ctx.Err() == nil {
		fmt.Fprintf(b.stderr, "glotpod-ident-bench: the database is not measured: %v\n", err)
		return nil
	}
	return err
}

// tearDown removes what setUp has created, unless it is to be kept or the whole database is
// deleted.
func (b *bench) tearDown(ctx context.Context, s *subject) (err error) {
	if !b.keep && !b.isLocal() {
		b.progress.Show("deleting %d users", len(s.users.created))
		ctx, cancel := context.WithTimeout(ctx, cleanUpTimeout)
		defer cancel()
		err = s.users.removeAll(ctx, s.load)
	}
	if s.database != nil {
		err = errors.Join(err, s.database.close(ctx))
	}
	return err
}

func (s *subject) askStatus(ctx context.Context) ([]membership.Report, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	return membership.AskStatus(ctx, s.load.conns[0].conn)
}

// count reads the exact counters of the database, if it is reachable.
func (s *subject) count(ctx context.Context) (counters, error) {
	if s.database == nil {
		return counters{}, nil
	}
	return s.database.count(ctx)
}

// roundTrips returns the number of round trips to the database of all instances so far.
// known is false if an instance does not reply.
func (s *subject) roundTrips(ctx context.Context) (sum int64, known bool) {
	reports, err := s.askStatus(ctx)
	for _, r := range reports {
		sum += r.Counters.DatabaseRoundTrips
	}
	return sum, err == nil
}

// cpu reads the CPU time of the processes, if they are known.
func (s *subject) cpu() cpuTicks {
	if s.family == nil {
		return cpuTicks{}
	}
	sum, _ := s.family.cpu()
	return sum
}

// A relayCount is what the instances of a cluster have relayed to one another.
type relayCount struct {
	requests, messages float64
}

// relayed reads what the instances have relayed so far. It returns zero if they are not known.
func (s *subject) relayed(ctx context.Context) (sum relayCount, err error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	for _, url := range s.urls {
		one, err := relayedBy(ctx, url+"/metrics")
		if err != nil {
			return sum, fmt.Errorf("read the metrics of an instance: %w", err)
		}
		sum.requests += one.requests
		sum.messages += one.messages
	}
	return sum, nil
}

func relayedBy(ctx context.Context, url string) (c relayCount, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return c, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return c, err
	}
	defer response.Body.Close()
	const metric = "glotpod_ident_relayed_requests"
	for lines := bufio.NewScanner(response.Body); lines.Scan(); {
		name, value, _ := strings.Cut(lines.Text(), " ")
		switch name {
		case metric + "_sum":
			c.requests, err = strconv.ParseFloat(value, 64)
		case metric + "_count":
			c.messages, err = strconv.ParseFloat(value, 64)
		}
		if err != nil {
			return c, err
		}
	}
	return c, nil
}
