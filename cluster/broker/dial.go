package broker

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// channelMax is the greatest number of channels that we agree to: all that the protocol has
// numbers for. The library would ask for fewer from a broker without a limit.
const channelMax = 1<<16 - 1

// frameMax is the largest frame, in bytes, that we agree to: RabbitMQ's default.
const frameMax = 128 << 10

// Dial connects, logs in and opens the virtual host, at the first of the addresses that allows
// it. ctx bounds the dial, and has no effect on the connection afterwards. If ctx has a deadline,
// the addresses share the time, so that a silent one leaves some to the others. An error is a
// [*DialError] or joins one per address; see [Refused] and [LoginRefused].
//
// A lost connection does not recover.
func Dial(ctx context.Context, o Options) (*amqp.Connection, error) {
	count := len(o.Addresses)
	if count == 0 {
		return nil, &DialError{VHost: o.VHost, Stage: Preparing, Err: fmt.Errorf("%w: no address", errOptions)}
	}
	var errs []error
	first := rand.IntN(count)
	for i := range count {
		d := &dial{options: o, address: o.Addresses[(first+i)%count]}
		conn, err := d.runInShare(ctx, count-i)
		if err == nil {
			return conn, nil
		}
		errs = append(errs, &DialError{Address: d.address, VHost: o.VHost, Stage: d.stage, Err: err})
		if d.stage == Preparing || ctx.Err() != nil {
			break
		}
	}
	if len(errs) == 1 {
		return nil, errs[0]
	}
	return nil, nodeErrors(errs)
}

// A dial is one attempt to connect to one node.
type dial struct {
	options Options
	address string // of the node
	stage   Stage
}

// runInShare runs d in the share of the time of ctx that it has if left addresses are left.
func (d *dial) runInShare(ctx context.Context, left int) (*amqp.Connection, error) {
	if deadline, ok := ctx.Deadline(); ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Until(deadline)/time.Duration(left))
		defer cancel()
	}
	return d.run(ctx)
}

func (d *dial) run(ctx context.Context) (*amqp.Connection, error) {
	d.stage = Preparing
	if d.options.ReadPassword != nil && d.options.LoginMethod != External {
		password, err := d.options.ReadPassword()
		if err != nil {
			return nil, err
		}
		d.options.Password = password
	}
	if err := d.options.check(); err != nil {
		return nil, err
	}
	config, err := d.options.tlsConfig(d.address)
	if err != nil {
		return nil, err
	}

	d.stage = Connecting
	socket, err := d.connect(ctx)
	if err != nil {
		return nil, preferContextError(ctx, err)
	}
	// If ctx ends, closing the socket ends every wait on it in the following steps. A
	// deadline would not work, because the library sets deadlines of its own.
	release := context.AfterFunc(ctx, func() { socket.Close() })
	stream := socket
	if config != nil {
		d.stage = Securing
		client := tls.Client(socket, config)
		if err = client.HandshakeContext(ctx); err != nil {
			socket.Close()
			release()
			return nil, preferContextError(ctx, err)
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
		return nil, preferContextError(ctx, err)
	}
	return conn, nil
}

func (d *dial) connect(ctx context.Context) (net.Conn, error) {
	dialer := net.Dialer{
		// Heartbeats find a dead peer sooner. Keep-alive is for the times without
		// heartbeats: while the broker blocks a publisher, and during a long write.
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 3},
	}
	return dialer.DialContext(ctx, "tcp", d.address) // with TCP_NODELAY, as always in Go
}

// open runs the AMQP log-in over stream until the virtual host is open.
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
		ChannelMax: channelMax,
		FrameSize:  frameMax,
		Heartbeat:  d.options.Heartbeat,
		Properties: properties,
		Locale:     "en_US",
	})
	if err != nil {
		err = loginError(err, filtered)
		stream.Close()
		conn.Close() // ends the library's goroutines
		return nil, err
	}
	filtered.completeLogin(conn.Config.FrameSize, maxSilence(d.options, conn.Config.Heartbeat))
	return conn, nil
}

// maxSilence returns for how long the broker may be silent, with the interval of the heartbeats
// that was agreed: for ever, which is 0, without heartbeats.
func maxSilence(o Options, heartbeat time.Duration) time.Duration {
	if heartbeat == 0 {
		return 0
	}
	return max(o.Patience, heartbeat+heartbeat/2)
}

// loginError returns the reason for which the log-in failed. The library reports a
// refusal whenever the connection ends during the log-in, but marks the errors that the
// broker really sent. For other errors, stream has the error of the socket.
func loginError(err error, stream *conn) error {
	if e, ok := errors.AsType[*amqp.Error](err); ok && e.Server || errors.Is(err, amqp.ErrSASL) {
		return err
	}
	select {
	case <-stream.readEnded:
		return stream.err
	default:
		return err
	}
}

// preferContextError returns ctx's error if ctx has ended, because that is then the
// cause of err.
func preferContextError(ctx context.Context, err error) error {
	return cmp.Or(ctx.Err(), err)
}
