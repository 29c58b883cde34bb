package bench

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"github.com/glotpod/ident/deploy/localserver"
)

// A baselineProcess is a child process that runs a baseline, so that its CPU time is
// counted apart.
type baselineProcess struct {
	process *localserver.Process
	pid     int
}

// startBaseline starts a command of this program and waits until the command consumes.
// environ has the settings.
func startBaseline(ctx context.Context, environ []string, stderr io.Writer, command string, args ...string) (*baselineProcess, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(program, append([]string{command}, args...)...)
	cmd.Env = environ
	ready := &firstWrite{happened: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = ready, stderr
	p, err := localserver.Launch(cmd, syscall.SIGTERM)
	if err != nil {
		return nil, fmt.Errorf("start the baseline %s: %w", command, err)
	}
	b := &baselineProcess{process: p, pid: cmd.Process.Pid}
	select {
	case <-ready.happened:
		return b, nil
	case <-p.Exited():
		return nil, fmt.Errorf("the baseline %s has ended (%v)", command, p.Status())
	case <-ctx.Done():
		b.stop()
		return nil, ctx.Err()
	}
}

func (b *baselineProcess) stop() error { return b.process.Stop(syscall.SIGTERM, 10*time.Second) }

// A firstWrite closes a channel at the first write.
type firstWrite struct {
	happened chan struct{}
	once     sync.Once
}

func (f *firstWrite) Write(p []byte) (int, error) {
	f.once.Do(func() { close(f.happened) })
	return len(p), nil
}
