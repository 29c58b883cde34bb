package broker

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/glotpod/ident/deploy/testservers"
)

// works fails the test unless a message goes to the broker and back over conn.
func works(t *testing.T, conn *amqp.Connection) {
	t.Helper()
	queue, deliveries := consume(t, conn, 1)
	err := mustChannel(t, conn).Publish("", queue, false, false, amqp.Publishing{Body: []byte("x")})
	if err != nil {
		t.Fatal(err)
	}
	if d := receive(t, deliveries); string(d.Body) != "x" {
		t.Errorf("body %q", d.Body)
	}
}

func TestDial(t *testing.T) {
	t.Run("password", testDialPassword)
	t.Run("files", testDialFiles)
	t.Run("refused", testDialRefused)
	t.Run("wrong_options", testDialWrongOptions)
	t.Run("no_broker", testDialNoBroker)
	t.Run("silent_broker", testDialSilentBroker)
	t.Run("cancelled", testDialCancelled)
	t.Run("several_nodes", testDialSeveral)
	t.Run("closed_during_login", testDialClosedDuringLogin)
	t.Run("not_amqp", testDialNotAmqp)
	t.Run("connection_name", testDialConnectionName)
}

func testDialPassword(t *testing.T) {
	b := testservers.RabbitMQ(t)
	for _, login := range []string{AMQPlain, Plain} {
		t.Run(login, func(t *testing.T) {
			o := optionsFor(b)
			o.LoginMethod = login
			conn := mustDial(t, o)
			works(t, conn)
			if text := fmt.Sprintf("%v %+v %#v", conn.Config, conn.Config, conn.Config); strings.Contains(text, o.Password) {
				t.Errorf("the password is in %s", text)
			}
		})
	}
}

func testDialRefused(t *testing.T) {
	b := testservers.RabbitMQ(t)
	const password = "correct horse battery staple"
	createUser(t, b, "noperm", password)
	for _, c := range []struct {
		name   string
		change func(*Options)
		want   string
		login  bool // it is the login that is refused
	}{
		{"wrong password", func(o *Options) { o.Password = password }, "Login was refused", true},
		{"wrong password by PLAIN", func(o *Options) { o.Password, o.LoginMethod = password, Plain }, "Login was refused", true},
		{"unknown user", func(o *Options) { o.Login, o.Password = "noone", password }, "Login was refused", true},
		{"no virtual host", func(o *Options) { o.VHost = "nowhere" }, "not found", false},
		{"no permission", func(o *Options) { o.Login, o.Password = "noperm", password }, "refused for user", false},
		{"no such mechanism here", func(o *Options) {
			o.LoginMethod, o.TLS = External, func() (*tls.Config, error) { return nil, nil }
		}, "SASL", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := optionsFor(b)
			c.change(&o)
			_, err := Dial(testContext(t), o)
			if err == nil || !Refused(err) {
				t.Fatalf("error %v, refused: %v", err, Refused(err))
			}
			if got := LoginRefused(err); got != c.login {
				t.Errorf("login refused: %v, want %v", got, c.login)
			}
			for _, text := range []string{err.Error(), fmt.Sprintf("%+v %#v", err, err), fmt.Sprintf("%v %+v %#v", o, o, o)} {
				if strings.Contains(text, o.Password) {
					t.Errorf("the password is in %s", text)
				}
			}
			if !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), string(LoggingIn)) {
				t.Errorf("error %q does not say %q", err, c.want)
			}
		})
	}
}

func testDialWrongOptions(t *testing.T) {
	valid := Options{Addresses: []string{"broker.invalid:5672"}, VHost: "/", LoginMethod: Plain, Login: "u", Password: "p", Heartbeat: time.Second}
	if err := valid.check(); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*Options){
		"no address":   func(o *Options) { o.Addresses = nil },
		"host":         func(o *Options) { o.Addresses = []string{":5672"} },
		"no port":      func(o *Options) { o.Addresses = []string{"broker.invalid"} },
		"port":         func(o *Options) { o.Addresses = []string{"broker.invalid:0"} },
		"large port":   func(o *Options) { o.Addresses = []string{"broker.invalid:65536"} },
		"login method": func(o *Options) { o.LoginMethod = "ANONYMOUS" },
		"no TLS":       func(o *Options) { o.LoginMethod = External },
		"login":        func(o *Options) { o.Login = "a\x00b" },
		"password":     func(o *Options) { o.Password = "secret\x00" },
		"virtual host": func(o *Options) { o.VHost = strings.Repeat("x", 256) },
		"heartbeat":    func(o *Options) { o.Heartbeat = 999 * time.Millisecond },
		"body limit":   func(o *Options) { o.MaxBody = -1 },
		"no verification": func(o *Options) {
			o.TLS = func() (*tls.Config, error) { return &tls.Config{InsecureSkipVerify: true}, nil }
		},
	} {
		t.Run(name, func(t *testing.T) {
			o := valid
			change(&o)
			_, err := Dial(testContext(t), o)
			if dialErr, ok := errors.AsType[*DialError](err); !ok || dialErr.Stage != Preparing || !Refused(err) {
				t.Errorf("error %v, refused: %v", err, Refused(err))
			}
		})
	}
}

