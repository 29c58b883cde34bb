package broker

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"net"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// frameMax is the most bytes in a frame that we agree to: RabbitMQ's default.
const frameMax = 128 << 10

// Dial connects, logs in and opens the virtual host. ctx bounds all of that, and
// has no say afterwards. An error is a [*DialError]; [Refused] tells what can be
// done about it.
//
// The connection does not recover: once it is lost, it stays so.
func Dial(ctx context.Context, o Options) (*amqp.Connection, error) {
	d := &dial{options: o}
	conn, err := d.do(ctx)
	if err != nil {
		return nil, &DialError{Address: o.address(), VHost: o.VHost, Stage: d.stage, Err: err}
	}
	return conn, nil
}

// A dial is one attempt to connect.
type dial struct {
	options Options
	stage   Stage
}

func (d *dial) do(ctx context.Context) (*amqp.Connection, error) {
	d.stage = Preparing
	if err := d.options.check(); err != nil {
		return nil, err
	}
	config, err := d.options.tlsConfig()
	if err != nil {
		return nil, err
	}

	d.stage = Connecting
	socket, err := d.connect(ctx)
	if err != nil {
		return nil, cause(ctx, err)
	}
	// Closing ends any wait on the socket, in all that follows. A deadline would
	// not do: the library sets its own.
	release := context.AfterFunc(ctx, func() { socket.Close() })
	stream := socket
	if config != nil {
		d.stage = Securing
		client := tls.Client(socket, config)
		if err = client.HandshakeContext(ctx); err != nil {
			socket.Close()
			release()
			return nil, cause(ctx, err)
		}
		stream = client
	}

	d.stage = LoggingIn
	conn, err := d.open(stream)
	if !release() && err == nil {
		conn.Close() // the socket is closed already
		err = ctx.Err()
	}
	if err != nil {
		socket.Close()
		return nil, cause(ctx, err)
	}
	return conn, nil
}

func (d *dial) connect(ctx context.Context) (net.Conn, error) {
	dialer := net.Dialer{
		// Heartbeats find a dead peer sooner. This serves where none flow: while
		// the broker blocks a publisher, and in an upload that never ends.
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 3},
	}
	return dialer.DialContext(ctx, "tcp", d.options.address()) // with TCP_NODELAY, as Go always has it
}

// open speaks AMQP over stream until the virtual host is open.
func (d *dial) open(stream net.Conn) (*amqp.Connection, error) {
	properties := amqp.Table{
		"product":  "glotpod.ident",
		"version":  d.options.Version,
		"platform": "golang",
	}
	properties.SetClientConnectionName(d.options.ConnectionName)
	filtered := newConn(stream, d.options.MaxBody, d.options.OnFiltered)
	conn, err := amqp.Open(filtered, amqp.Config{
		SASL:       []amqp.Authentication{newLogin(d.options, properties)},
		Vhost:      d.options.VHost,
		FrameSize:  frameMax,
		Heartbeat:  d.options.Heartbeat,
		Properties: properties,
		Locale:     "en_US",
	})
	if err != nil {
		err = explain(err, filtered)
		stream.Close()
		conn.Close() // ends the library's goroutines
		return nil, err
	}
	filtered.setOpen(conn.Config.FrameSize)
	return conn, nil
}

// explain finds out why the library gave up. It makes up a refusal for any way
// in which the connection ends during the log-in, but it marks what the broker
// really said, and stream knows what befell it.
func explain(err error, stream *conn) error {
	if e, ok := errors.AsType[*amqp.Error](err); ok && e.Server || errors.Is(err, amqp.ErrSASL) {
		return err
	}
	select {
	case <-stream.ended:
		return stream.err
	default:
		return err
	}
}

// cause prefers that ctx has ended to what ended because of that.
func cause(ctx context.Context, err error) error {
	return cmp.Or(ctx.Err(), err)
}
