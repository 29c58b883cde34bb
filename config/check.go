package config

import (
	"crypto/tls"
	"errors"
	"fmt"
	"os"
)

// check sets the defaults that depend on other settings, and checks that settings are
// consistent with each other. It skips checks that depend on a setting with an error.
func (l *loader) check(c *Config) {
	if c.AMQP.Port == 0 {
		c.AMQP.Port = 5672
		if c.AMQP.SSL {
			c.AMQP.Port = 5671
		}
	}
	if c.Cluster.Instance == "" && l.valid("cluster.instance") {
		l.nameInstance(&c.Cluster)
	}
	if l.valid("amqp.") {
		l.checkLogin(&c.AMQP)
	}
	if file := c.Database.Postgres.SSLRootCert; file != "" && file != "system" {
		if _, err := certPool(file); err != nil {
			l.refuse("database.postgres.sslrootcert", err)
		}
	}
}

// refuse records an error of the setting called name, at the place where it is set.
func (l *loader) refuse(name string, err error) {
	l.fail(name, l.given[name].origin, err)
}

// nameInstance sets the instance's name to the host name.
func (l *loader) nameInstance(c *Cluster) {
	const name = "cluster.instance"
	host, err := os.Hostname()
	switch {
	case err != nil:
		l.refuse(name, fmt.Errorf("must be set, because the host name is not known: %w", err))
	case !instancePattern.MatchString(host):
		l.refuse(name, fmt.Errorf("must be set, because the host name %q is not a valid instance name", host))
	default:
		c.Instance = host
	}
}

// checkLogin checks the settings for TLS, and that the login method can work with them.
func (l *loader) checkLogin(c *AMQP) {
	if c.LoginMethod == LoginExternal && (!c.SSL || c.SSLCert == "") {
		l.refuse("amqp.login_method", fmt.Errorf("%s needs amqp.ssl = true and amqp.ssl_cert", LoginExternal))
	}
	if c.SSL {
		l.checkCertificates(c)
		return
	}
	for _, s := range []struct{ name, value string }{
		{"amqp.ssl_ca", c.SSLCA},
		{"amqp.ssl_cert", c.SSLCert},
		{"amqp.ssl_key", c.SSLKey},
		{"amqp.ssl_server_name", c.SSLServerName},
	} {
		if s.value != "" {
			l.refuse(s.name, errors.New("needs amqp.ssl = true"))
		}
	}
}

// checkCertificates checks that the CA certificates and the client certificate can be
// read and used.
func (l *loader) checkCertificates(c *AMQP) {
	if c.SSLCA != "" {
		if _, err := certPool(c.SSLCA); err != nil {
			l.refuse("amqp.ssl_ca", err)
		}
	}
	switch {
	case c.SSLCert != "" && c.SSLKey == "":
		l.refuse("amqp.ssl_cert", errors.New("needs amqp.ssl_key"))
	case c.SSLCert == "" && c.SSLKey != "":
		l.refuse("amqp.ssl_key", errors.New("needs amqp.ssl_cert"))
	case c.SSLCert != "":
		if _, err := tls.LoadX509KeyPair(c.SSLCert, c.SSLKey); err != nil {
			l.refuse("amqp.ssl_cert", fmt.Errorf("cannot be used with amqp.ssl_key: %w", err))
		}
	}
}
