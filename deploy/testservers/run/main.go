// Command run runs another command, such as "go test ./...", with a private broker and
// a private database server that the tests share. After the command has ended, run
// stops the servers, removes their data, and exits with the command's status.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"time"

	"github.com/glotpod/ident/deploy/testservers"
)

func main() {
	args := os.Args[1:]
	if len(args) > 0 && args[0] == "--" {
		args = args[1:]
	}
	if len(args) == 0 {
		fmt.Fprintln(os.Stderr, "usage: run [--] command [argument...]")
		os.Exit(2)
	}
	status, err := run(args)
	if err != nil {
		fmt.Fprintln(os.Stderr, "testservers:", err)
		status = max(status, 1)
	}
	os.Exit(status)
}

func run(args []string) (status int, err error) {
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)

	servers, err := start(signals)
	if err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, servers.Stop()) }()
	environ, err := servers.Environ()
	if err != nil {
		return 1, err
	}

	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), environ)
	// The command and its descendants are one process group, so that a signal reaches
	// all of them. The go command would not forward it to the tests.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return 1, err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	postgresDied, rabbitmqDied := servers.Postgres.Done(), servers.RabbitMQ.Done()
	for {
		select {
		case err := <-ended:
			return statusOf(cmd.ProcessState), ignoreExit(err)
		case sig := <-signals:
			syscall.Kill(-cmd.Process.Pid, sig.(syscall.Signal))
		case <-postgresDied:
			fmt.Fprintln(os.Stderr, "testservers:", servers.Postgres.Err())
			postgresDied = nil
		case <-rabbitmqDied:
			fmt.Fprintln(os.Stderr, "testservers:", servers.RabbitMQ.Err())
			rabbitmqDied = nil
		}
	}
}

// start starts the servers and prints its progress. A signal cancels the start.
func start(signals <-chan os.Signal) (*testservers.Servers, error) {
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	type result struct {
		servers *testservers.Servers
		err     error
	}
	results := make(chan result, 1)
	go func() {
		servers, err := testservers.Start(ctx)
		results <- result{servers, err}
	}()

	begin := time.Now()
	fmt.Fprintln(os.Stderr, "testservers: starting a private RabbitMQ and PostgreSQL")
	tick := time.NewTicker(5 * time.Second)
	defer tick.Stop()
	for {
		select {
		case r := <-results:
			if r.err == nil {
				fmt.Fprintf(os.Stderr, "testservers: both are ready after %.1f s\n", time.Since(begin).Seconds())
			}
			return r.servers, r.err
		case sig := <-signals:
			cancel(fmt.Errorf("stopped by signal: %v", sig))
		case <-tick.C:
			fmt.Fprintf(os.Stderr, "testservers: still starting (%.0f s)\n", time.Since(begin).Seconds())
		}
	}
}

// statusOf returns the exit status as a shell does: 128 plus the signal's number for a
// command that was ended by a signal.
func statusOf(state *os.ProcessState) int {
	if w, ok := state.Sys().(syscall.WaitStatus); ok && w.Signaled() {
		return 128 + int(w.Signal())
	}
	return state.ExitCode()
}

// ignoreExit returns nil for the error that only says that the command's status is not
// zero.
func ignoreExit(err error) error {
	if _, ok := errors.AsType[*exec.ExitError](err); ok {
		return nil
	}
	return err
}
