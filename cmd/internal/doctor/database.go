package doctor

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/glotpod/ident/cluster/ownership"
	"github.com/glotpod/ident/cmd/internal/connect"
	"github.com/glotpod/ident/config"
	"github.com/glotpod/ident/store"
)

// databaseFacts are what is known of the database.
type databaseFacts struct {
	version      int // as in server_version_num
	readOnly     bool
	settings     map[string]string // some of the server's
	allowed      int               // connections of all instances together; negative: no limit
	standbys     int
	encoding     string
	ctype        string
	collation    string // its version when the indexes were made
	collates     string // its version today
	foreignOwns  []string
	disabled     []string      // triggers
	denied       []string      // what the user may not do
	waits        bool          // a commit waits for a standby
	recovers     bool          // it is a standby
	hidesHistory bool          // it does not tell how its commits are related to those of another server
	ahead        time.Duration // of the server's clock, at least; negative: it is behind

	opened store.KeyringSample // what the keys open
}

// examineDatabase collects the facts about the database and adds what is wrong to the report.
func examineDatabase(ctx context.Context, c *config.Config, o options, r *report) {
	conn, c := connectDatabase(ctx, c, o, r)
	if conn == nil {
		r.skip("PostgreSQL", "it cannot be used")
		return
	}
	ctx, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	defer func() {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		conn.Close(closing)
	}()
	if err := checkSessions(ctx, c); err != nil {
		r.add("pooler", "%v", err)
		r.skip("PostgreSQL", "a pooler is in the way")
		return
	}
	f := new(databaseFacts)
	if err := f.collect(ctx, conn); err != nil {
		if conn.IsClosed() {
			r.add("database-unreachable", "%v", err)
		} else {
			r.skip("PostgreSQL", "it refuses a question: %v", err)
		}
		return
	}
	if !f.readOnly {
		f.examineStore(ctx, c, r)
		f.waits = f.waitsForStandby(ctx, conn) // the connection may be lost
	}
	for _, check := range databaseChecks {
		check(c, f, max(o.instances, 1), r)
	}
}

// checkSessions returns an error if a pooler in front of the database does not keep sessions.
func checkSessions(ctx context.Context, c *config.Config) error {
	conn, err := store.Connect(ctx, connect.Store(c, quiet))
	if pooler, ok := errors.AsType[*store.PoolerError](err); ok {
		return pooler
	}
	if err == nil {
		conn.Close(ctx)
	}
	return nil // other errors have findings
}

// connectDatabase connects to each host, and returns the connection that accepts writes, or else
// any, or nil. It also returns the settings with only the hosts that can be used.
func connectDatabase(ctx context.Context, c *config.Config, o options, r *report) (chosen *pgx.Conn, reached *config.Config) {
	copied := *c
	reached = &copied
	reached.Database.Postgres.Hosts = nil
	for _, host := range c.Database.Postgres.Hosts {
		limited, cancel := context.WithTimeout(ctx, o.ofHost())
		conn := connectHost(limited, c, host, o, r)
		if conn == nil {
			cancel()
			continue
		}
		reached.Database.Postgres.Hosts = append(reached.Database.Postgres.Hosts, host)
		if chosen != nil && isReadOnly(limited, chosen) {
			chosen, conn = conn, chosen
		}
		if chosen == nil {
			chosen = conn
		} else {
			conn.Close(limited)
		}
		cancel()
	}
	return chosen, reached
}

// connectHost connects to a host, which may be a standby. It adds a finding and returns nil if that
// fails.
func connectHost(ctx context.Context, c *config.Config, host config.Address, o options, r *report) *pgx.Conn {
	one := *c
	one.Database.Postgres.Hosts = []config.Address{host}
	pool, err := store.PoolConfig(connect.Store(&one, quiet))
	if err == nil {
		err = pool.BeforeConnect(ctx, pool.ConnConfig)
	}
	if err != nil {
		r.add("settings", "%v", err)
		return nil
	}
	pool.ConnConfig.ConnectTimeout = o.ofHost() / 2 // a name may have several addresses
	conn, err := pgx.ConnectConfig(ctx, pool.ConnConfig)
	if err != nil {
		r.add(connectFinding(ctx, pool.ConnConfig, err), "%v", err)
		return nil
	}
	checkDatabaseTLS(c, pool.ConnConfig, conn, r)
	return conn
}