// testDialFiles: files with a password or certificates are read for each dial. While one is
// being replaced, the dial fails, and nobody has refused anything.
func testDialFiles(t *testing.T) {
	o := optionsFor(testservers.RabbitMQ(t))
	password, missing := "", errors.New("no such file")
	o.ReadPassword = func() (string, error) { return password, missing }
	refused := func(want bool) {
		t.Helper()
		_, err := Dial(testContext(t), o)
		if dialErr, ok := errors.AsType[*DialError](err); !ok || (dialErr.Stage == Preparing) == want || Refused(err) != want {
			t.Errorf("error %v, refused: %v", err, Refused(err))
		}
	}
	refused(false)
	password, missing = "old", nil
	refused(true)
	password = o.Password
	conn, err := Dial(testContext(t), o)
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	o.TLS = func() (*tls.Config, error) { return nil, errors.New("no such file") }
	refused(false)
}

func testDialNoBroker(t *testing.T) {
	o := optionsAt(t, "127.0.0.1:1")
	_, err := Dial(testContext(t), o)
	if err == nil || Refused(err) {
		t.Errorf("error %v, refused: %v", err, Refused(err))
	}
	if dialErr, ok := errors.AsType[*DialError](err); !ok || dialErr.Stage != Connecting || dialErr.Address != "127.0.0.1:1" {
		t.Errorf("error %#v", err)
	}
}

// The peer may become silent at any point.
func testDialSilentBroker(t *testing.T) {
	for _, c := range []struct {
		name  string
		tls   bool
		turns []turn
		stage Stage
	}{
		{"from the start", false, nil, LoggingIn},
		{"instead of TLS", true, nil, Securing},
		{"after start", false, logIn[:1], LoggingIn},
		{"after tune", false, logIn[:2], LoggingIn},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			o := optionsAt(t, listen(t, func(conn net.Conn) {
				if !c.tls && c.turns != nil {
					playBroker(conn, c.turns)
				}
				io.Copy(io.Discard, conn)
			}))
			if c.tls {
				o.TLS = func() (*tls.Config, error) { return &tls.Config{}, nil }
			}
			ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
			defer cancel()
			start := time.Now()
			_, err := Dial(ctx, o)
			if !errors.Is(err, context.DeadlineExceeded) || Refused(err) {
				t.Errorf("error %v, refused: %v", err, Refused(err))
			}
			if dialErr, ok := errors.AsType[*DialError](err); !ok || dialErr.Stage != c.stage {
				t.Errorf("error %v, want it in stage %q", err, c.stage)
			}
			if took := time.Since(start); took > 20*time.Second {
				t.Errorf("took %v", took)
			}
		})
	}
}

// testDialSeveral: a dial tries all nodes, each for its share of the time, and begins with a
// random one.
func testDialSeveral(t *testing.T) {
	b := testservers.RabbitMQ(t)
	const none = "127.0.0.1:1"
	var silent, closing atomic.Int64
	silentNode := listen(t, func(conn net.Conn) {
		silent.Add(1)
		io.Copy(io.Discard, conn)
	})
	closingNode := listen(t, func(net.Conn) { closing.Add(1) })
	dial := func(o Options, addresses ...string) error {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		o.Addresses = addresses
		conn, err := Dial(ctx, o)
		if err == nil {
			conn.Close()
		}
		return err
	}
	tries := func(t *testing.T, count *atomic.Int64, addresses ...string) {
		for range 100 {
			if err := dial(optionsFor(b), addresses...); err != nil {
				t.Fatal(err)
			}
			if count.Load() > 0 {
				return
			}
		}
		t.Error("a node was never tried first")
	}
	t.Run("one_is_away", func(t *testing.T) { tries(t, &closing, none, b.Address(), closingNode) })
	t.Run("one_is_silent", func(t *testing.T) { tries(t, &silent, silentNode, b.Address()) })
	t.Run("all_are_away", func(t *testing.T) {
		err := dial(optionsFor(b), none, closingNode)
		if err == nil || Refused(err) || !strings.Contains(err.Error(), none) || !strings.Contains(err.Error(), closingNode) {
			t.Errorf("error %v, refused: %v", err, Refused(err))
		}
	})
	t.Run("one_refuses_the_login", func(t *testing.T) {
		o := optionsFor(b)
		o.Password = "wrong"
		for _, addresses := range [][]string{{none, b.Address()}, {b.Address(), none}} {
			if err := dial(o, addresses...); LoginRefused(err) || !Refused(err) {
				t.Errorf("error %v", err)
			}
		}
		if err := dial(o, b.Address(), b.Address()); !LoginRefused(err) || !Refused(err) {
			t.Errorf("error of all: %v", err)
		}
	})
	t.Run("wrong_options", func(t *testing.T) {
		o := optionsFor(b)
		o.Heartbeat = 0
		if err := dial(o, none, none); !Refused(err) || strings.Contains(err.Error(), "\n") {
			t.Errorf("error %v", err)
		}
	})
}

