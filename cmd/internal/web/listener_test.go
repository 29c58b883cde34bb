package web

import (
	"errors"
	"io"
	"net"
	"testing"
	"time"
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
