package harness

import (
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A Process is one run of a program.
type Process struct {
	Cmd            *exec.Cmd
	Stdout, Stderr Output
	ExtraSecrets   []string // that its log must not contain, besides [Secrets]
	awaited        bool     // the test has seen its status
	Done           chan struct{}
	DoneAt         time.Time // set once Done is closed
}

// Launch runs the program in an environment. The process is killed when the test ends,
// and its log is checked for secrets, panics and data races.
func Launch(t *testing.T, env []string, args ...string) *Process {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return LaunchProgram(t, self, env, args...)
}

// LaunchProgram is [Launch] for another program.
func LaunchProgram(t *testing.T, program string, env []string, args ...string) *Process {
	t.Helper()
	p := &Process{Cmd: exec.Command(program, args...), Done: make(chan struct{})}
	p.Cmd.Env = env
	p.Cmd.Dir = t.TempDir()
	p.Cmd.Stdout, p.Cmd.Stderr = &p.Stdout, &p.Stderr
	for _, entry := range env {
		if name, value, _ := strings.Cut(entry, "="); strings.HasSuffix(name, "__POSTGRES__PASSWORD") {
			p.ExtraSecrets = append(p.ExtraSecrets, value)
		}
	}
	if err := p.Cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.Done)
		p.Cmd.Wait()
		p.DoneAt = time.Now()
	}()
	t.Cleanup(func() {
		p.Cmd.Process.Kill()
		<-p.Done
		p.check(t)
		if t.Failed() && slices.Contains(args, "serve") {
			t.Logf("glotpod-ident %s:\n%s", strings.Join(args, " "), p.Stderr.Last(60))
		}
	})
	return p
}

// Secrets are texts, of which one is in each token, password, key, email and name of
// these tests.
var Secrets = []string{"s3cret", "secret.example"}

// check fails if the log contains a secret, a panic or a data race.
func (p *Process) check(t *testing.T) {
	t.Helper()
	log := p.Stderr.String()
	for _, sign := range []string{"DATA RACE", "panic", "fatal error:", "goroutine 1 ["} {
		if strings.Contains(log, sign) {
			t.Errorf("the log has %q:\n%s", sign, log)
		}
	}
	for _, secret := range slices.Concat(Secrets, p.ExtraSecrets) {
		for line := range strings.Lines(log) {
			if strings.Contains(strings.ToLower(line), strings.ToLower(secret)) {
				t.Errorf("the log has %q, which is secret: %s", secret, line)
			}
		}
	}
	if p.Cmd.ProcessState.ExitCode() == 66 {
		t.Errorf("status 66 is the race detector's:\n%s", log)
	}
}

// AwaitExit waits until the process has exited and returns its status, -1 after a
// signal.
func (p *Process) AwaitExit(t *testing.T, atMost time.Duration) int {
	t.Helper()
	select {
	case <-p.Done:
		p.awaited = true
		return p.Cmd.ProcessState.ExitCode()
	case <-time.After(atMost):
		t.Fatalf("the program has not exited within %v", atMost)
		return 0
	}
}

// Kill sends SIGKILL and waits for the exit.
func (p *Process) Kill(t *testing.T) {
	t.Helper()
	p.Cmd.Process.Kill()
	p.AwaitExit(t, Timeout)
}

// Terminate sends SIGTERM.
func (p *Process) Terminate(t *testing.T) {
	t.Helper()
	if err := p.Cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
}

// Run runs the program until it ends.
func Run(t *testing.T, env []string, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	return Launch(t, env, args...).AwaitOutput(t)
}

// AwaitOutput waits until the process has ended, and returns its status and what it has
// written.
func (p *Process) AwaitOutput(t *testing.T) (status int, stdout, stderr string) {
	t.Helper()
	status = p.AwaitExit(t, Timeout)
	return status, p.Stdout.String(), p.Stderr.String()
}
