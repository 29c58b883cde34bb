package postgres

import (
	"context"
	"crypto/tls"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Settings name a database and say how to connect to it.
type Settings struct {
	Addresses       []string // host:port, at least one; see [store.Options]
	Database        string
	User            string
	Password        string
	SSLMode         string // as in libpq
	SSLRootCert     string // a file; "" means the system's certificates
	SSLCert         string // a file; "" means no client certificate
	SSLKey          string // a file; set if and only if SSLCert is
	ApplicationName string // shown in pg_stat_activity
	MaxConnections  int    // of the pool

	// ReadPassword, if not nil, is called for each new connection and returns the password,
	// which may have changed. Password is that of the start.
	ReadPassword func() (string, error)

	// Reserve adds a connection beside the pool. See [Pool.TransactReserved].
	Reserve bool
}

const (
	// connectTimeout bounds an attempt to connect. Several servers share it, but each has
	// minConnectTimeout.
	connectTimeout    = 5 * time.Second
	minConnectTimeout = time.Second

	// idleTimeout bounds how long a transaction waits for this process. The process
	// may be frozen or cut off while the transaction holds locks that other sessions
	// wait for. No transaction here waits for anything but computation. If the process
	// is cut off in the middle of a message, and only then, the server does not count
	// the time; keepAlive covers that case.
	idleTimeout = "3s"
)

// keepAlive makes the server notice within about 12 s that a process that holds locks
// is unreachable. Unix sockets ignore these parameters.
var keepAlive = map[string]string{
	"tcp_keepalives_idle":     "6",
	"tcp_keepalives_interval": "2",
	"tcp_keepalives_count":    "3",
}

// planOnce makes the server plan each statement once per connection instead of at each
// execution: planning takes several times as long as execution, and each statement has
// one good plan, by an index. The plan must use the index even while the tables are
// small, or too new for statistics, so that a sequential scan looks cheaper: the tables
// may grow by a million rows before the server plans again. The documentation of package
// store says what else the statements do for that.
var planOnce = map[string]string{
	"plan_cache_mode":  "force_generic_plan",
	"enable_seqscan":   "off",
	"enable_hashjoin":  "off", // a hash join would read a whole index
	"enable_mergejoin": "off", // likewise
	"jit":              "off", // a plan of a disabled type seems so expensive to the planner that it would compile it
}

// parse reads the certificate files that the settings name.
//
// pgx also reads the variables of the environment and the files in the home folder that libpq
// reads. All of these have a value here, so that only the settings count.
func (s Settings) parse(servers []server) (*pgxpool.Config, error) {
	os.Unsetenv("PGSERVICE") // an empty name of a service is an error
	var hosts, ports []string
	for _, one := range servers {
		hosts, ports = append(hosts, one.host), append(ports, one.port)
	}
	var text strings.Builder
	for name, value := range map[string]string{
		"host": strings.Join(hosts, ","), "port": strings.Join(ports, ","), "dbname": s.Database, "user": s.User,
		"sslmode": s.SSLMode, "sslrootcert": s.SSLRootCert,
		"sslcert": "", "sslkey": "", "sslpassword": "", "sslcertmode": "allow", "sslnegotiation": "", "sslsni": "1",
		"passfile": "", "servicefile": "", "target_session_attrs": "any", "options": "", "timezone": "",
		"application_name": "", "connect_timeout": "0", "channel_binding": "prefer", "require_auth": "",
		"min_protocol_version": "", "max_protocol_version": "",
	} {
		fmt.Fprintf(&text, "%s=%s ", name, quote(value))
	}
	config, err := pgxpool.ParseConfig(text.String())
	if err != nil {
		return nil, fmt.Errorf("settings of the database: %w", err)
	}
	secured := []*tls.Config{config.ConnConfig.TLSConfig}
	for _, fallback := range config.ConnConfig.Fallbacks {
		secured = append(secured, fallback.TLSConfig)
	}
	return config, s.secure(secured)
}

// secure completes the TLS configurations. It reads the client certificate by itself: the
// function of pgx for that is lost when a configuration is put into another [pgx.ConnConfig].
func (s Settings) secure(configs []*tls.Config) error {
	var pairs []tls.Certificate
	if s.SSLCert != "" {
		pair, err := tls.LoadX509KeyPair(s.SSLCert, s.SSLKey)
		if err != nil {
			return fmt.Errorf("client certificate for the database: %w", err)
		}
		pairs = []tls.Certificate{pair}
	}
	for _, config := range configs {
		if config != nil { // nil is an attempt without encryption
			config.MinVersion, config.Certificates = tls.VersionTLS12, pairs
		}
	}
	return nil
}

// refresh reads the password and the certificates anew for a new connection. While a file
// is being replaced, that may fail, and a later attempt succeeds.
func (s Settings) refresh(config *pgx.ConnConfig, servers []server) error {
	parsed, err := s.parse(servers)
	if err != nil {
		return &unsentError{err}
	}
	config.Host, config.Port = parsed.ConnConfig.Host, parsed.ConnConfig.Port
	config.TLSConfig, config.Fallbacks = parsed.ConnConfig.TLSConfig, parsed.ConnConfig.Fallbacks
	if s.ReadPassword != nil {
		if config.Password, err = s.ReadPassword(); err != nil {
			return &unsentError{err}
		}
	}
	return nil
}

// PoolConfig translates the settings for pgx.
func (s Settings) PoolConfig() (*pgxpool.Config, error) { return s.poolConfig(nil) }

// poolConfig is PoolConfig with other values of some parameters of the session.
func (s Settings) poolConfig(others map[string]string) (*pgxpool.Config, error) {
	servers, err := parseServers(s.Addresses)
	if err != nil {
		return nil, fmt.Errorf("settings of the database: %w", err)
	}
	config, err := s.parse(servers.all)
	if err != nil {
		return nil, err
	}
	config.BeforeConnect = func(_ context.Context, config *pgx.ConnConfig) error {
		servers.choose(config)
		return s.refresh(config, servers.inOrder())
	}
	config.ConnConfig.Password = s.Password
	config.ConnConfig.ConnectTimeout = servers.timeout()
	config.ConnConfig.RuntimeParams = map[string]string{"application_name": s.ApplicationName}
	parameters := map[string]string{
		"statement_timeout":                   "15s",
		"lock_timeout":                        "2s",
		"default_transaction_isolation":       "read committed",
		"idle_in_transaction_session_timeout": idleTimeout,
	}
	maps.Copy(parameters, planOnce)
	maps.Copy(parameters, keepAlive)
	maps.Copy(parameters, others)
	config.ConnConfig.AfterConnect = setParameters(parameters)
	config.MaxConns = int32(s.MaxConnections)
	config.MinIdleConns = 1
	config.MaxConnLifetimeJitter = config.MaxConnLifetime / 2 // connections that were opened together do not all close together
	return config, nil
}

// setParameters returns a function that sets parameters of a new session, in one round trip.
// They are not sent with the start of the connection, because PgBouncer refuses those or, if it
// is told to ignore them, drops them.
func setParameters(parameters map[string]string) func(context.Context, *pgconn.PgConn) error {
	var sql strings.Builder
	for _, name := range slices.Sorted(maps.Keys(parameters)) {
		fmt.Fprintf(&sql, "SET %s = '%s';", name, parameters[name])
	}
	return func(ctx context.Context, conn *pgconn.PgConn) error {
		ctx, cancel := context.WithTimeout(ctx, connectTimeout) // which bounds only what comes before AfterConnect
		defer cancel()
		if err := conn.Exec(ctx, sql.String()).Close(); err != nil {
			return fmt.Errorf("setting the parameters of the session: %w", err)
		}
		return nil
	}
}

// quote quotes a value of a connection string.
func quote(value string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(value) + "'"
}

// Connect opens one connection. If it has no session of its own, the error is a *PoolerError.
func (s Settings) Connect(ctx context.Context) (*pgx.Conn, error) { return s.connect(ctx, nil) }

// ConnectForBulk is Connect for statements that read or write many rows. Each may take up to
// timeout.
func (s Settings) ConnectForBulk(ctx context.Context, timeout time.Duration) (*pgx.Conn, error) {
	return s.connect(ctx, map[string]string{
		"max_parallel_workers_per_gather": "0", // starting the workers takes longer than the statement
		"statement_timeout":               strconv.FormatInt(timeout.Milliseconds(), 10),
	})
}

// connect is Connect with other values of some parameters of the session.
func (s Settings) connect(ctx context.Context, others map[string]string) (*pgx.Conn, error) {
	config, err := s.poolConfig(others)
	if err != nil {
		return nil, err
	}
	open := func(ctx context.Context) (*pgx.Conn, error) {
		attempt := config.Copy()
		if err := attempt.BeforeConnect(ctx, attempt.ConnConfig); err != nil {
			return nil, err
		}
		conn, err := pgx.ConnectConfig(ctx, attempt.ConnConfig)
		if err != nil {
			return nil, fmt.Errorf("reaching the database: %w", err)
		}
		return conn, nil
	}
	conn, err := open(ctx)
	if err != nil {
		return nil, err
	}
	if err := checkSession(ctx, conn, open); err != nil {
		CloseConn(conn)
		return nil, err
	}
	return conn, nil
}
