package config

import (
	"cmp"
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
	setPorts(c.AMQP.Hosts, c.AMQP.Port)
	setPorts(c.Database.Postgres.Hosts, c.Database.Postgres.Port)
	if c.Cluster.Instance == "" && l.valid("cluster.instance") {
		l.nameInstance(&c.Cluster)
	}
	if l.valid("amqp.") {
		l.checkLogin(&c.AMQP)
	}
	pg := &c.Database.Postgres
	if file := pg.SSLRootCert; file != "" && file != "system" {
		if _, err := certPool(file); err != nil {
			l.refuse("database.postgres.sslrootcert", err)
		}
	}
	l.checkPair("database.postgres.sslcert", pg.SSLCert, "database.postgres.sslkey", pg.SSLKey)
	_, c.Tracing.SampleGiven = l.given["tracing.sample"]
	l.checkPair("http.ssl_cert", c.HTTP.SSLCert, "http.ssl_key", c.HTTP.SSLKey)
	if err := c.HTTP.readAdminToken(); err != nil {
		l.refuse("http.admin_token_file", err)
	}
}

// setPorts sets the port of the addresses that have none.
func setPorts(addresses []Address, port int) {
	for i := range addresses {
		addresses[i].Port = cmp.Or(addresses[i].Port, port)
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
	l.checkPair("amqp.ssl_cert", c.SSLCert, "amqp.ssl_key", c.SSLKey)
}

// checkPair checks that the files cert and key, which the settings certName and keyName name,
// are given together and belong together.
func (l *loader) checkPair(certName, cert, keyName, key string) {
	switch {
	case cert != "" && key == "":
		l.refuse(certName, errors.New("needs "+keyName))
	case cert == "" && key != "":
		l.refuse(keyName, errors.New("needs "+certName))
	case cert != "":
		if _, err := tls.LoadX509KeyPair(cert, key); err != nil {
			l.refuse(certName, fmt.Errorf("cannot be used with %s: %w", keyName, err))
		}
	}
}
