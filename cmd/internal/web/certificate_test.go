package web

import (
	"crypto/tls"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/glotpod/ident/cluster/broker"
	"github.com/glotpod/ident/cmd/internal/clusterview"
	"github.com/glotpod/ident/deploy/testservers"
)

// TestCertificate: new connections use a renewed certificate, or the last one that could be
// read.
func TestCertificate(t *testing.T) {
	authority, folder := testservers.NewAuthority(t), t.TempDir()
	certFile, keyFile := filepath.Join(folder, "tls.crt"), filepath.Join(folder, "tls.key")
	replaced := time.Now()
	replace := func(from, to string) {
		t.Helper()
		content, err := os.ReadFile(from)
		if err == nil {
			err = os.WriteFile(to, content, 0o600)
		}
		replaced = replaced.Add(time.Minute) // the time of a file may be coarse
		if err == nil {
			err = os.Chtimes(to, replaced, replaced)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	first, firstKey := authority.Issue(t, "first")
	second, secondKey := authority.Issue(t, "second")
	replace(first, certFile)
	replace(firstKey, keyFile)

	core, logged := observer.New(zap.InfoLevel)
	s, err := Listen(Options{Address: "127.0.0.1:0", SSLCert: certFile, SSLKey: keyFile, Metrics: prometheus.NewRegistry(),
		Watcher: clusterview.NewWatcher("a", broker.Options{}), Log: zap.New(core)})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	address := logged.All()[0].ContextMap()["listen"].(string)
	expect := func(name string, warnings int) {
		t.Helper()
		conn, err := tls.Dial("tcp", address, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2", "http/1.1"}})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if got := conn.ConnectionState(); got.PeerCertificates[0].Subject.CommonName != name || got.NegotiatedProtocol != "http/1.1" {
			t.Errorf("%s with the certificate %s, want %s", got.NegotiatedProtocol, got.PeerCertificates[0].Subject, name)
		}
		if n := logged.FilterLevelExact(zap.WarnLevel).Len(); n != warnings {
			t.Errorf("%d warnings, want %d: %+v", n, warnings, logged.All())
		}
	}
	expect("first", 0)
	replace(second, certFile) // the key does not belong to it yet
	expect("first", 1)
	replace(secondKey, keyFile)
	expect("second", 1)

	t.Run("a client without TLS is told and not logged", func(t *testing.T) {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		io.WriteString(conn, "GET /livez HTTP/1.0\r\n\r\n")
		if reply, _ := io.ReadAll(conn); len(reply) < 12 || string(reply[9:12]) != "400" {
			t.Errorf("%q", reply)
		}
		if n := logged.Len(); n != 2 {
			t.Errorf("%+v", logged.All())
		}
	})
}
