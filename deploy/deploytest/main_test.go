// Package deploytest tests the files in deploy/ with the programs that use them: Helm, a
// real Kubernetes control plane, Docker, the parser of Docker Compose, and systemd.
//
// It is a module of its own, so that these programs are no dependencies of the service.
// `make test-deploy` builds the programs and runs the tests. They need Linux.
//
// kwok simulates the nodes: it reports each pod as running and ready. The container of a
// pod is tested by running its command as a process.
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

	// timeout limits each wait. It is far longer than usual, for slow machines.
	timeout = 5 * time.Minute
)

func TestMain(m *testing.M) {
	status := m.Run()
	if shared.cluster != nil {
		shared.cluster.stop()
	}
	os.Exit(status)
}

// tool returns the path of a program that build-tools.sh builds.
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

// run runs a command and returns its standard output. An error contains all of the
// command's output. The command is killed when this process dies.
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

// A process is a command in the background.
type process struct {
	cmd   *exec.Cmd
	log   string // the file with its output
	ended chan struct{}
}

// start starts a process. It is killed when this process dies.
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
		_ = p.cmd.Wait() // ProcessState has the result
	}()
	return p, nil
}

// stop kills the process. If graceful, stop first sends SIGTERM, and waits.
func (p *process) stop(graceful bool) {
	if graceful {
		_ = p.cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-p.ended:
			return
		case <-time.After(timeout):
		}
	}
	_ = p.cmd.Process.Kill()
	<-p.ended
}

// tail returns the last lines of the process's output.
func (p *process) tail() string {
	content, _ := os.ReadFile(p.log)
	lines := strings.Split(strings.TrimSpace(string(content)), "\n")
	return filepath.Base(p.log) + ":\n" + strings.Join(lines[max(0, len(lines)-15):], "\n")
}

// await calls check until it returns nil. It returns check's last error after timeout, or
// as soon as one of the processes has ended.
func await(check func() error, processes ...*process) error {
	deadline := time.Now().Add(timeout)
	for {
		err := check()
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
		time.Sleep(200 * time.Millisecond)
	}
}

// freePorts returns ports that no program listens on. Another program may take them before
// they are used.
func freePorts(n int) ([]string, error) {
	var ports []string
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close() // at the end, so that all ports differ
		_, port, _ := net.SplitHostPort(l.Addr().String())
		ports = append(ports, port)
	}
	return ports, nil
}
