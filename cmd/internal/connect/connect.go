// Package connect makes the options for the broker and the database from the
// settings, and opens the connections of commands that ask the instances.
package connect

import (
	"context"
	"fmt"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"

	"github.com/glotpod/ident/cluster/broker"
	"github.com/glotpod/ident/cluster/client"
	"github.com/glotpod/ident/cluster/wait"
	"github.com/glotpod/ident/config"
	"github.com/glotpod/ident/store"
)

// Timeout bounds one attempt to open the database or a connection to the broker.
const Timeout = 8 * time.Second

// Store returns the options for the database.
func Store(c *config.Config, log *zap.Logger) store.Options {
	pg := c.Database.Postgres
	keys := make([][32]byte, len(c.Database.EncryptionKeys))
	for i, key := range c.Database.EncryptionKeys {
		keys[i] = key.Reveal()
	}
	return store.Options{
		Addresses:             addresses(pg.Hosts),
		Database:              pg.Database,
		User:                  pg.User,
		Password:              pg.Password.Reveal(),
		ReadPassword:          pg.ReadPassword,
		SSLMode:               pg.SSLMode,
		SSLRootCert:           pg.SSLRootCert,
		SSLCert:               pg.SSLCert,
		SSLKey:                pg.SSLKey,
		MaxConnections:        pg.MaxConnections,
		Name:                  c.Cluster.Instance,
		Keyring:               store.NewKeyring(keys...),
		TokensInNotifications: c.Notifications.IncludeAccessTokens,
		AuditKeep:             c.Audit.Keep,
		Log:                   log,
	}
}

func addresses(hosts []config.Address) []string {
	text := make([]string, len(hosts))
	for i, host := range hosts {
		text[i] = host.String()
	}
	return text
}

// StoreError wraps an error of package store. If the database is unreachable, the
// result is a [wait.ErrUnreachable].
func StoreError(err error) error {
	if store.IsUnreachable(err) {
		return fmt.Errorf("%w: %w", wait.ErrUnreachable, err)
	}
	return err
}

// Broker returns the options for the broker. purpose distinguishes the connections of
// one instance. version is the version of the program.
func Broker(c *config.Config, log *zap.Logger, purpose, version string) broker.Options {
	return broker.Options{
		Addresses:      addresses(c.AMQP.Hosts),
		VHost:          c.AMQP.VHost,
		LoginMethod:    c.AMQP.LoginMethod,
		Login:          c.AMQP.Login,
		Password:       c.AMQP.Password.Reveal(),
		ReadPassword:   c.AMQP.ReadPassword,
		TLS:            c.AMQP.TLSConfig,
		Heartbeat:      c.AMQP.Heartbeat,
		ConnectionName: fmt.Sprintf("%s/%s", c.Cluster.Instance, purpose),
		Version:        version,
		OnFiltered: func(f broker.Filtered) {
			log.Warn("message changed before it was read", zap.String("why", string(f.Reason)))
		},
	}
}

// Dial connects a command to the broker. If that fails, the error is a
// [wait.ErrUnreachable], except if the broker refused the login.
func Dial(ctx context.Context, c *config.Config, purpose, version string) (*amqp.Connection, error) {
	return DialWith(ctx, Broker(c, zap.NewNop(), purpose, version))
}

// DialWith is Dial with options.
func DialWith(ctx context.Context, o broker.Options) (*amqp.Connection, error) {
	conn, err := broker.Dial(ctx, o)
	return conn, dialError(err)
}

// dialError returns the error of a command that could not connect.
func dialError(err error) error {
	if err == nil || broker.LoginRefused(err) {
		return err // the settings are wrong
	}
	return fmt.Errorf("%w: %w", wait.ErrUnreachable, err)
}

// Client connects a command that sends requests. Its errors are those of [Dial].
func Client(ctx context.Context, c *config.Config, purpose, version string) (*client.Client, error) {
	return ClientWith(ctx, Broker(c, zap.NewNop(), purpose, version))
}

// ClientWith is Client with options. With a login by certificate, the requests do not name the
// login: the broker derives the user from the certificate, and closes the channel over another
// name.
func ClientWith(ctx context.Context, o broker.Options) (*client.Client, error) {
	if o.LoginMethod == config.LoginExternal {
		o.Login = ""
	}
	users, err := client.Dial(ctx, client.Options{
		Addresses: o.Addresses, VHost: o.VHost, LoginMethod: o.LoginMethod, Login: o.Login, Password: o.Password, ReadPassword: o.ReadPassword,
		TLS: o.TLS, Name: o.ConnectionName,
	})
	return users, dialError(err)
}

// Close closes a connection of a command. It waits for at most a second.
func Close(conn *amqp.Connection) { conn.CloseDeadline(time.Now().Add(time.Second)) }