func testDialCancelled(t *testing.T) {
	for _, withTLS := range []bool{false, true} {
		accepted := make(chan struct{})
		o := optionsAt(t, listen(t, func(conn net.Conn) {
			close(accepted)
			io.Copy(io.Discard, conn)
		}))
		if withTLS {
			o.TLS = func() (*tls.Config, error) { return &tls.Config{}, nil }
		}
		ctx, cancel := context.WithCancel(testContext(t))
		go func() {
			<-accepted
			cancel()
		}()
		if _, err := Dial(ctx, o); !errors.Is(err, context.Canceled) || Refused(err) {
			t.Errorf("error %v, refused: %v", err, Refused(err))
		}
	}
}

func testDialClosedDuringLogin(t *testing.T) {
	for name, turns := range map[string][]turn{
		"at once":     nil,
		"after start": logIn[:1],
		"after tune":  logIn[:2],
	} {
		t.Run(name, func(t *testing.T) {
			o := optionsAt(t, listen(t, func(conn net.Conn) { playBroker(conn, turns) }))
			if _, err := Dial(testContext(t), o); err == nil || Refused(err) {
				t.Errorf("error %v, refused: %v", err, Refused(err))
			}
		})
	}
}

func testDialNotAmqp(t *testing.T) {
	o := optionsAt(t, listen(t, func(conn net.Conn) {
		conn.Write([]byte("HTTP/1.1 400 Bad Request\r\n\r\n"))
		io.Copy(io.Discard, conn)
	}))
	if _, err := Dial(testContext(t), o); !errors.Is(err, ErrNotAMQP) {
		t.Errorf("error %v", err)
	}
}

func testDialConnectionName(t *testing.T) {
	seen := make(chan string, 1)
	o := optionsAt(t, listen(t, func(conn net.Conn) {
		if err := playBroker(conn, logIn[:1]); err != nil {
			return
		}
		startOK := make([]byte, 4096)
		n, _ := conn.Read(startOK)
		seen <- string(startOK[:n])
	}))
	o.ConnectionName, o.Version = "instance-7", "1.2.3"
	Dial(testContext(t), o)
	startOK := <-seen
	for _, want := range []string{
		"product\x53\x00\x00\x00\x0dglotpod.ident", "version\x53\x00\x00\x00\x051.2.3", "connection_name\x53\x00\x00\x00\x0ainstance-7",
		"authentication_failure_closet\x01", "consumer_cancel_notifyt\x01", "basic.nackt\x01", "connection.blockedt\x01", "publisher_confirmst\x01",
	} {
		if !strings.Contains(startOK, want) {
			t.Errorf("%q is missing in %q", want, startOK)
		}
	}
}

// createUser makes a user without permissions. It is deleted at the end of the test.
func createUser(t *testing.T, b *testservers.Broker, name, password string) {
	t.Helper()
	if err := b.Management.CreateUser(t.Context(), name, password); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := b.Management.DeleteUser(ctx, name); err != nil {
			t.Error(err)
		}
	})
}

// listen accepts connections until the end of the test. It serves and closes each.
func listen(t *testing.T, serve func(net.Conn)) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			serve(conn)
			conn.Close()
		}
	}()
	t.Cleanup(func() {
		l.Close()
		<-ended
	})
	return l.Addr().String()
}

func optionsAt(t *testing.T, address string) Options {
	t.Helper()
	a, err := net.ResolveTCPAddr("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	return Options{Addresses: []string{a.String()}, VHost: "/", LoginMethod: Plain, Login: "user", Password: "secret", Heartbeat: time.Second}
}
