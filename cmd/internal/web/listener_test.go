package web

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/glotpod/ident/cluster/broker"
	"github.com/glotpod/ident/cmd/internal/clusterview"
	"github.com/glotpod/ident/cmd/internal/web/admin"
	"github.com/glotpod/ident/deploy/testservers"
)

// A pipeListener accepts connections that the test makes.
type pipeListener struct{ conns chan net.Conn }

func (l pipeListener) Accept() (net.Conn, error) { return <-l.conns, nil }
func (l pipeListener) Close() error              { return nil }
func (l pipeListener) Addr() net.Addr            { return nil }

func TestLimitListener(t *testing.T) {
	p := pipeListener{make(chan net.Conn, 1)}
	l := &limitListener{Listener: p, limit: 2}
	accept := func() (client, server net.Conn) {
		t.Helper()
		client, remote := net.Pipe()
		t.Cleanup(func() { client.Close() })
		p.conns <- remote
		server, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { server.Close() })
		return client, server
	}
	isClosed := func(client net.Conn) bool {
		client.SetReadDeadline(time.Unix(1, 0)) // so that Read does not block
		_, err := client.Read(make([]byte, 1))
		return errors.Is(err, io.EOF)
	}
	first, firstServer := accept()
	second, secondServer := accept()
	third, _ := accept()
	if !isClosed(first) || isClosed(second) || isClosed(third) {
		t.Errorf("closed: %v, %v, %v; want the oldest", isClosed(first), isClosed(second), isClosed(third))
	}
	firstServer.Close() // it is closed already
	secondServer.Close()
	fourth, _ := accept()
	if isClosed(third) || isClosed(fourth) {
		t.Error("a connection was closed below the limit")
	}
}

// A slowOperator drains until it is told to end.
type slowOperator struct {
	admin.Operator
	begun, end chan struct{}
}

func (o slowOperator) Drain(ctx context.Context, _ []string, _ bool, _ io.Writer) error {
	close(o.begun)
	select {
	case <-o.end:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// TestActionsKeepConnections: an action goes on however many connections others open.
func TestActionsKeepConnections(t *testing.T) {
	certFile, keyFile := testservers.NewAuthority(t).Issue(t, "a")
	core, logged := observer.New(zap.InfoLevel)
	operator := slowOperator{begun: make(chan struct{}), end: make(chan struct{})}
	s, err := Listen(Options{Address: "127.0.0.1:0", SSLCert: certFile, SSLKey: keyFile, Metrics: prometheus.NewRegistry(),
		AdminToken: func() (string, error) { return "token", nil }, Operator: operator,
		Watcher: clusterview.NewWatcher("a", broker.Options{}), Log: zap.New(core)})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	address := logged.All()[0].ContextMap()["listen"].(string)
	replied := make(chan string, 1)
	go func() {
		r, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://"+address+"/admin/drain", strings.NewReader("{}"))
		r.Header.Set("Authorization", "Bearer token")
		r.Header.Set("Content-Type", "application/json")
		client := http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
		response, err := client.Do(r)
		if err != nil {
			replied <- err.Error()
			return
		}
		defer response.Body.Close()
		reply, _ := io.ReadAll(response.Body)
		replied <- string(reply)
	}()
	<-operator.begun
	for n := range maxConnections + 1 {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if n < maxConnections {
			continue
		}
		if err := tls.Client(conn, &tls.Config{InsecureSkipVerify: true}).Handshake(); err != nil { // all others were accepted
			t.Fatal(err)
		}
	}
	close(operator.end)
	if reply := <-replied; !strings.Contains(reply, `"done":true`) {
		t.Errorf("reply: %s", reply)
	}
}
