package localserver

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	// startTimeout and stopTimeout are far longer than a slow machine needs. A server
	// that has not started or stopped by then never will.
	startTimeout = 3 * time.Minute
	stopTimeout  = 1 * time.Minute

	probeTimeout  = 10 * time.Second
	probeInterval = 50 * time.Millisecond
)

// A server is the part that Postgres and RabbitMQ share: it starts, watches and stops
// the processes.
//
//	start             Stop, Kill
//	------> running -------------> down
//	           | <----------------
//	           |     Restart
//	           +-----------------> down, and Done is closed
//	             dies by itself
type server struct {
	name       string
	log        string         // the file that the processes write to
	stopSignal syscall.Signal // makes the server shut down cleanly

	// launch starts the processes and waits until the server answers. It returns the
	// processes in the order of their start, the server itself last. If it fails, it
	// returns the processes started so far, and the caller kills them.
	launch func(context.Context) ([]*Process, error)

	done chan struct{}

	lifecycle sync.Mutex // held during each start and stop, so that only one runs

	mu       sync.Mutex // guards the following fields
	current  *run       // nil while the server is down
	stopping *run       // the run that Stop is stopping, or nil
	err      error      // why done is closed
}

// A run is the time from a start of the server to its stop, crash or kill.
type run struct {
	processes []*Process
	watched   chan struct{} // closed when the goroutine that runs watch returns
}

func (r *run) main() *Process { return r.processes[len(r.processes)-1] }

// kill kills all processes.
func (r *run) kill() {
	for _, p := range slices.Backward(r.processes) {
		p.Kill()
	}
}

// Done returns a channel that is closed when the server dies without a Stop, Kill or
// Restart. The channel stays closed after a Restart.
func (s *server) Done() <-chan struct{} { return s.done }

// Err returns how the server died. It is nil until Done is closed.
func (s *server) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// Stop shuts the server down cleanly and returns when all its processes are gone. An
// error means that the server had to be killed. Stopping a server that is down does
// nothing.
func (s *server) Stop() error {
	s.lifecycle.Lock()
	defer s.lifecycle.Unlock()
	defer s.setStopping(nil)
	return s.endLocked(func(r *run) error {
		s.setStopping(r)
		defer r.kill()
		return r.main().Stop(s.stopSignal, stopTimeout)
	})
}

func (s *server) setStopping(r *run) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopping = r
}

// Kill ends all processes of the server by SIGKILL, as a crash would, and returns when
// they are gone. Clients see their connections break. If a Stop is running, Kill cuts
// it short.
func (s *server) Kill() {
	s.mu.Lock()
	stopping := s.stopping
	s.mu.Unlock()
	if stopping != nil {
		stopping.kill()
	}
	s.lifecycle.Lock()
	defer s.lifecycle.Unlock()
	s.killLocked()
}

// Restart starts the server again, on the same ports and with its data, and returns
// when it answers. Restart kills a server that is still running first.
func (s *server) Restart(ctx context.Context) error {
	s.lifecycle.Lock()
	defer s.lifecycle.Unlock()
	s.killLocked()
	return s.startLocked(ctx)
}

func (s *server) killLocked() {
	s.endLocked(func(r *run) error {
		r.kill()
		return nil
	})
}

// endLocked takes the server down by end. The caller holds s.lifecycle.
func (s *server) endLocked(end func(*run) error) error {
	s.mu.Lock()
	r := s.current
	s.current = nil
	s.mu.Unlock()
	if r == nil {
		return nil
	}
	err := end(r)
	<-r.watched
	if err != nil {
		return fmt.Errorf("stop %s: %w", s.name, err)
	}
	return nil
}

// start starts a new server.
func (s *server) start(ctx context.Context) error {
	s.lifecycle.Lock()
	defer s.lifecycle.Unlock()
	return s.startLocked(ctx)
}

func (s *server) startLocked(ctx context.Context) error {
	limited, cancel := context.WithTimeoutCause(ctx, startTimeout,
		fmt.Errorf("no answer within %v", startTimeout))
	defer cancel()
	processes, err := s.launch(limited)
	r := &run{processes: processes, watched: make(chan struct{})}
	if err != nil {
		r.kill()
		if ctx.Err() != nil {
			return fmt.Errorf("start %s: %w", s.name, err)
		}
		return fmt.Errorf("start %s: %w%s", s.name, err, logTail(s.log))
	}
	s.mu.Lock()
	s.current = r
	s.mu.Unlock()
	go s.watch(r)
	return nil
}

// watch closes s.done when the server dies by itself.
func (s *server) watch(r *run) {
	defer close(r.watched)
	<-r.main().exited
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current != r {
		return // Stop, Kill or Restart ended it
	}
	s.current = nil
	r.kill()
	if s.err == nil {
		s.err = fmt.Errorf("%s ended by itself (%s)%s", s.name, r.main().Status(), logTail(s.log))
		close(s.done)
	}
}

// awaitReady calls probe until it succeeds. It fails when the process has ended or ctx
// is done. A call that hangs is cancelled after probeTimeout.
func awaitReady(ctx context.Context, p *Process, probe func(context.Context) error) error {
	for {
		attempt, cancel := context.WithTimeout(ctx, probeTimeout)
		result := make(chan error, 1)
		go func() { result <- probe(attempt) }()
		var err error
		select {
		case err = <-result:
		case <-p.exited:
			cancel()
			err = <-result
		}
		cancel()
		if err == nil {
			return nil
		}
		select {
		case <-p.exited:
			return fmt.Errorf("the process ended (%s)", p.Status())
		case <-ctx.Done():
			return fmt.Errorf("%w: %v", context.Cause(ctx), err)
		case <-time.After(probeInterval):
		}
	}
}

// logTail returns the last lines of a log file, to be appended to an error.
func logTail(log string) string {
	const lines = 20
	text, err := os.ReadFile(log)
	if err != nil || len(text) == 0 {
		return ""
	}
	all := strings.Split(strings.TrimSpace(string(text)), "\n")
	return fmt.Sprintf("; the end of %s:\n%s", log, strings.Join(all[max(0, len(all)-lines):], "\n"))
}
