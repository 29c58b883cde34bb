package config

import (
	"net"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// setting describes one setting.
type setting struct {
	name     string // with its sections, as in TOML: "amqp.port"
	initial  string // its default, as its variable would give it; "" for none
	computed string // says where the default comes from, if not from initial
	required bool   // it must be given
	kind     kind   // what values it takes, and where they go
	help     string // one or more sentences of Markdown
}

// variable returns the name of the environment variable that gives s.
func (s setting) variable() string {
	return variablePrefix + strings.ToUpper(strings.ReplaceAll(s.name, ".", "__"))
}

// section returns the name of the table in which s stands.
func (s setting) section() string { return s.name[:strings.LastIndexByte(s.name, '.')] }

// settings lists all there are, in the order of the reference, each ready to
// put its value into c.
func (c *Config) settings() []setting {
	db, pg, mq := &c.Database, &c.Database.Postgres, &c.AMQP
	return []setting{
		{name: "database.encryption_key", required: true, kind: keyList{&db.EncryptionKeys},
			help: "The Fernet key that encrypts access tokens in the database, as `glotpod-ident keygen` prints one: 32 bytes in base64, base64url or base32. Of a list, the first key encrypts and all decrypt."},
		{name: "database.encryption_key_file", kind: fileOf{},
			help: "A file with the key, instead of `database.encryption_key`. Several stand one per line."},
		{name: "database.postgres.host", initial: "localhost", kind: filled(&pg.Host),
			help: "The host on which Postgres listens, or the folder of its Unix socket."},
		{name: "database.postgres.port", initial: "5432", kind: number{&pg.Port, 1, 65535},
			help: "The port on which Postgres listens."},
		{name: "database.postgres.database", initial: "glotpod.ident", kind: filled(&pg.Database),
			help: "The database that holds the tables. It must exist already."},
		{name: "database.postgres.user", initial: "glotpod.ident", kind: filled(&pg.User),
			help: "A Postgres user who owns the tables and may make new ones, as not only `migrate` but the instances too make and drop some."},
		{name: "database.postgres.password", kind: secret{&pg.Password},
			help: "The password of that user."},
		{name: "database.postgres.password_file", kind: fileOf{},
			help: "A file with the password, instead of `database.postgres.password`."},
		{name: "database.postgres.sslmode", initial: "prefer",
			kind: oneOf(&pg.SSLMode, "disable", "allow", "prefer", "require", "verify-ca", "verify-full"),
			help: "Whether the connection to Postgres is encrypted and its certificate verified, as libpq has it."},
		{name: "database.postgres.sslrootcert", kind: anyText(&pg.SSLRootCert),
			help: "A PEM file with the CA certificates that Postgres is verified against, or `system`."},
		{name: "database.postgres.max_connections", initial: "10", kind: number{&pg.MaxConnections, 2, 1000},
			help: "The most connections to Postgres that this instance holds."},

		{name: "amqp.ssl", initial: "false", kind: flag{&mq.SSL},
			help: "Whether to speak TLS with RabbitMQ. Its certificate is always verified."},
		{name: "amqp.host", initial: "localhost", kind: filled(&mq.Host),
			help: "The host of the RabbitMQ broker."},
		{name: "amqp.port", computed: "5672, or 5671 with `amqp.ssl`", kind: number{&mq.Port, 1, 65535},
			help: "The port of the RabbitMQ broker."},
		{name: "amqp.login", initial: "guest", kind: filled(&mq.Login),
			help: "The RabbitMQ user."},
		{name: "amqp.password", initial: "guest", kind: secret{&mq.Password},
			help: "The password of that user."},
		{name: "amqp.password_file", kind: fileOf{},
			help: "A file with the password, instead of `amqp.password`."},
		{name: "amqp.login_method", initial: LoginAMQPlain,
			kind: oneOf(&mq.LoginMethod, LoginAMQPlain, LoginPlain, LoginExternal),
			help: "How to log in. `EXTERNAL` is by client certificate and needs `amqp.ssl` and `amqp.ssl_cert`."},
		{name: "amqp.insist", initial: "false", kind: flag{&mq.Insist},
			help: "When RabbitMQ or Postgres cannot be reached or is lost: `false` ends the instance with status 129 at once, `true` tries again for up to 5 minutes first."},
		{name: "amqp.vhost", initial: "/", kind: filled(&mq.VHost),
			help: "The virtual host in the broker."},
		{name: "amqp.heartbeat", initial: "3s", kind: duration{&mq.Heartbeat, time.Second, 5 * time.Minute},
			help: "How often broker and instance show each other that they live. A connection that is silent for one and a half of these is lost. An instance that is frozen is found by it too: its partitions go to others after about three of these."},
		{name: "amqp.ssl_ca", kind: anyText(&mq.SSLCA), computed: "the system's",
			help: "A PEM file with the CA certificates that the broker is verified against."},
		{name: "amqp.ssl_cert", kind: anyText(&mq.SSLCert),
			help: "A PEM file with this instance's client certificate, and `amqp.ssl_key` with its key."},
		{name: "amqp.ssl_key", kind: anyText(&mq.SSLKey),
			help: "A PEM file with the key of `amqp.ssl_cert`."},
		{name: "amqp.ssl_server_name", kind: anyText(&mq.SSLServerName), computed: "`amqp.host`",
			help: "The name that the broker's certificate must bear."},
		{name: "amqp.prefetch", initial: "256", kind: number{&mq.Prefetch, 1, 65535},
			help: "The most requests taken from the shared queue and not yet answered; of each partition's queue, an eighth of it. The rest wait in the broker."},

		{name: "cluster.instance", computed: "the host name",
			kind: text{&c.Cluster.Instance, "1 to 63 of the characters A–Z a–z 0–9 . _ -", instancePattern.MatchString},
			help: "The name of this instance. No two that run at once share one."},
		{name: "cluster.partitions", initial: "64", kind: number{&c.Cluster.Partitions, 1, 1024},
			help: "Into how many partitions user ids fall. All instances must agree; it is set for good when the first instance of a cluster starts."},
		{name: "cluster.queue_type", initial: QueueQuorum,
			kind: oneOf(&c.Cluster.QueueType, QueueQuorum, QueueClassic),
			help: "The type of the partitions' queues: `quorum` survives the loss of a broker node, `classic` is faster. All instances must agree; it is set for good when the first instance of a cluster starts."},

		{name: "actor.mailbox", initial: "256", kind: number{&c.Actor.Mailbox, 1, 65536},
			help: "The most requests that wait for one user in memory, beside those that came by the queue of the user's partition, where further ones wait. Well below `amqp.prefetch`, nobody's requests keep an instance from taking others'; but when an instance is killed, those that wait in that queue may be overtaken by later ones."},
		{name: "actor.read_cache", initial: "true", kind: flag{&c.Actor.ReadCache},
			help: "Whether users are kept in memory, so that most reads need no database. What another program writes to the tables is noticed, and then they are read again; say `false` if even the moment until then is too long."},
		{name: "actor.warm_users", initial: "100000", kind: number{&c.Actor.WarmUsers, 1, 100_000_000},
			help: "The most users that this instance keeps in memory."},
		{name: "actor.warm_bytes", initial: "67108864", kind: number{&c.Actor.WarmBytes, 1 << 20, 1 << 40},
			help: "The most bytes that the users in memory take, each with 336 bytes beside its data. Those that were not asked for the longest go first."},
		{name: "actor.idle", initial: "5m", kind: duration{&c.Actor.Idle, time.Second, 24 * time.Hour},
			help: "How long a user is kept in memory who is not asked for."},

		{name: "limits.body_bytes", initial: "1048576", kind: number{&c.Limits.BodyBytes, 1 << 10, 128 << 20},
			help: "The most bytes in a request's body."},
		{name: "limits.depth", initial: "32", kind: number{&c.Limits.Depth, 4, 1000},
			help: "How deep maps and arrays in a request's body may nest."},
		{name: "limits.values", initial: "100000", kind: number{&c.Limits.Values, 100, 10_000_000},
			help: "The most values in a request's body."},
		{name: "limits.in_flight_bytes", initial: "33554432", kind: number{&c.Limits.InFlightBytes, 1 << 20, 16 << 30},
			help: "The most bytes in the bodies of all requests that are being carried out at a time, each of which takes some ten times its bytes of memory at worst. Beside them wait up to `amqp.prefetch` bodies, and of each partition's queue an eighth of it."},

		{name: "notifications.include_access_tokens", initial: "false", kind: flag{&c.Notifications.IncludeAccessTokens},
			help: "Whether notifications carry users' access tokens, in clear, to every subscriber."},

		{name: "audit.keep", initial: "720h", kind: duration{&c.Audit.Keep, 0, 100 * 365 * 24 * time.Hour},
			help: "How long it is kept, at least, which request changed what for which user, in the table `ident_audit`; a day of UTC goes as a whole. `0s` writes nothing there, and leaves what there is. Of instances that disagree, the shortest counts."},

		{name: "http.listen", initial: "127.0.0.1:8470",
			kind: text{&c.HTTP.Listen, "host:port, or empty for none", isListenAddress},
			help: "Where health, metrics and the status of the cluster are served over HTTP, to whoever can connect. None of it shows a user's data."},
		{name: "http.pprof", initial: "false", kind: flag{&c.HTTP.Pprof},
			help: "Whether `/debug/pprof` is served there too: profiles of the running program, to whoever can connect."},

		{name: "tracing.endpoint",
			kind: text{&c.Tracing.Endpoint, "an http or https URL without a user or a query, or empty for none", isCollectorURL},
			help: "The OpenTelemetry collector to which spans are sent by OTLP over HTTP, as in `http://localhost:4318`; `/v1/traces` is added to it. Without it nothing is traced, and the callers' `traceparent` is carried on as it came."},
		{name: "tracing.sample", initial: "0.1", kind: fraction{&c.Tracing.Sample},
			help: "Which part of the requests is traced that come without a `traceparent`. For all others the caller has decided."},

		{name: "log.level", initial: "info", kind: oneOf(&c.Log.Level, "debug", "info", "warn", "error"),
			help: "The least severe messages that are logged."},
		{name: "log.format", initial: LogJSON, kind: oneOf(&c.Log.Format, LogJSON, LogConsole),
			help: "How log lines are written: for programs or for people."},

		{name: "shutdown.grace", initial: "25s", kind: duration{&c.Shutdown.Grace, time.Second, 10 * time.Minute},
			help: "How long an instance that was asked to stop may take to finish the requests that it has taken, and to hand its partitions over."},
	}
}

var instancePattern = regexp.MustCompile(`^[A-Za-z0-9._-]{1,63}$`)

// isCollectorURL reports whether spans can be sent to s. What else a URL may
// have is either a secret or not kept.
func isCollectorURL(s string) bool {
	if s == "" {
		return true
	}
	u, err := url.Parse(s)
	return err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Hostname() != "" &&
		u.User == nil && u.RawQuery == "" && u.Fragment == ""
}

// isListenAddress reports whether s is an address to listen on. Port 0 is any
// free one.
func isListenAddress(s string) bool {
	if s == "" {
		return true
	}
	_, port, err := net.SplitHostPort(s)
	if err != nil {
		return false
	}
	_, err = strconv.ParseUint(port, 10, 16)
	return err == nil
}
