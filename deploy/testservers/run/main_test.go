package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

func TestRun(t *testing.T) {
	t.Run("servers are gone afterwards", testRunServers)
	t.Run("signal reaches descendants", testRunSignal)
	t.Run("signal during the start", testRunSignalDuringStart)
}

func testRunServers(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	cmd := exec.Command(build(t), "--", "sh", "-c", `echo "$GLOTPOD_IDENT_TESTSERVERS"; exit 7`)
	cmd.Stdout, cmd.Stderr = &out, t.Output()
	cmd.Env = append(os.Environ(), "TMPDIR="+openDir(t))
	cmd.Run()
	if status := cmd.ProcessState.ExitCode(); status != 7 {
		t.Errorf("the status is %d, want the command's, 7", status)
	}
	var servers struct{ Postgres, RabbitMQ struct{ Port int } }
	if err := json.Unmarshal(out.Bytes(), &servers); err != nil {
		t.Fatalf("the variable is %q: %v", out.String(), err)
	}
	for _, port := range []int{servers.Postgres.Port, servers.RabbitMQ.Port} {
		l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err != nil {
			t.Errorf("a server still runs: %v", err)
			continue
		}
		l.Close()
	}
}

func testRunSignal(t *testing.T) {
	t.Parallel()
	// The loop is needed: a sleep that is started just as the signal comes may miss it.
	cmd := exec.Command(build(t), "sh", "-c", `sh -c "trap 'echo child got it; exit' TERM; echo ready; while :; do sleep 1; done" & wait`)
	cmd.Stderr = t.Output()
	cmd.Env = append(os.Environ(), "TMPDIR="+openDir(t))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	if !lines.Scan() || lines.Text() != "ready" {
		t.Fatalf("the command did not start: %q", lines.Text())
	}
	cmd.Process.Signal(syscall.SIGTERM)
	lines.Scan()
	if lines.Text() != "child got it" {
		t.Errorf("the command's child did not get the signal: %q", lines.Text())
	}
	cmd.Wait()
	if status := cmd.ProcessState.ExitCode(); status != 128+int(syscall.SIGTERM) {
		t.Errorf("the status is %d", status)
	}
}

func testRunSignalDuringStart(t *testing.T) {
	t.Parallel()
	var stderr bytes.Buffer
	cmd := exec.Command(build(t), "echo", "this is not run")
	progress, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	cmd.Stdout = &out
	cmd.Env = append(os.Environ(), "TMPDIR="+openDir(t))
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(progress)
	lines.Scan()
	cmd.Process.Signal(os.Interrupt)
	for lines.Scan() {
		stderr.WriteString(lines.Text() + "\n")
	}
	cmd.Wait()
	if cmd.ProcessState.ExitCode() != 1 || out.Len() > 0 || !strings.Contains(stderr.String(), "stopped by signal") {
		t.Errorf("%v, %q, %q", cmd.ProcessState, out.String(), stderr.String())
	}
}

// build builds the program and returns its path.
func build(t *testing.T) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "run")
	if out, err := exec.Command("go", "build", "-o", program, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return program
}

// openDir creates a folder for temporary files that the user postgres may enter. The
// test fails if the folder is not empty at the end.
func openDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "glotpod-ident-test-")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.Remove(dir); err != nil {
			t.Errorf("the folder is not empty: %v", err)
			os.RemoveAll(dir)
		}
	})
	return dir
}
