package config

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
)

// TLSConfig returns the TLS configuration for the broker, or nil if SSL is false. It
// reads the certificate files at each call, so that a new connection uses renewed
// certificates. The broker's certificate is always verified. If ServerName is empty, the
// certificate must contain the host that was dialled.
func (a AMQP) TLSConfig() (*tls.Config, error) {
	if !a.SSL {
		return nil, nil
	}
	c := &tls.Config{ServerName: a.SSLServerName}
	if a.SSLCA != "" {
		pool, err := certPool(a.SSLCA)
		if err != nil {
			return nil, &Error{Key: "amqp.ssl_ca", Err: err}
		}
		c.RootCAs = pool
	}
	if a.SSLCert != "" {
		pair, err := tls.LoadX509KeyPair(a.SSLCert, a.SSLKey)
		if err != nil {
			return nil, &Error{Key: "amqp.ssl_cert", Err: err}
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}

// certPool reads the CA certificates from a PEM file.
func certPool(path string) (*x509.CertPool, error) {
	pem, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("cannot be used: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, errors.New("contains no PEM certificate: " + path)
	}
	return pool, nil
}
