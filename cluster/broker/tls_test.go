package broker

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/glotpod/ident/deploy/localserver"
	"github.com/glotpod/ident/deploy/testservers"
)

func TestTLS(t *testing.T) {
	ours, others := newAuthority(t), newAuthority(t)
	server := ours.issue(t, "rabbit.test", "rabbit.test")
	b := testservers.OwnRabbitMQ(t, localserver.RabbitMQOptions{TLS: &localserver.TLS{
		CAFile:   ours.file(t),
		CertFile: writePEM(t, "CERTIFICATE", server.Certificate[0]),
		KeyFile:  writePEM(t, "PRIVATE KEY", marshalKey(t, server.PrivateKey.(*ecdsa.PrivateKey))),
	}})
	const user = "instance.test"
	for _, err := range []error{
		b.Management.CreateUser(t.Context(), user, "not used"),
		b.Management.Permit(t.Context(), user, "/", ".*", ".*", ".*"),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}

	valid := Options{
		Addresses: []string{net.JoinHostPort(b.Host, strconv.Itoa(b.TLSPort))}, VHost: "/",
		LoginMethod: Plain, Login: b.User, Password: b.Password, Heartbeat: 5 * time.Second,
	}
	trusting := tls.Config{RootCAs: ours.pool(), ServerName: "rabbit.test"}
	with := func(change func(*Options, *tls.Config)) Options {
		o, c := valid, trusting.Clone()
		o.TLS = func() (*tls.Config, error) { return c, nil }
		if change != nil {
			change(&o, c)
		}
		return o
	}

	for _, c := range []struct {
		name   string
		change func(*Options, *tls.Config)
	}{
		{"with a name that is not the host", nil},
		{"by AMQPLAIN", func(o *Options, _ *tls.Config) { o.LoginMethod = AMQPlain }},
		{"TLS 1.2", func(_ *Options, c *tls.Config) { c.MaxVersion = tls.VersionTLS12 }},
		{"by certificate", func(o *Options, c *tls.Config) {
			o.LoginMethod, o.Login, o.Password = External, "", ""
			c.Certificates = []tls.Certificate{ours.issue(t, user)}
		}},
		{"by password, with a certificate", func(_ *Options, c *tls.Config) {
			c.Certificates = []tls.Certificate{ours.issue(t, user)}
		}},
	} {
		t.Run("works "+c.name, func(t *testing.T) { works(t, mustDial(t, with(c.change))) })
	}

	for _, c := range []struct {
		name   string
		stage  Stage
		change func(*Options, *tls.Config)
	}{
		{"the broker's certificate from an unknown authority", Securing, func(_ *Options, c *tls.Config) { c.RootCAs = others.pool() }},
		{"the system's authorities", Securing, func(_ *Options, c *tls.Config) { c.RootCAs = nil }},
		{"another server name", Securing, func(_ *Options, c *tls.Config) { c.ServerName = "other.test" }},
		{"no server name, where the host is not in the certificate", Securing, func(_ *Options, c *tls.Config) { c.ServerName = "" }},
		{"verification turned off", Preparing, func(_ *Options, c *tls.Config) { c.InsecureSkipVerify = true }},
		{"TLS 1.1", Securing, func(_ *Options, c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS11, tls.VersionTLS11 }},
		{"a port without TLS", Securing, func(o *Options, _ *tls.Config) { o.Addresses = []string{b.Address()} }},
		{"login by certificate without one", LoggingIn, func(o *Options, _ *tls.Config) { o.LoginMethod = External }},
		{"login by certificate as an unknown user", LoggingIn, func(o *Options, c *tls.Config) {
			o.LoginMethod = External
			c.Certificates = []tls.Certificate{ours.issue(t, "unknown.test")}
		}},
		{"a certificate from an unknown authority", LoggingIn, func(o *Options, c *tls.Config) {
			// Go does not send it, because the broker asks for other ones.
			certificate := others.issue(t, user)
			c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &certificate, nil }
		}},
		{"a certificate from an unknown authority in TLS 1.2", Securing, func(o *Options, c *tls.Config) {
			certificate := others.issue(t, user)
			c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &certificate, nil }
			c.MaxVersion = tls.VersionTLS12
		}},
	} {
		t.Run("refuses "+c.name, func(t *testing.T) {
			conn, err := Dial(testContext(t), with(c.change))
			if err == nil {
				conn.Close()
				t.Fatal("connected")
			}
			if dial, ok := errors.AsType[*DialError](err); !ok || !Refused(err) || dial.Stage != c.stage {
				t.Errorf("error %v, refused: %v", err, Refused(err))
			}
		})
	}

	t.Run("follows renewed certificates", func(t *testing.T) {
		asked := 0
		o := with(nil)
		o.TLS = func() (*tls.Config, error) {
			asked++
			return trusting.Clone(), nil
		}
		mustDial(t, o)
		mustDial(t, o)
		if asked != 2 {
			t.Errorf("asked %d times for two dials", asked)
		}
	})

	t.Run("a handshake that breaks off may succeed later", func(t *testing.T) {
		o := with(nil)
		broken := optionsAt(t, listen(t, func(conn net.Conn) { conn.Read(make([]byte, 100)) }))
		o.Addresses = broken.Addresses
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if _, err := Dial(ctx, o); err == nil || Refused(err) {
			t.Errorf("error %v, refused: %v", err, Refused(err))
		}
	})
}

// An authority issues certificates.
type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{key: newKey(t)}
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: "test authority " + rand.Text()[:5]},
		NotAfter:              time.Now().Add(time.Hour),
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, a.key.Public(), a.key)
	if err == nil {
		a.certificate, err = x509.ParseCertificate(der)
	}
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// issue makes a certificate for a client, or for a server with these names.
func (a *authority) issue(t *testing.T, commonName string, names ...string) tls.Certificate {
	t.Helper()
	key := newKey(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()),
		Subject:      pkix.Name{CommonName: commonName},
		DNSNames:     names,
		NotAfter:     time.Now().Add(time.Hour),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.certificate, key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func (a *authority) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.certificate)
	return pool
}

func (a *authority) file(t *testing.T) string { return writePEM(t, "CERTIFICATE", a.certificate.Raw) }

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func marshalKey(t *testing.T, key *ecdsa.PrivateKey) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func writePEM(t *testing.T, kind string, der []byte) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "file.pem")
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
