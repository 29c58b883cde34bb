package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/glotpod/ident/config"
	"github.com/glotpod/ident/deploy/private"
)

// startServers starts both at once, as each takes its time.
func (d *dev) startServers(ctx context.Context) error {
	starts, ctx := errgroup.WithContext(ctx)
	starts.Go(func() error {
		return d.timed("PostgreSQL", func() (err error) {
			d.postgres, err = private.StartPostgres(ctx, private.PostgresOptions{Dir: d.folder.postgres(), Durable: true})
			return err
		})
	})
	starts.Go(func() error {
		return d.timed("RabbitMQ", func() (err error) {
			d.rabbitmq, err = private.StartRabbitMQ(ctx, private.RabbitMQOptions{Dir: d.folder.rabbitmq(), Metrics: true})
			return err
		})
	})
	return starts.Wait()
}

// createDatabase makes the instance's database if there is none.
func (d *dev) createDatabase(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, d.postgres.URL("postgres"))
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	var exists bool
	err = conn.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)", devDatabase).Scan(&exists)
	if err != nil || exists {
		return err
	}
	_, err = conn.Exec(ctx, "CREATE DATABASE "+pgx.Identifier{devDatabase}.Sanitize())
	return err
}

func (d *dev) migrate(ctx context.Context) error {
	p, err := d.launch("migrate")
	if err != nil {
		return err
	}
	select {
	case <-p.Exited():
	case <-ctx.Done():
		p.Kill()
		return ctx.Err()
	}
	if status := p.Status(); !status.Success() {
		return fmt.Errorf("migrate failed (%v)", status)
	}
	return nil
}

// startInstance starts the instance and waits until it is ready.
func (d *dev) startInstance(ctx context.Context, http string) error {
	return d.timed("The instance", func() (err error) {
		if d.instance, err = d.launch("serve"); err != nil {
			return err
		}
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		ready := make(chan struct{})
		go func() {
			defer close(ready)
			awaitReady(ctx, "http://"+http+"/readyz")
		}()
		defer func() { cancel(); <-ready }()
		select {
		case <-ready:
			return ctx.Err()
		case <-d.instance.Exited():
			return d.instanceEnded()
		}
	})
}

// awaitReady returns when an instance says at url that it is ready, or ctx is
// done.
func awaitReady(ctx context.Context, url string) {
	for {
		attempt, cancel := context.WithTimeout(ctx, 5*time.Second)
		ok := answersOK(attempt, url)
		cancel()
		if ok {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func answersOK(ctx context.Context, url string) bool {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return false
	}
	req.Close = true
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return false
	}
	resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

// launch starts this program with another command, on the folder's settings.
func (d *dev) launch(command string) (*private.Process, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(program, command)
	for _, entry := range os.Environ() {
		if !strings.HasPrefix(entry, "GLOTPOD_IDENT__") || strings.HasPrefix(entry, devLevelVariable+"=") {
			cmd.Env = append(cmd.Env, entry)
		}
	}
	cmd.Env = append(cmd.Env, config.SettingsVariable+"="+d.folder.settings())
	cmd.Stdout, cmd.Stderr = d.stdout, d.stderr
	return private.Launch(cmd, syscall.SIGTERM)
}

// timed takes a step, and says from time to time and in the end how long that
// takes.
func (d *dev) timed(name string, step func() error) error {
	begin := time.Now()
	result := make(chan error, 1)
	go func() { result <- step() }()
	tick := time.NewTicker(5 * time.Second)
	defer tick.Stop()
	for {
		select {
		case err := <-result:
			if err == nil {
				d.say("%s is ready after %.1f s.", name, time.Since(begin).Seconds())
			}
			return err
		case <-tick.C:
			d.say("%s is still starting (%.0f s).", name, time.Since(begin).Seconds())
		}
	}
}
