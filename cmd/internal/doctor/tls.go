package doctor

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/glotpod/ident/config"
)

const (
	// A certificate that is valid for less time is a problem, or worth an advice.
	certificateUrgent = 7 * 24 * time.Hour
	certificateSoon   = 30 * 24 * time.Hour

	day = 24 * time.Hour
)

// checkCertificate checks for how long a certificate is valid. prefix begins the ids of the
// findings; where says which certificate it is.
func checkCertificate(prefix, where string, certificate *x509.Certificate, now time.Time, r *report) {
	left, until := certificate.NotAfter.Sub(now), certificate.NotAfter.UTC().Format(time.DateTime)
	id := prefix + "-certificate"
	switch {
	case left >= certificateSoon:
		return
	case left <= 0:
		r.add(id, "the certificate %s was valid until %s", where, until)
		return
	case left >= certificateUrgent:
		id += "-soon"
	}
	r.add(id, "the certificate %s is valid for %d more days, until %s", where, int(left/day), until)
}

// checkInstanceCertificates checks for how long the certificates of the instances are valid.
func checkInstanceCertificates(c *config.Config, now time.Time, r *report) {
	pg := c.Database.Postgres
	for _, files := range []struct{ prefix, cert, key string }{
		{"client", c.AMQP.SSLCert, c.AMQP.SSLKey}, {"client", pg.SSLCert, pg.SSLKey}, {"http", c.HTTP.SSLCert, c.HTTP.SSLKey},
	} {
		pair, err := tls.LoadX509KeyPair(files.cert, files.key)
		if err != nil {
			continue // there is none: the settings were checked
		}
		checkCertificate(files.prefix, "in "+files.cert, pair.Leaf, now, r)
	}
}

// checkAdminToken checks that nobody can read the token of operators on the network.
func checkAdminToken(c *config.HTTP, r *report) {
	if c.Listen == "" || c.AdminTokenFile == "" || c.SSLCert != "" {
		return
	}
	if host, _, _ := net.SplitHostPort(c.Listen); !isLocal(host) { // the settings were checked
		r.add("http-plain", "%s takes the token of operators without encryption", c.Listen)
	}
}

// isLocal reports whether nobody else is on the way to a host: it is a Unix socket or a loopback
// address.
func isLocal(host string) bool {
	if filepath.IsAbs(host) || host == "localhost" {
		return true
	}
	address, err := netip.ParseAddr(host)
	return err == nil && address.IsLoopback()
}

// isTLSError reports whether err says that the two sides do not accept each other's certificate
// or protocol.
func isTLSError(err error) bool {
	var certificate *tls.CertificateVerificationError
	var alert tls.AlertError
	var record tls.RecordHeaderError
	return errors.As(err, &certificate) || errors.As(err, &alert) || errors.As(err, &record)
}

// reach connects to host:port and closes the connection. With TLS it also checks the
// certificate. It adds a finding and returns false if that fails.
func reach(ctx context.Context, address string, config *tls.Config, r *report) bool {
	host, _, _ := net.SplitHostPort(address) // the settings were checked
	if _, err := net.DefaultResolver.LookupHost(ctx, host); err != nil {
		r.add("broker-name", "%s has no address: %v", host, err)
		return false
	}
	socket, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err != nil {
		r.add("broker-unreachable", "RabbitMQ at %s cannot be reached: %v", address, err)
		return false
	}
	defer socket.Close()
	if config == nil {
		if !isLocal(host) {
			r.add("broker-plain", "the connection to %s is not encrypted", address)
		}
		return true
	}
	if config = config.Clone(); config.ServerName == "" {
		config.ServerName = host
	}
	client := tls.Client(socket, config)
	if err := client.HandshakeContext(ctx); err != nil {
		id := "broker-tls"
		if errors.Is(err, os.ErrDeadlineExceeded) || ctx.Err() != nil {
			id = "broker-unreachable"
		}
		r.add(id, "no TLS with RabbitMQ at %s: %v", address, err)
		return false
	}
	checkCertificate("broker", "of "+address, client.ConnectionState().PeerCertificates[0], time.Now(), r)
	return true
}
