// Package deploytest tests what is in deploy/ with the programs that it is meant
// for: Helm, a real Kubernetes control plane, Docker, the reader of Docker Compose,
// systemd.
// It is a module of its own, so that their source is none of the service's
// dependencies. `make test-deploy` builds these programs and runs it. It needs Linux.
//
// Nodes are not real: kwok says of each pod that it runs and is ready. What a pod
// runs is tested by running it, as a process.
package deploytest

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

const (
	chart = "../chart"

	// patience is how long anything may take that is waited for. It is far more
	// than is usual, since machines can be slow.
	patience = 5 * time.Minute
)

func TestMain(m *testing.M) {
	status := m.Run()
	if shared.cluster != nil {
		shared.cluster.stop()
	}
	os.Exit(status)
}

// tool returns the path of a program that build-tools.sh has built.
func tool(t testing.TB, name string) string {
	t.Helper()
	path, err := filepath.Abs("../../bin/deploytest/" + name)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("%v; build-tools.sh builds it", err)
	}
	return path
}

// run runs a command, and returns its standard output and, where it failed, an
// error with what it said. The command ends with this process at the latest.
func run(cmd *exec.Cmd) (string, error) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("%s: %w\n%s%s", strings.Join(cmd.Args, " "), err, stdout.String(), stderr.String())
	}
	return stdout.String(), nil
}

func mustRun(t testing.TB, cmd *exec.Cmd) string {
	t.Helper()
	out, err := run(cmd)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// A process is one that goes on until it is ended.
type process struct {
	cmd   *exec.Cmd
	log   string // the file that it logs to
	ended chan struct{}
}

// start starts a process, which ends with this one at the latest.
func start(dir, name, program string, environ []string, args ...string) (*process, error) {
	p := &process{cmd: exec.Command(program, args...), log: filepath.Join(dir, name+".log"), ended: make(chan struct{})}
	log, err := os.Create(p.log)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	p.cmd.Dir = dir
	p.cmd.Env = append(os.Environ(), environ...)
	p.cmd.Stdout, p.cmd.Stderr = log, log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		defer close(p.ended)
		_ = p.cmd.Wait() // its state tells
	}()
	return p, nil
}

// stop ends the process, patiently if it may take its time.
func (p *process) stop(patiently bool) {
	if patiently {
		_ = p.cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-p.ended:
			return
		case <-time.After(patience):
		}
	}
	_ = p.cmd.Process.Kill()
	<-p.ended
}

// tail returns the end of what the process has logged.
func (p *process) tail() string {
	content, _ := os.ReadFile(p.log)
	lines := strings.Split(strings.TrimSpace(string(content)), "\n")
	return filepath.Base(p.log) + ":\n" + strings.Join(lines[max(0, len(lines)-15):], "\n")
}

// await asks until there is no error, and returns the last one if that takes too
// long, or as soon as a process has ended that has to go on.
func await(ask func() error, processes ...*process) error {
	deadline := time.Now().Add(patience)
	for {
		err := ask()
		if err == nil {
			return nil
		}
		for _, p := range processes {
			select {
			case <-p.ended:
				return fmt.Errorf("%w; %s has ended: %v\n%s", err, p.cmd.Path, p.cmd.ProcessState, p.tail())
			default:
			}
		}
		if time.Now().After(deadline) {
			return err
		}
		time.Sleep(200 * time.Millisecond) // between two questions
	}
}

// freePorts returns ports that nobody listens on. They can be taken by another
// program before they are used.
func freePorts(n int) ([]string, error) {
	var ports []string
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close() // only now, so that all are different
		_, port, _ := net.SplitHostPort(l.Addr().String())
		ports = append(ports, port)
	}
	return ports, nil
}
