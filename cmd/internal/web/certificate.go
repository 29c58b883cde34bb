package web

import (
	"crypto/tls"
	"fmt"
	"os"
	"sync"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/glotpod/ident/cluster/throttle"
)

// A certificate is a certificate and its key in files, which are read again when they
// change. While they cannot be read, or do not belong together, as in the middle of a
// replacement, the one that was read last is used.
type certificate struct {
	certFile, keyFile string
	unreadable        *throttle.Logger

	mu     sync.Mutex // guards the following fields
	latest *tls.Certificate
	stamps [2]stamp // of the files when latest was read
}

// A stamp tells whether a file has changed.
type stamp struct {
	modified time.Time
	size     int64
}

// certificateLogInterval is the least time between two log lines about the certificate.
const certificateLogInterval = time.Minute

func newCertificate(certFile, keyFile string, log *zap.Logger) (*certificate, error) {
	c := &certificate{certFile: certFile, keyFile: keyFile,
		unreadable: throttle.New(log, zapcore.WarnLevel, "certificate of http.listen not read again", certificateLogInterval)}
	if err := c.readLocked(); err != nil {
		return nil, fmt.Errorf("http.ssl_cert: %w", err)
	}
	return c, nil
}

// config returns the TLS configuration of a server. The server speaks HTTP/1.1 alone, as
// without TLS.
func (c *certificate) config() *tls.Config {
	return &tls.Config{GetCertificate: c.get, NextProtos: []string{"http/1.1"}}
}

// get returns the certificate for a new connection.
func (c *certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.readLocked(); err != nil {
		c.unreadable.Log(1, zap.Error(err))
	}
	return c.latest, nil
}

// readLocked reads the certificate if its files have changed.
func (c *certificate) readLocked() error {
	var stamps [2]stamp
	for i, name := range []string{c.certFile, c.keyFile} {
		info, err := os.Stat(name)
		if err != nil {
			return err
		}
		stamps[i] = stamp{info.ModTime(), info.Size()}
	}
	if c.latest != nil && stamps == c.stamps {
		return nil
	}
	pair, err := tls.LoadX509KeyPair(c.certFile, c.keyFile)
	if err != nil {
		return err
	}
	c.latest, c.stamps = &pair, stamps
	return nil
}
