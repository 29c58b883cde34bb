package broker

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"
)

// The login methods, named by their SASL mechanisms.
const (
	AMQPlain = "AMQPLAIN"
	Plain    = "PLAIN"
	External = "EXTERNAL" // as the user that the client certificate names
)

// Options say which broker to connect to, and how. Several dials may share one value.
type Options struct {
	// Addresses has the nodes of the broker, in the form host:port, at least one. A dial
	// begins with a random one and tries the others if that fails.
	Addresses []string

	VHost string

	LoginMethod string // AMQPlain, Plain or External
	Login       string // not used with External
	Password    string // not used with External

	// ReadPassword, if not nil, is called for each dial and returns the password to use
	// instead of Password.
	ReadPassword func() (string, error)

	// TLS returns the TLS configuration. It is called for each dial, so that renewed
	// certificates are used. If TLS is nil or returns nil, the connection is plain TCP.
	// Dial sets an empty ServerName to the host that it dials, and accepts neither InsecureSkipVerify nor
	// a version below TLS 1.2.
	TLS func() (*tls.Config, error)

	// Heartbeat is how often each side sends a sign of life, in whole seconds. The shorter
	// of this and the broker's setting is used. The broker closes a connection on which it has
	// received nothing for two to three heartbeats.
	Heartbeat time.Duration

	// Patience is for how many seconds at least the broker may be silent until this side closes
	// the connection. It does so after one and a half heartbeats if that is longer.
	Patience time.Duration

	// MaxBody is the most bytes of a body that the application reads. Of a longer body
	// only MaxBody+1 bytes are received; the others are dropped as they arrive. 0 means
	// no limit.
	MaxBody int

	// OnFiltered, if not nil, is called with each message that was changed before it
	// was received. It is called by the goroutine that reads from the connection and
	// must not block.
	OnFiltered func(Filtered)

	// The name and the version that the broker's operator sees.
	ConnectionName string
	Version        string // of this program
}

// Format implements [fmt.Formatter]. It prints the addresses, and not the password.
func (o Options) Format(f fmt.State, _ rune) {
	fmt.Fprintf(f, "RabbitMQ at %s, virtual host %q", strings.Join(o.Addresses, ", "), o.VHost)
}

// errOptions is wrapped by errors about the values in Options.
var errOptions = errors.New("unusable options")

func (o Options) check() error {
	wrong := func(format string, args ...any) error {
		return fmt.Errorf("%w: %s", errOptions, fmt.Sprintf(format, args...))
	}
	for _, address := range o.Addresses {
		host, port, err := net.SplitHostPort(address)
		number, badPort := strconv.ParseUint(port, 10, 16)
		if err != nil || host == "" || badPort != nil || number == 0 {
			return wrong("address %q", address)
		}
	}
	switch {
	case o.LoginMethod != AMQPlain && o.LoginMethod != Plain && o.LoginMethod != External:
		return wrong("login method %q", o.LoginMethod)
	case o.LoginMethod == External && o.TLS == nil:
		return wrong("login method %s without TLS", External)
	// In PLAIN a NUL ends each of them. RabbitMQ's error about a further NUL would
	// quote the password.
	case strings.ContainsRune(o.Login, 0) || strings.ContainsRune(o.Password, 0):
		return wrong("a NUL in the login or password")
	case len(o.VHost) > 255:
		return wrong("a virtual host's name of %d bytes", len(o.VHost))
	case o.Heartbeat < time.Second || o.Heartbeat > 65535*time.Second:
		return wrong("a heartbeat of %v", o.Heartbeat)
	case o.Patience < 0:
		return wrong("a patience of %v", o.Patience)
	case o.MaxBody < 0:
		return wrong("a limit of %d bytes to bodies", o.MaxBody)
	}
	return nil
}

// tlsConfig returns the TLS configuration for the node at address, nil for plain TCP.
func (o Options) tlsConfig(address string) (*tls.Config, error) {
	if o.TLS == nil {
		return nil, nil
	}
	given, err := o.TLS()
	if err != nil {
		return nil, err
	}
	if given == nil {
		return nil, nil
	}
	if given.InsecureSkipVerify {
		return nil, fmt.Errorf("%w: TLS without verification", errOptions)
	}
	c := given.Clone()
	c.MinVersion = max(c.MinVersion, tls.VersionTLS12)
	if c.ServerName == "" {
		c.ServerName, _, err = net.SplitHostPort(address)
	}
	return c, err
}
