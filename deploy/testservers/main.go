package testservers

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/glotpod/ident/deploy/localserver"
)

// Main runs a package's tests and exits. It stops the servers that were started for
// this package. It fails if a goroutine is left, unless an option allows that goroutine.
func Main(m *testing.M, options ...goleak.Option) {
	shared.open()
	status := m.Run()
	err := shared.close()
	if err == nil && status == 0 {
		err = goleak.Find(options...)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		status = max(status, 1)
	}
	os.Exit(status)
}

// shared are the servers that the tests of this process share.
var shared pool

// A pool holds the shared servers. Each comes from the environment, or is started when
// a test first needs it.
type pool struct {
	mu       sync.Mutex // guards the following fields; held while a server starts
	opened   bool       // between open and close
	given    *Servers   // the servers that the environment describes, or nil
	err      error      // why there are no servers
	dir      string     // of the servers started by this process, "" before the first
	postgres *localserver.Postgres
	rabbitmq *localserver.RabbitMQ
}

func (p *pool) open() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.opened = true
	p.given, p.err = fromEnvironment()
}

// close stops the servers that this process has started.
func (p *pool) close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.opened = false
	if p.dir == "" {
		return nil
	}
	if p.postgres != nil {
		p.postgres.Kill()
	}
	if p.rabbitmq != nil {
		p.rabbitmq.Kill()
	}
	return os.RemoveAll(p.dir)
}

func (p *pool) getPostgres(ctx context.Context) (*localserver.Postgres, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.prepareLocked(); err != nil {
		return nil, err
	}
	if p.given != nil {
		return p.given.Postgres, nil
	}
	if p.postgres == nil {
		p.postgres, p.err = localserver.StartPostgres(ctx, postgresOptions(p.dir))
	}
	return p.postgres, p.err
}

func (p *pool) getRabbitMQ(ctx context.Context) (*localserver.RabbitMQ, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.prepareLocked(); err != nil {
		return nil, err
	}
	if p.given != nil {
		return p.given.RabbitMQ, nil
	}
	if p.rabbitmq == nil {
		p.rabbitmq, p.err = localserver.StartRabbitMQ(ctx, rabbitmqOptions(p.dir))
	}
	return p.rabbitmq, p.err
}

// prepareLocked makes sure that a server can be found or started. It keeps an error: a
// start that has failed for one test is not tried again for the next ones.
func (p *pool) prepareLocked() error {
	if !p.opened {
		return errors.New("this package's TestMain does not call testservers.Main")
	}
	if p.err == nil && p.given == nil && p.dir == "" {
		p.dir, p.err = tempDir()
	}
	return p.err
}