func isReadOnly(ctx context.Context, conn *pgx.Conn) (readOnly bool) {
	err := conn.QueryRow(ctx, "SELECT current_setting('transaction_read_only')::boolean").Scan(&readOnly)
	return readOnly || err != nil
}

// connectFinding returns the id of the finding for an error of a connection to a host.
func connectFinding(ctx context.Context, host *pgx.ConnConfig, err error) string {
	var name *net.DNSError
	var refused *pgconn.PgError
	switch {
	case errors.As(err, &name):
		return "database-name"
	case isTLSError(err):
		return "database-tls"
	case errors.As(err, &refused):
		switch {
		case strings.HasPrefix(refused.Code, "28"), refused.Code == "3D000", refused.Code == "42501":
			return "database-login" // authorization, no such database, no permission to connect
		case refused.Code == "53300":
			return "database-connections"
		}
	case !pgconn.Timeout(err) && host.TLSConfig != nil && len(host.Fallbacks) == 0 && listens(ctx, host):
		return "database-tls" // the server has none
	}
	return "database-unreachable"
}

// listens reports whether something accepts connections at a host.
func listens(ctx context.Context, host *pgx.ConnConfig) bool {
	conn, err := host.DialFunc(ctx, "tcp", addressOf(host))
	if err == nil {
		conn.Close()
	}
	return err == nil
}

func addressOf(host *pgx.ConnConfig) string {
	return net.JoinHostPort(host.Host, strconv.Itoa(int(host.Port)))
}

// checkDatabaseTLS checks how a connection is encrypted.
func checkDatabaseTLS(c *config.Config, host *pgx.ConnConfig, conn *pgx.Conn, r *report) {
	mode := c.Database.Postgres.SSLMode
	encrypted, ok := conn.PgConn().Conn().(*tls.Conn)
	address := addressOf(host)
	if ok {
		checkCertificate("database", "of "+address, encrypted.ConnectionState().PeerCertificates[0], time.Now(), r)
	}
	if !isLocal(host.Host) && mode != "verify-full" && mode != "verify-ca" {
		r.add("database-unverified", "the connection to %s is not sure to lead to PostgreSQL (sslmode %s)", address, mode)
	}
}

// presentParameters returns the parameters of the cluster, which a repartition may have changed, the zero
// value if they cannot be read.
func presentParameters(ctx context.Context, c *config.Config, o options) (present ownership.Parameters) {
	ctx, cancel := context.WithTimeout(ctx, o.ofHost())
	defer cancel()
	users, err := store.Open(ctx, connect.Store(c, quiet))
	if err != nil {
		return present // examineDatabase says why
	}
	defer users.Close()
	if present, err = users.Parameters(ctx); err != nil {
		return ownership.Parameters{}
	}
	return present
}

// examineStore opens the store, as an instance does, and adds what is wrong with it.
func (f *databaseFacts) examineStore(ctx context.Context, c *config.Config, r *report) {
	users, err := store.Open(ctx, connect.Store(c, quiet))
	var schema *store.SchemaError
	switch {
	case errors.As(err, &schema):
		r.add("schema", "%v", err)
		r.skip("the tables and the access tokens in them", "the schema is another one")
		return
	case err != nil:
		r.skip("the tables and the access tokens in them", "%v", err)
		return
	}
	defer users.Close()
	theirs, err := users.Parameters(ctx)
	if err != nil {
		r.skip("the parameters of the cluster", "%v", err)
	} else if ours := parametersOf(c, theirs); theirs.Partitions > 0 && theirs != ours {
		r.add("parameters", "%v", &store.ParametersError{Theirs: theirs, Ours: ours})
	}
	if f.opened, err = users.SampleKeyring(ctx); err != nil {
		r.skip("whether the encryption keys open the access tokens", "%v", err)
	}
}
