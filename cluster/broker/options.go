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

// The ways to log in, by the names of their SASL mechanisms.
const (
	AMQPlain = "AMQPLAIN"
	Plain    = "PLAIN"
	External = "EXTERNAL" // as whom the client certificate names
)

// Options say which broker to reach, and how. Two dials may share one value.
type Options struct {
	Host  string
	Port  int // 1 to 65535
	VHost string

	LoginMethod string // AMQPlain, Plain or External
	Login       string // not used with External
	Password    string // not used with External

	// TLS returns how to speak TLS. Each dial asks it anew, so that it can
	// follow certificates that are renewed. If it is nil or returns nil, the
	// connection is plain TCP. Dial fills in an empty ServerName with Host, and
	// accepts neither InsecureSkipVerify nor a version below TLS 1.2.
	TLS func() (*tls.Config, error)

	// Heartbeat is how often each side shows that it lives, in whole seconds.
	// The connection is given up after 1.5 to 2 of them without a sign. The
	// shorter of this and the broker's own setting holds.
	Heartbeat time.Duration

	// MaxBody is the most bytes of a body that the application will look at. Of
	// a longer one only MaxBody+1 bytes are received, and the rest is thrown
	// away as it comes. 0 stands for no limit.
	MaxBody int

	// OnFiltered, if not nil, is told of each message that was changed before
	// it was received. It is called by the goroutine that reads from the
	// connection and must not block.
	OnFiltered func(Filtered)

	// How the connection is shown to the broker's operator.
	ConnectionName string
	Version        string // of this program
}

// Format implements [fmt.Formatter]. It shows the address and keeps the password
// to itself.
func (o Options) Format(f fmt.State, _ rune) {
	fmt.Fprintf(f, "RabbitMQ at %s, virtual host %q", o.address(), o.VHost)
}

func (o Options) address() string { return net.JoinHostPort(o.Host, strconv.Itoa(o.Port)) }

// errOptions is wrapped by errors about what Options hold.
var errOptions = errors.New("unusable options")

func (o Options) check() error {
	wrong := func(format string, args ...any) error {
		return fmt.Errorf("%w: %s", errOptions, fmt.Sprintf(format, args...))
	}
	switch {
	case o.Host == "":
		return wrong("no host")
	case o.Port < 1 || o.Port > 65535:
		return wrong("port %d", o.Port)
	case o.LoginMethod != AMQPlain && o.LoginMethod != Plain && o.LoginMethod != External:
		return wrong("login method %q", o.LoginMethod)
	case o.LoginMethod == External && o.TLS == nil:
		return wrong("login method %s without TLS", External)
	// PLAIN ends both with a NUL, and RabbitMQ's complaint about a surplus one
	// would quote the password.
	case strings.ContainsRune(o.Login, 0) || strings.ContainsRune(o.Password, 0):
		return wrong("a NUL in the login or password")
	case len(o.VHost) > 255:
		return wrong("a virtual host's name of %d bytes", len(o.VHost))
	case o.Heartbeat < time.Second || o.Heartbeat > 65535*time.Second:
		return wrong("a heartbeat of %v", o.Heartbeat)
	case o.MaxBody < 0:
		return wrong("a limit of %d bytes to bodies", o.MaxBody)
	}
	return nil
}

// tlsConfig returns nil for plain TCP.
func (o Options) tlsConfig() (*tls.Config, error) {
	if o.TLS == nil {
		return nil, nil
	}
	given, err := o.TLS()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errOptions, err)
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
		c.ServerName = o.Host
	}
	return c, nil
}
