package config

import "time"

// Config is the whole of the settings. It is safe to print: see [Hidden].
type Config struct {
	Database      Database
	AMQP          AMQP
	Cluster       Cluster
	Actor         Actor
	Limits        Limits
	Notifications Notifications
	Audit         Audit
	HTTP          HTTP
	Tracing       Tracing
	Log           Log
	Shutdown      Shutdown
}

// Database says where users are kept and how their access tokens are sealed.
type Database struct {
	// EncryptionKeys has at least one key. The first encrypts, all decrypt.
	EncryptionKeys []Key
	Postgres       Postgres
}

// Postgres says how to reach the database.
type Postgres struct {
	Host           string // a host name, an address, or the folder of a Unix socket
	Port           int    // 1 to 65535
	Database       string // never empty
	User           string // never empty
	Password       Secret // "" for none
	SSLMode        string // as libpq names them: disable, allow, prefer, require, verify-ca, verify-full
	SSLRootCert    string // a PEM file, "system" for the system's, or ""
	MaxConnections int    // of this instance, 2 to 1000
}

// AMQP says how to reach RabbitMQ.
type AMQP struct {
	SSL           bool
	Host          string
	Port          int // 1 to 65535
	Login         string
	Password      Secret
	LoginMethod   string // LoginAMQPlain, LoginPlain or LoginExternal
	Insist        bool   // try again for a while when a connection fails or is lost
	VHost         string // never empty
	Heartbeat     time.Duration
	SSLCA         string // a PEM file, or "" for the system's
	SSLCert       string // a PEM file, or "" for no client certificate
	SSLKey        string // a PEM file, given if SSLCert is
	SSLServerName string // the name to verify, or "" for Host
	Prefetch      int    // requests of the shared queue, 1 to 65535
}

// What [AMQP].LoginMethod can be: the names of SASL mechanisms.
const (
	LoginAMQPlain = "AMQPLAIN"
	LoginPlain    = "PLAIN"
	LoginExternal = "EXTERNAL" // by client certificate
)

// Cluster says what this instance is among its equals.
type Cluster struct {
	Instance   string // 1 to 63 of A–Z a–z 0–9 . _ -
	Partitions int    // 1 to 1024, the same in all instances
	QueueType  string // QueueQuorum or QueueClassic, the same in all instances
}

// What [Cluster].QueueType can be.
const (
	QueueQuorum  = "quorum"
	QueueClassic = "classic"
)

// Actor bounds what one user's actor holds, and how many users are kept in
// memory.
type Actor struct {
	Mailbox   int           // requests, 1 to 65536
	ReadCache bool          // keep users in memory
	WarmUsers int           // 1 to 100000000
	WarmBytes int           // 1 MiB to 1 TiB
	Idle      time.Duration // 1s to 24h
}

// Limits bounds what one request's body may hold.
type Limits struct {
	BodyBytes     int // 1 KiB to 128 MiB
	Depth         int // maps and arrays inside each other, 4 to 1000
	Values        int // values in all, 100 to 10000000
	InFlightBytes int // of all bodies together, 1 MiB to 16 GiB
}

// Notifications says what subscribers are told.
type Notifications struct {
	IncludeAccessTokens bool
}

// Audit says how changes are kept on record.
type Audit struct {
	Keep time.Duration // 0 to 100 years; 0: not at all
}

// HTTP says where health, metrics and status are served.
type HTTP struct {
	Listen string // host:port, or "" for nowhere
	Pprof  bool   // profiles too
}

// Tracing says which requests are traced, and where their spans are sent.
type Tracing struct {
	Endpoint string  // the URL of an OTLP collector, or "" for none
	Sample   float64 // of the requests whose caller has not decided it, 0 to 1
}

// Log says what is logged, and how.
type Log struct {
	Level  string // "debug", "info", "warn" or "error"
	Format string // LogJSON or LogConsole
}

// What [Log].Format can be.
const (
	LogJSON    = "json"
	LogConsole = "console"
)

// Shutdown bounds an orderly end.
type Shutdown struct {
	Grace time.Duration // 1s to 10m
}
