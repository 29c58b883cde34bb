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

// RabbitMQOptions say how to run a RabbitMQ broker.
type RabbitMQOptions struct {
	// Dir is the broker's folder, which is made if need be. It holds the
	// broker's data, settings, Erlang cookie and log, rabbitmq.log.
	Dir string

	// TLS, if not nil, has the broker listen on a further port with TLS.
	TLS *TLS

	// Metrics has the broker collect the figures for the charts of its
	// management pages, which costs it some work for each queue and channel.
	Metrics bool
}

// TLS says how the broker proves who it is, and whom it believes. A client that
// logs in by EXTERNAL is the user whom its certificate's common name names.
type TLS struct {
	CAFile   string // of those who sign the clients' certificates
	CertFile string // the broker's own
	KeyFile  string

	// RequireCert refuses clients that show no certificate. One that is shown
	// is always checked.
	RequireCert bool
}

// RabbitMQ is a private RabbitMQ broker, with the plugins for the consistent
// hash exchange, management over HTTP and login by certificate. Its exported
// fields do not change.
//
// A Kill leaves behind what a crash of that RabbitMQ leaves. A broker as old as
// 3.10 writes down some of what is declared seconds later: one that is killed
// sooner may have lost a queue, or have a quorum queue that takes no messages.
// Messages that it has confirmed, in queues that are older, are kept.
type RabbitMQ struct {
	Host     string
	Port     int    // AMQP without TLS
	TLSPort  int    // AMQP with TLS, 0 without
	User     string // an administrator, known in every virtual host
	Password string

	Management Management

	server
}

// StartRabbitMQ starts a broker on free ports and returns when it answers. A
// folder that was used before gives its data back. Once ctx is cancelled, a
// start that is under way fails; a broker that has been started is not affected.
func StartRabbitMQ(ctx context.Context, o RabbitMQOptions) (*RabbitMQ, error) {
	script, epmd, err := findRabbitMQ()
	if err != nil {
		return nil, err
	}
	folder, err := openRabbitMQFolder(o.Dir)
	if err != nil {
		return nil, fmt.Errorf("prepare %s for RabbitMQ: %w", o.Dir, err)
	}
	var r *RabbitMQ
	err = onFreePorts(5, func(free []int) error {
		ports := rabbitmqPorts{amqp: free[0], management: free[1], epmd: free[2], erlang: free[3]}
		if o.TLS != nil {
			ports.tls = free[4]
		}
		if err := folder.configure(ports, o); err != nil {
			return fmt.Errorf("write RabbitMQ's settings: %w", err)
		}
		r = newRabbitMQ(script, epmd, folder, ports)
		return r.start(ctx)
	})
	if err != nil {
		return nil, err
	}
	return r, nil
}

// URL returns what a client needs to connect to one of the broker's virtual
// hosts, without TLS.
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
	epmd       int // of Erlang's port mapper
	erlang     int // of the broker's own Erlang node
}

func newRabbitMQ(script, epmd string, folder *rabbitmqFolder, ports rabbitmqPorts) *RabbitMQ {
	// Every new RabbitMQ has this administrator, who may log in from the
	// loopback address only.
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
	}
	r.server = server{
		name:       "RabbitMQ",
		log:        folder.log(),
		stopSignal: syscall.SIGTERM,
		done:       make(chan struct{}),
	}
	env := folder.environment(filepath.Dir(epmd), ports)
	run := func(program string) (*Process, error) {
		cmd := exec.Command(program)
		cmd.Dir, cmd.Env = folder.dir, env
		return launchLogged(cmd, r.log, syscall.SIGKILL)
	}
	r.launch = func(ctx context.Context) ([]*Process, error) {
		// Left to itself, the broker would start a port mapper that outlives it.
		// It uses one that is there, which can be ended together with it.
		mapper, err := run(epmd)
		if err != nil {
			return nil, err
		}
		answers := func(ctx context.Context) error { return dial(ctx, ports.epmd) }
		if err := awaitReady(ctx, mapper, answers); err != nil {
			return []*Process{mapper}, err
		}
		broker, err := run(script)
		if err != nil {
			return []*Process{mapper}, err
		}
		return []*Process{mapper, broker}, awaitReady(ctx, broker, r.probe)
	}
	return r
}

// probe succeeds when a client can log in by AMQP, TLS is listened for, and the
// management API answers.
func (r *RabbitMQ) probe(ctx context.Context) error {
	conn, err := amqp.DialConfig(r.URL("/"), amqp.Config{
		Dial: func(network, addr string) (net.Conn, error) {
			conn, err := new(net.Dialer).DialContext(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			// For the handshake; there is nothing after it but the closing.
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
