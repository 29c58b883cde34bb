package config

import (
	"net"
	"strconv"
	"time"
)

// Config has all settings. It is safe to print: see [Hidden].
type Config struct {
	Database      Database
	AMQP          AMQP
	Cluster       Cluster
	Actor         Actor
	Limits        Limits
	Notifications Notifications
	Access        Access
	Audit         Audit
	HTTP          HTTP
	Tracing       Tracing
	Log           Log
	Shutdown      Shutdown

	// Warnings are about settings that are used, and should be corrected. They belong in
	// the log.
	Warnings []*Error
}

// Database has the settings of the database and of the encryption of access tokens.
type Database struct {
	// EncryptionKeys has at least one key. The first key encrypts, all keys decrypt.
	EncryptionKeys []Key
	Postgres       Postgres
}

// An Address is where a server listens.
type Address struct {
	Host string
	Port int // 1 to 65535
}

// String returns the address in the form host:port.
func (a Address) String() string { return net.JoinHostPort(a.Host, strconv.Itoa(a.Port)) }

// Postgres has the settings of the connection to the database.
type Postgres struct {
	Hosts          []Address // at least one; a Host may be the directory of a Unix socket
	Port           int       // of the Hosts that were given without one
	Database       string    // never empty
	User           string    // never empty
	Password       Secret    // "" for none
	PasswordFile   string    // that Password was read from, or ""
	SSLMode        string    // as in libpq: disable, allow, prefer, require, verify-ca, verify-full
	SSLRootCert    string    // a PEM file, "system" for the system's certificates, or ""
	SSLCert        string    // a PEM file, or "" for no client certificate
	SSLKey         string    // a PEM file; set if and only if SSLCert is
	MaxConnections int       // of this instance; 2 to 1000
}

// AMQP has the settings of the connection to RabbitMQ.
type AMQP struct {
	SSL           bool
	Hosts         []Address // at least one
	Port          int       // of the Hosts that were given without one
	Login         string
	Password      Secret
	PasswordFile  string // that Password was read from, or ""
	LoginMethod   string // LoginAMQPlain, LoginPlain or LoginExternal
	Insist        bool   // retry for some time when a connection fails or is lost
	VHost         string // never empty
	Heartbeat     time.Duration
	SSLCA         string // a PEM file, or "" for the system's certificates
	SSLCert       string // a PEM file, or "" for no client certificate
	SSLKey        string // a PEM file; set if and only if SSLCert is
	SSLServerName string // the name to verify, or "" for the host that was dialled
	Prefetch      int    // requests from the shared queue, 1 to 65535
}

// Values of [AMQP].LoginMethod: the names of SASL mechanisms.
const (
	LoginAMQPlain = "AMQPLAIN"
	LoginPlain    = "PLAIN"
	LoginExternal = "EXTERNAL" // by client certificate
)

// Cluster has the settings of the cluster and of this instance in it.
type Cluster struct {
	Instance   string // 1 to 63 of A–Z a–z 0–9 . _ -
	Partitions int    // 1 to 1024, the same in all instances
	Weight     int    // in the hash ring, in tenths: 1 to 100
	QueueType  string // QueueAuto, or the same QueueQuorum or QueueClassic in all instances
}

// Values of [Cluster].QueueType.
const (
	QueueAuto    = "auto" // that of the cluster; a new one has what suits the broker
	QueueQuorum  = "quorum"
	QueueClassic = "classic"
)

// Actor has the limits of mailboxes and of the users in memory.
type Actor struct {
	Mailbox   int           // requests, 1 to 65536
	ReadCache bool          // keep users in memory
	WarmUsers int           // 1 to 100000000
	WarmBytes int           // 1 MiB to 1 TiB
	Idle      time.Duration // 1s to 24h
}

// Limits has the limits of request bodies.
type Limits struct {
	BodyBytes     int // 1 KiB to 128 MiB
	Depth         int // nesting of maps and arrays, 4 to 1000
	Values        int // values in one body, 100 to 10000000
	InFlightBytes int // of all bodies in progress together, 1 MiB to 16 GiB
}

// Notifications has the settings of notifications.
type Notifications struct {
	IncludeAccessTokens bool
}

// Access has the settings of what callers may see.
type Access struct {
	// Tokens are the logins at RabbitMQ of the callers that get access tokens in replies. nil:
	// all callers; empty: none.
	Tokens []string
}

// Audit has the settings of the log of requests and changes.
type Audit struct {
	Keep time.Duration // the minimum time for which rows are kept, 0 to 100 years; a day if it is shorter
}

// HTTP has the settings of the HTTP server for health, metrics and status.
type HTTP struct {
	Listen         string // host:port, or "" for no server
	SSLCert        string // a PEM file, or "" for no TLS
	SSLKey         string // a PEM file; set if and only if SSLCert is
	AdminTokenFile string // with the token of operators, or "" for no actions
	Pprof          bool   // serve profiles too

	adminToken Secret // that AdminTokenFile had at the start
}

// Tracing has the settings of tracing.
type Tracing struct {
	Endpoint    string  // the URL of an OTLP collector, or "" for that of the OTEL_ variables, if any
	Sample      float64 // fraction of the requests without a traceparent, 0 to 1
	SampleGiven bool    // Sample is not the default
}

// Log has the settings of the log.
type Log struct {
	Level  string // "debug", "info", "warn" or "error"
	Format string // LogJSON or LogConsole
}

// Values of [Log].Format.
const (
	LogJSON    = "json"
	LogConsole = "console"
)

// Shutdown has the settings of an orderly shutdown.
type Shutdown struct {
	Grace time.Duration // 1s to 10m
}
