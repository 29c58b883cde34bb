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
	// startTimeout and stopTimeout are far beyond what a slow machine needs: a
	// server that has not started or stopped by then never will.
	startTimeout = 3 * time.Minute
	stopTimeout  = 1 * time.Minute

	probeTimeout  = 10 * time.Second
	probeInterval = 50 * time.Millisecond
)

// A server is what Postgres and RabbitMQ have in common: the life of a server's
// processes.
//
//	start          Stop, Kill
//	------> runs -------------> down
//	          | <-------------
//	          |     Restart
//	          +---------------> down, and Done is closed
//	            dies by itself
type server struct {
	name       string
	log        string         // the file that the processes write to
	stopSignal syscall.Signal // asks the server to end in order

	// launch launches the processes, waits until the server answers, and returns
	// them in the order of their start, the server itself last. When it fails
	// it returns what it has launched so far, for the caller to end.
	launch func(context.Context) ([]*Process, error)

	done chan struct{}

	lifecycle sync.Mutex // held through every start and stop, which thus take turns

	mu       sync.Mutex // guards the following fields
	current  *run       // nil while the server is down
	stopping *run       // the one that Stop is ending, or else nil
	err      error      // why done is closed
}

// A run is the time between one start and the next end.
type run struct {
	processes []*Process
	watched   chan struct{} // closed when the goroutine that watches them returns
}

func (r *run) main() *Process { return r.processes[len(r.processes)-1] }

// kill ends all processes at once.
func (r *run) kill() {
	for _, p := range slices.Backward(r.processes) {
		p.Kill()
	}
}

// Done is closed when the server dies without having been told to. It stays
// closed after a Restart.
func (s *server) Done() <-chan struct{} { return s.done }

// Err says how the server died, and is nil as long as Done is open.
func (s *server) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// Stop ends the server in order and returns when all its processes are gone. An
// error means that it had to be killed. A server that is down may be stopped
// again.
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

// Kill ends all processes of the server at once by SIGKILL, as a crash would,
// and returns when they are gone. Clients see their connections break. A Stop
// that is under way is cut short.
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

// Restart starts the server again, on the same ports and with its data, and
// returns when it answers. A server that still runs is killed first.
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

// endLocked takes the server down by the given means.
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

// start brings up a new server.
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

// watch notices when the server dies by itself.
func (s *server) watch(r *run) {
	defer close(r.watched)
	<-r.main().exited
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current != r {
		return // somebody ended it
	}
	s.current = nil
	r.kill()
	if s.err == nil {
		s.err = fmt.Errorf("%s ended by itself (%s)%s", s.name, r.main().Status(), logTail(s.log))
		close(s.done)
	}
}

// awaitReady calls probe again and again until it succeeds. It gives up when the
// process ends or ctx does. An attempt that hangs is broken off.
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
			return fmt.Errorf("it ended at once (%s)", p.Status())
		case <-ctx.Done():
			return fmt.Errorf("%w: %v", context.Cause(ctx), err)
		case <-time.After(probeInterval):
		}
	}
}

// logTail returns the end of a log in a form that can follow an error.
func logTail(log string) string {
	const lines = 20
	text, err := os.ReadFile(log)
	if err != nil || len(text) == 0 {
		return ""
	}
	all := strings.Split(strings.TrimSpace(string(text)), "\n")
	return fmt.Sprintf("; the end of %s:\n%s", log, strings.Join(all[max(0, len(all)-lines):], "\n"))
}
