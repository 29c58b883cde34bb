package localserver

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// RabbitMQOptions configure a RabbitMQ broker.
type RabbitMQOptions struct {
	// Dir is the broker's folder. It is created if it does not exist. It holds the
	// broker's data, settings, Erlang cookie and log, rabbitmq.log.
	Dir string

	// TLS, if not nil, makes the broker listen on a second port with TLS.
	TLS *TLS

	// MaxMessageSize is the size in bytes of the largest message that the broker accepts.
	// 0 is the broker's own default.
	MaxMessageSize int

	// Metrics makes the broker collect the statistics for the charts of its
	// management pages. This costs CPU time for each queue and channel.
	Metrics bool

	// DenyDeprecated makes the broker refuse what RabbitMQ has deprecated, such as transient
	// queues that are not exclusive. Versions before 3.12 do not know this and permit all.
	DenyDeprecated bool

	// Join, if not nil, is a running broker with the cluster that the new broker joins
	// at its first start. The two share a port mapper, so the joined broker must not be
	// ended before the new one.
	Join *RabbitMQ

	// PauseMinority makes the broker stop while it sees only a minority of the nodes of its
	// cluster. It is for clusters of three nodes or more.
	PauseMinority bool
}

// TLS configures the broker's certificate and the check of the clients' certificates. A
// client that logs in by EXTERNAL becomes the user that its certificate's common name
// names.
type TLS struct {
	CAFile   string // the authorities that sign clients' certificates
	CertFile string // the broker's certificate
	KeyFile  string // the key of CertFile

	// RequireCert makes the broker refuse clients without a certificate. Without
	// RequireCert, the broker still checks each certificate that a client sends.
	RequireCert bool
}

// RabbitMQ is a private RabbitMQ broker with the plugins for the consistent hash
// exchange, for management over HTTP and for login by certificate. Its exported fields
// do not change.
//
// A Kill has the effect of a crash of the broker. Old brokers, such as 3.10, store some
// declarations seconds later. If such a broker is killed sooner, a new queue may be
// gone, or a new quorum queue may accept no messages. Confirmed messages in older queues
// are kept.
type RabbitMQ struct {
	Host     string
	Port     int    // AMQP without TLS
	TLSPort  int    // AMQP with TLS, 0 without
	User     string // an administrator
	Password string

	Management Management
	Control    Control

	folder *rabbitmqFolder
	epmd   int // the port of Erlang's port mapper

	server
}

// StartRabbitMQ starts a broker on free ports and returns when the broker answers. A
// start in a folder that was used before finds its data again. Cancelling ctx makes a
// running StartRabbitMQ fail, and does not affect a broker that has been started.
func StartRabbitMQ(ctx context.Context, o RabbitMQOptions) (*RabbitMQ, error) {
	script, epmd, err := findRabbitMQ()
	if err != nil {
		return nil, err
	}
	folder, err := openRabbitMQFolder(o.Dir, o.Join)
	if err != nil {
		return nil, fmt.Errorf("prepare %s for RabbitMQ: %w", o.Dir, err)
	}
	var r *RabbitMQ
	err = onFreePorts(5, func(free []int) error {
		ports := rabbitmqPorts{amqp: free[0], management: free[1], epmd: free[2], erlang: free[3]}
		if o.TLS != nil {
			ports.tls = free[4]
		}
		if o.Join != nil {
			ports.epmd = o.Join.epmd
		}
		if err := folder.configure(ports, o); err != nil {
			return fmt.Errorf("write RabbitMQ's settings: %w", err)
		}
		r = newRabbitMQ(script, epmd, folder, ports, o.Join != nil)
		return r.start(ctx)
	})
	if err != nil {
		return nil, err
	}
	return r, nil
}

// Node returns the name of the broker's node in its cluster.
func (r *RabbitMQ) Node() string { return r.folder.node }

// Address returns host:port.
func (r *RabbitMQ) Address() string { return address(r.Port) }

// URL returns the connection URL of one of the broker's virtual hosts, without TLS.
func (r *RabbitMQ) URL(vhost string) string {
	u := url.URL{
		Scheme:  "amqp",
		User:    url.UserPassword(r.User, r.Password),
		Host:    address(r.Port),
		Path:    "/" + vhost,
		RawPath: "/" + url.PathEscape(vhost),
	}
	return u.String()
}

// rabbitmqPorts are the ports that one broker listens on.
type rabbitmqPorts struct {
	amqp       int
	tls        int // 0 for none
	management int
	epmd       int // Erlang's port mapper
	erlang     int // the broker's Erlang node
}

// newRabbitMQ returns a broker that is not started. If mapped is true, another broker runs
// the port mapper.
func newRabbitMQ(script, epmd string, folder *rabbitmqFolder, ports rabbitmqPorts, mapped bool) *RabbitMQ {
	// Every new RabbitMQ has this administrator. It may log in from the loopback
	// address only.
	const user, password = "guest", "guest"
	r := &RabbitMQ{
		Host:     loopback,
		Port:     ports.amqp,
		TLSPort:  ports.tls,
		User:     user,
		Password: password,
		Management: Management{
			URL:      "http://" + address(ports.management),
			User:     user,
			Password: password,
		},
		folder: folder,
		epmd:   ports.epmd,
	}
	r.server = server{
		name:       "RabbitMQ",
		log:        folder.log(),
		stopSignal: syscall.SIGTERM,
		done:       make(chan struct{}),
	}
	env := folder.environment(filepath.Dir(epmd), ports)
	r.Control = Control{Program: filepath.Join(filepath.Dir(script), "rabbitmqctl"), Env: env}
	run := func(program string) (*Process, error) {
		cmd := exec.Command(program)
		cmd.Dir, cmd.Env = folder.dir, env
		return launchLogged(cmd, r.log, syscall.SIGKILL)
	}
	r.launch = func(ctx context.Context) (started []*Process, err error) {
		if !mapped {
			// The broker uses a port mapper that is running already. It would start one
			// that outlives the broker; this one is stopped together with the broker.
			mapper, err := run(epmd)
			if err != nil {
				return nil, err
			}
			started = append(started, mapper)
			answers := func(ctx context.Context) error { return dial(ctx, ports.epmd) }
			if err := awaitReady(ctx, mapper, answers); err != nil {
				return started, err
			}
		}
		broker, err := run(script)
		if err != nil {
			return started, err
		}
		return append(started, broker), awaitReady(ctx, broker, r.probe)
	}
	return r
}

// probe succeeds when a client can log in by AMQP, the TLS port accepts connections,
// and the management API replies.
func (r *RabbitMQ) probe(ctx context.Context) error {
	conn, err := amqp.DialConfig(r.URL("/"), amqp.Config{
		Dial: func(network, addr string) (net.Conn, error) {
			conn, err := new(net.Dialer).DialContext(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			// The deadline is for the handshake. After it, the connection is closed.
			deadline, _ := ctx.Deadline()
			return conn, conn.SetDeadline(deadline)
		},
		Heartbeat: time.Minute,
	})
	if err != nil {
		return err
	}
	if err := conn.Close(); err != nil {
		return err
	}
	if r.TLSPort != 0 {
		if err := dial(ctx, r.TLSPort); err != nil {
			return err
		}
	}
	return r.Management.Call(ctx, http.MethodGet, "/api/whoami", nil, nil)
}

func dial(ctx context.Context, port int) error {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", address(port))
	if err != nil {
		return err
	}
	return conn.Close()
}
