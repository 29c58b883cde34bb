package client

import (
	"cmp"
	"context"
	"crypto/tls"
	"time"

	"github.com/glotpod/ident/cluster/broker"
)

// Options say which broker to connect to, and how.
type Options struct {
	// Addresses has the nodes of the broker, in the form host:port, at least one. Each attempt
	// to connect begins with a random one, and tries the others if that fails.
	Addresses []string

	VHost string // "": "/"

	LoginMethod string // "PLAIN", "AMQPLAIN" or "EXTERNAL" (by client certificate); "": "PLAIN"

	// Login is the broker's user. It is also the property user_id of requests, by which the
	// service decides whether a reply has access tokens. With EXTERNAL, it must be the user that the
	// broker derives from the certificate, or "": then requests do not have the property.
	Login string

	Password string // not used with EXTERNAL

	// ReadPassword, if not nil, is called for each attempt to connect and returns the password
	// to use instead of Password.
	ReadPassword func() (string, error)

	// TLS, if not nil, is called for each attempt to connect and returns the configuration. So
	// renewed certificates are used. If it returns nil, the connection is plain TCP. An empty
	// ServerName is set to the host. InsecureSkipVerify is refused, and so is a version below
	// TLS 1.2.
	TLS func() (*tls.Config, error)

	// Name is that of the calling service: the name of the connection, and the property app_id of
	// requests. It has at most 200 bytes.
	Name string

	// Trace, if not nil, returns the W3C trace context that a request continues, as the values
	// of traceparent and tracestate. An empty traceparent means that there is none.
	Trace func(ctx context.Context) (traceparent, tracestate string)

	// Observe, if not nil, is called after each request, also those of Watch, each attempt to
	// connect again, and each change that Watch has handled. It must not block. It is called from
	// many goroutines.
	Observe func(Observation)
}

// An Observation is something that the client did, for metrics.
type Observation struct {
	// Operation is the operation of the request. "connect" is an attempt to replace a lost
	// connection, or a subscription of Watch that was interrupted. "watch" is a call of
	// Handle by Watch.
	Operation string

	Duration time.Duration
	Attempts int   // how often the request was tried, not counting repetitions because of a missing reply; else 1
	Err      error // what the caller got
}

// heartbeat is how often each side sends a sign of life. A connection is lost after up to
// two without one.
const heartbeat = 10 * time.Second

// maxReply is the largest body of a reply that is read, in bytes. A page
// of the service has 4 MiB.
const maxReply = 16 << 20

// maxName is the largest length of [Options].Name, in bytes.
const maxName = 200

func (o *Options) broker() broker.Options {
	return broker.Options{
		Addresses: o.Addresses, VHost: cmp.Or(o.VHost, "/"),
		LoginMethod: cmp.Or(o.LoginMethod, broker.Plain), Login: o.Login, Password: o.Password, ReadPassword: o.ReadPassword,
		TLS: o.TLS, Heartbeat: heartbeat, MaxBody: maxReply, ConnectionName: o.Name,
	}
}

func (o *Options) observe(operation string, begin time.Time, attempts int, err error) {
	if o.Observe != nil {
		o.Observe(Observation{Operation: operation, Duration: time.Since(begin), Attempts: attempts, Err: err})
	}
}
