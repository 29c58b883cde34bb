package testservers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sync/errgroup"

	"github.com/glotpod/ident/deploy/localserver"
)

// variable names the environment variable that describes the shared servers.
const variable = "GLOTPOD_IDENT_TESTSERVERS"

// Servers are a broker and a database server for the tests of several packages.
type Servers struct {
	Postgres *localserver.Postgres
	RabbitMQ *localserver.RabbitMQ

	dir string
}

// Start starts both servers in a new temporary folder.
func Start(ctx context.Context) (*Servers, error) {
	dir, err := tempDir()
	if err != nil {
		return nil, err
	}
	s := &Servers{dir: dir}
	starts, ctx := errgroup.WithContext(ctx)
	starts.Go(func() (err error) {
		s.Postgres, err = localserver.StartPostgres(ctx, postgresOptions(dir))
		return err
	})
	starts.Go(func() (err error) {
		s.RabbitMQ, err = localserver.StartRabbitMQ(ctx, rabbitmqOptions(dir))
		return err
	})
	if err := starts.Wait(); err != nil {
		return nil, errors.Join(err, s.Stop())
	}
	return s, nil
}

// Stop kills both servers and removes their folder.
func (s *Servers) Stop() error {
	if s.Postgres != nil {
		s.Postgres.Kill()
	}
	if s.RabbitMQ != nil {
		s.RabbitMQ.Kill()
	}
	return os.RemoveAll(s.dir)
}

// Environ returns the environment variable, in the form "NAME=value", by which tests in
// other processes find the servers.
func (s *Servers) Environ() (string, error) {
	text, err := json.Marshal(s)
	if err != nil {
		return "", err
	}
	return variable + "=" + string(text), nil
}

// fromEnvironment returns the servers that the environment variable describes, or nil if
// it is not set. These servers can be used, but not stopped.
func fromEnvironment() (*Servers, error) {
	text := os.Getenv(variable)
	if text == "" {
		return nil, nil
	}
	var s Servers
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		return nil, fmt.Errorf("read %s: %w", variable, err)
	}
	if s.Postgres == nil || s.RabbitMQ == nil {
		return nil, fmt.Errorf("read %s: it describes only one server", variable)
	}
	return &s, nil
}

func postgresOptions(dir string) localserver.PostgresOptions {
	return localserver.PostgresOptions{Dir: filepath.Join(dir, "postgres")}
}

func rabbitmqOptions(dir string) localserver.RabbitMQOptions {
	return localserver.RabbitMQOptions{Dir: filepath.Join(dir, "rabbitmq"), DenyDeprecated: true}
}

// memory is a file system in memory. The servers are faster there: their tests create and delete hundreds
// of databases and queues.
const memory = "/dev/shm"

// tempDir creates a temporary folder that other users may enter: in memory, if there is room and TMPDIR names
// no other place. If tests run as root, the user postgres must be able to enter it.
func tempDir() (string, error) {
	parent := ""
	var shm syscall.Statfs_t
	if os.Getenv("TMPDIR") == "" && syscall.Statfs(memory, &shm) == nil && uint64(shm.Bavail)*uint64(shm.Bsize) > 8<<30 {
		parent = memory
	}
	dir, err := os.MkdirTemp(parent, "glotpod-ident-test-")
	if err != nil {
		return "", err
	}
	return dir, os.Chmod(dir, 0o711)
}
