package config

import (
	"net"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// setting describes one setting.
type setting struct {
	name     string // with its sections, as in TOML: "amqp.port"
	initial  string // the default, in the form of an environment variable; "" for none
	computed string // the default in words, if initial does not say it
	required bool   // must be set
	kind     kind   // which values are valid, and the field that gets the value
	help     string // one or more sentences of Markdown
}

// variable returns the name of the setting's environment variable.
func (s setting) variable() string {
	return variablePrefix + strings.ToUpper(strings.ReplaceAll(s.name, ".", "__"))
}

// section returns the name of the TOML table that contains s.
func (s setting) section() string { return s.name[:strings.LastIndexByte(s.name, '.')] }

// settings returns all settings in the order of the reference. Their values go to
// the fields of c.
func (c *Config) settings() []setting {
	return slices.Concat(c.databaseSettings(), c.amqpSettings(), c.clusterSettings(), c.actorSettings(),
		c.limitSettings(), c.otherSettings())
}

func (c *Config) databaseSettings() []setting {
	db, pg := &c.Database, &c.Database.Postgres
	return []setting{
		{name: "database.encryption_key", required: true, kind: keyList{&db.EncryptionKeys},
			help: "The Fernet key that encrypts access tokens in the database: 32 bytes in base64, base64url or base32, as `glotpod-ident keygen` prints it. In a list, the first key encrypts and all keys decrypt. A key that is not exact base64, and that Python's Fernet accepts, is used with a warning in the log."},
		{name: "database.encryption_key_file", kind: fileOf{new(string)},
			help: "A file with the key, instead of `database.encryption_key`. It may have several keys, one per line."},
		{name: "database.postgres.host", initial: "localhost", kind: addressList{&pg.Hosts, true},
			help: "The host name or address of Postgres, or the directory of its Unix socket. Of several servers, the one that accepts writes is used."},
		{name: "database.postgres.port", initial: "5432", kind: number{&pg.Port, 1, 65535},
			help: "The port of the hosts of Postgres that are given without one."},
		{name: "database.postgres.database", initial: "glotpod.ident", kind: filled(&pg.Database),
			help: "The database with the tables. It must exist."},
		{name: "database.postgres.user", initial: "glotpod.ident", kind: filled(&pg.User),
			help: "The Postgres user. It must own the tables and may create tables: `migrate` and the running instances both create and drop some."},
		{name: "database.postgres.password", kind: secret{&pg.Password},
			help: "The password of that user."},
		{name: "database.postgres.password_file", kind: fileOf{&pg.PasswordFile},
			help: "A file with the password, instead of `database.postgres.password`. It is read for each new connection."},
		{name: "database.postgres.sslmode", initial: "prefer",
			kind: oneOf(&pg.SSLMode, "disable", "allow", "prefer", "require", "verify-ca", "verify-full"),
			help: "Whether the connection to Postgres is encrypted and the certificate is verified, as in libpq."},
		{name: "database.postgres.sslrootcert", kind: anyText(&pg.SSLRootCert),
			help: "A PEM file with the CA certificates that verify Postgres, or `system` for the system's certificates."},
		{name: "database.postgres.sslcert", kind: anyText(&pg.SSLCert),
			help: "A PEM file with the client certificate for Postgres. Its key is in `database.postgres.sslkey`."},
		{name: "database.postgres.sslkey", kind: anyText(&pg.SSLKey),
			help: "A PEM file with the key of `database.postgres.sslcert`."},
		{name: "database.postgres.max_connections", initial: "10", kind: number{&pg.MaxConnections, 2, 1000},
			help: "The maximum number of connections to Postgres that this instance opens. One of them checks the database; from 4 on, one listens for writes of other programs; from 5 on, one is only for claiming and handing over partitions. All others are for requests, a quarter of them also for `list` and `changes`."},
	}
}

func (c *Config) amqpSettings() []setting {
	mq := &c.AMQP
	return []setting{
		{name: "amqp.ssl", initial: "false", kind: flag{&mq.SSL},
			help: "Whether to use TLS for RabbitMQ. The broker's certificate is always verified."},
		{name: "amqp.host", initial: "localhost", kind: addressList{&mq.Hosts, false},
			help: "The host of the RabbitMQ broker. Of several nodes of a cluster, a connection begins with a random one and tries the others if that fails."},
		{name: "amqp.port", computed: "5672, or 5671 with `amqp.ssl`", kind: number{&mq.Port, 1, 65535},
			help: "The port of the hosts of RabbitMQ that are given without one."},
		{name: "amqp.login", initial: "guest", kind: filled(&mq.Login),
			help: "The RabbitMQ user."},
		{name: "amqp.password", initial: "guest", kind: secret{&mq.Password},
			help: "The password of that user."},
		{name: "amqp.password_file", kind: fileOf{&mq.PasswordFile},
			help: "A file with the password, instead of `amqp.password`. It is read for each new connection."},
		{name: "amqp.login_method", initial: LoginAMQPlain,
			kind: oneOf(&mq.LoginMethod, LoginAMQPlain, LoginPlain, LoginExternal),
			help: "How to log in. `EXTERNAL` uses the client certificate and needs `amqp.ssl` and `amqp.ssl_cert`."},
		{name: "amqp.insist", initial: "false", kind: flag{&mq.Insist},
			help: "What to do when RabbitMQ or Postgres cannot be reached at any of its hosts, or the connection to the only host is lost: `false` ends the instance with status 129 at once, `true` retries for up to 5 minutes first."},
		{name: "amqp.vhost", initial: "/", kind: filled(&mq.VHost),
			help: "The virtual host of the broker."},
		{name: "amqp.heartbeat", initial: "3s", kind: duration{&mq.Heartbeat, time.Second, 5 * time.Minute},
			help: "How often the broker and the instance send heartbeats to each other. The instance gives a connection up on which the broker is silent for one and a half intervals. The broker drops a connection after two to three intervals, but that over which requests are received after two to three seconds, whatever this setting says: so a frozen instance is replaced."},
		{name: "amqp.ssl_ca", kind: anyText(&mq.SSLCA), computed: "the system's",
			help: "A PEM file with the CA certificates that verify the broker."},
		{name: "amqp.ssl_cert", kind: anyText(&mq.SSLCert),
			help: "A PEM file with the client certificate of this instance. Its key is in `amqp.ssl_key`."},
		{name: "amqp.ssl_key", kind: anyText(&mq.SSLKey),
			help: "A PEM file with the key of `amqp.ssl_cert`."},
		{name: "amqp.ssl_server_name", kind: anyText(&mq.SSLServerName), computed: "the host in `amqp.host`",
			help: "The name that the broker's certificate must contain."},
		{name: "amqp.prefetch", initial: "256", kind: number{&mq.Prefetch, 1, 65535},
			help: "The maximum number of requests from the shared queue that an instance carries out at the same time, and of which one caller may have a quarter while others ask too, and a sixteenth, with pauses, if it floods. An instance that takes all requests of the queue may have as many for each instance. While several callers ask for more than that, eight times as many are received, so that callers can take turns; more wait in the broker. The prefetch count of each partition queue is an eighth of it."},
	}
}

func (c *Config) clusterSettings() []setting {
	return []setting{
		{name: "cluster.instance", computed: "the host name",
			kind: text{&c.Cluster.Instance, "1 to 63 of the characters A–Z a–z 0–9 . _ -", instancePattern.MatchString},
			help: "The name of this instance. It must be unique among the running instances."},
		{name: "cluster.partitions", initial: "64", kind: number{&c.Cluster.Partitions, 1, 1024},
			help: "The number of partitions that user ids are divided into. It must be the same in all instances. It counts for a new cluster alone: `glotpod-ident repartition` changes it later, and after that the setting does not count."},
		{name: "cluster.weight", initial: "1", kind: tenths{&c.Cluster.Weight, 1, 100},
			help: "How large the share of the partitions is that this instance takes, beside the weights of the other instances: with 2 it takes twice as many as an instance with 1. No instance takes more than a quarter above its share. Weights have an effect while all instances know of them, not yet in an update from a version without this setting."},
		{name: "cluster.queue_type", initial: QueueAuto,
			kind: oneOf(&c.Cluster.QueueType, QueueAuto, QueueQuorum, QueueClassic),
			help: "The type of the partition queues: `quorum` survives the loss of a broker node, `classic` is faster. `auto` keeps the type that the cluster has; the first instance of a new cluster chooses `quorum` if `amqp.host` lists several hosts or if its connections lead to several broker nodes, else `classic`. Set `quorum` if a proxy, a name or an address leads to one of several nodes after another. The setting counts for a new cluster alone: `glotpod-ident repartition` changes the type later, and after that the setting does not count."},
	}
}

func (c *Config) actorSettings() []setting {
	return []setting{
		{name: "actor.mailbox", initial: "256", kind: number{&c.Actor.Mailbox, 1, 65536},
			help: "The maximum number of requests that wait for one user in memory. More requests wait in the partition queue; requests taken from that queue do not count. Well below `amqp.prefetch`, the requests of one user cannot keep an instance from accepting requests for other users; but when an instance is killed, requests that wait in the partition queue may be overtaken by later ones."},
		{name: "actor.read_cache", initial: "true", kind: flag{&c.Actor.ReadCache},
			help: "Whether to keep users in memory, so that most reads need no database. When another program writes to the tables, the instance notices and reads the users again. Set `false` if even this short delay is too long."},
		{name: "actor.warm_users", initial: "100000", kind: number{&c.Actor.WarmUsers, 1, 100_000_000},
			help: "The maximum number of users that this instance keeps in memory."},
		{name: "actor.warm_bytes", initial: "67108864", kind: number{&c.Actor.WarmBytes, 1 << 20, 1 << 40},
			help: "The maximum size of the users in memory in bytes, including 336 bytes of overhead per user. The least recently used users are evicted first."},
		{name: "actor.idle", initial: "5m", kind: duration{&c.Actor.Idle, time.Second, 24 * time.Hour},
			help: "How long a user stays in memory without being read or written."},
	}
}

func (c *Config) limitSettings() []setting {
	return []setting{
		{name: "limits.body_bytes", initial: "1048576", kind: number{&c.Limits.BodyBytes, 1 << 10, 128 << 20},
			help: "The maximum size of a request's body in bytes."},
		{name: "limits.depth", initial: "32", kind: number{&c.Limits.Depth, 4, 1000},
			help: "The maximum nesting depth of maps and arrays in a request's body."},
		{name: "limits.values", initial: "100000", kind: number{&c.Limits.Values, 100, 10_000_000},
			help: "The maximum number of values in a request's body."},
		{name: "limits.in_flight_bytes", initial: "33554432", kind: number{&c.Limits.InFlightBytes, 1 << 20, 16 << 30},
			help: "The maximum size in bytes of the bodies and headers of all requests in progress. In the worst case a request needs about ten times the size of its body in memory. In addition, as many bytes wait, and at least one request for each queue; more wait in the broker, which then sends fewer requests ahead than `amqp.prefetch` says."},
	}
}

// otherSettings returns the sections with few settings each.
func (c *Config) otherSettings() []setting {
	return []setting{
		{name: "notifications.include_access_tokens", initial: "false", kind: flag{&c.Notifications.IncludeAccessTokens},
			help: "Whether notifications contain the users' access tokens, in clear text, for every subscriber."},

		{name: "access.tokens", computed: "every caller", kind: nameList{&c.Access.Tokens},
			help: "The callers that get access tokens in the replies to `get`, by their logins at RabbitMQ, which must be in the property `user_id` of their requests. All others get the users without tokens, also callers without the property. An empty list means that no caller gets them. It must be the same in all instances. See deploy/guide/security.md."},

		{name: "audit.keep", initial: "720h", kind: duration{&c.Audit.Keep, 0, 100 * 365 * 24 * time.Hour},
			help: "How long the table `ident_log` keeps, at least, which request changed what for which user. Older entries are removed by whole days in UTC. Entries of the last 24 hours are kept in any case, because requests may be replayed: `0s` keeps a day or two. If instances disagree, the shortest time counts."},

		{name: "http.listen", initial: "127.0.0.1:8470",
			kind: text{&c.HTTP.Listen, "host:port, or empty for none", isListenAddress},
			help: "Where to serve health, metrics, the cluster's status and the documents over HTTP, without authentication. None of it contains a user's data."},
		{name: "http.ssl_cert", kind: anyText(&c.HTTP.SSLCert),
			help: "A PEM file with the certificate of `http.listen`, and those between it and the CA. With it, `http.listen` takes HTTPS only. Its key is in `http.ssl_key`. Both files are read again when they change."},
		{name: "http.ssl_key", kind: anyText(&c.HTTP.SSLKey),
			help: "A PEM file with the key of `http.ssl_cert`."},
		{name: "http.admin_token_file", kind: fileOf{&c.HTTP.AdminTokenFile},
			help: "A file with a token of 16 characters or more. An operator who has the token may drain and undrain instances and change the partitions, on the status page and at `/admin/`. Without the setting there are no such actions. The file is read again when it changes. See deploy/guide/security.md."},
		{name: "http.pprof", initial: "false", kind: flag{&c.HTTP.Pprof},
			help: "Whether to serve `/debug/pprof` too: profiles of the running program, without authentication."},

		{name: "tracing.endpoint",
			kind: text{&c.Tracing.Endpoint, "an http or https URL without a user or a query, or empty for none", isCollectorURL},
			help: "The OpenTelemetry collector that gets the spans by OTLP over HTTP, as in `http://localhost:4318`; `/v1/traces` is appended. If it is empty, the `OTEL_…` variables say whether traces are sent: see deploy/guide/observe.md. Without both, nothing is traced, and the caller's `traceparent` is passed on unchanged if it is well-formed."},
		{name: "tracing.sample", initial: "0.1", kind: fraction{&c.Tracing.Sample},
			help: "The fraction of requests without a `traceparent` that are traced. For all other requests the caller decides. If it is not set, `OTEL_TRACES_SAMPLER` takes its place."},

		{name: "log.level", initial: "info", kind: oneOf(&c.Log.Level, "debug", "info", "warn", "error"),
			help: "The lowest level of messages that are logged."},
		{name: "log.format", initial: LogJSON, kind: oneOf(&c.Log.Format, LogJSON, LogConsole),
			help: "The format of log lines: `json` for programs, `console` for people."},

		{name: "shutdown.grace", initial: "25s", kind: duration{&c.Shutdown.Grace, time.Second, 10 * time.Minute},
			help: "How long an instance that was asked to stop may take to finish its requests and to hand over its partitions."},
	}
}

var instancePattern = regexp.MustCompile(`^[A-Za-z0-9._-]{1,63}$`)

// isCollectorURL reports whether s is a valid URL of a collector. User and query are
// refused because they may be secrets; a fragment has no meaning.
func isCollectorURL(s string) bool {
	if s == "" {
		return true
	}
	u, err := url.Parse(s)
	return err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Hostname() != "" &&
		u.User == nil && u.RawQuery == "" && u.Fragment == ""
}

// isListenAddress reports whether s is an address to listen on. Port 0 means any free
// port.
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
