package main_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// devPatience is what dev is given to start or stop its servers.
const devPatience = 3 * time.Minute

func TestDevFindsItsDataAgainAndLeavesNothingRunning(t *testing.T) {
	t.Parallel()
	folder := devFolder(t)
	p, try := startDev(t, folder)

	if status, stdout, stderr := runToEnd(t, settings{}.environ(), "dev", "--data", folder); status != 1 || !strings.Contains(stderr, "another glotpod-ident dev") {
		t.Errorf("a second one of the same folder: status %d, %q, %q", status, stdout, stderr)
	}
	if out := shell(t, try); !strings.Contains(out, `"users": []`) {
		t.Errorf("%s: %s", try, out)
	}
	shell(t, strings.Replace(try, "call list", "call create name=Ada email=ada@example.org github.id=7 github.access_token=kept", 1))
	p.cmd.Process.Signal(os.Interrupt)
	if status := p.await(t, devPatience); status != 0 {
		t.Errorf("status %d after an interrupt, want 0", status)
	}
	if left := processesOf(t, folder); len(left) > 0 {
		t.Errorf("processes %v are left", left)
	}

	p, try = startDev(t, folder)
	if out := shell(t, strings.Replace(try, "call list", "call get user_id=1 --show-tokens", 1)); !strings.Contains(out, `"access_token": "kept"`) {
		t.Errorf("the second start does not find the user of the first: %s", out)
	}
	broker := processesOf(t, folder+"/rabbitmq")
	if len(broker) == 0 {
		t.Skip("only Linux shows whose processes there are")
	}
	for _, pid := range broker {
		syscall.Kill(pid, syscall.SIGKILL)
	}
	if status := p.await(t, devPatience); status != 1 {
		t.Errorf("status %d after the broker died, want 1", status)
	}
	if !strings.Contains(p.stderr.String(), "ended by itself") {
		t.Errorf("it does not say why it ended: %s", p.stderr.String())
	}
	if left := processesOf(t, folder); len(left) > 0 {
		t.Errorf("processes %v are left", left)
	}
}

func TestDevStopsAtOnceUponASecondSignal(t *testing.T) {
	t.Parallel()
	folder := devFolder(t)
	p, _ := startDev(t, folder)
	p.terminate(t)
	eventually(t, "the broker is being stopped", func() bool { return strings.Contains(p.stdout.String(), "Stopping RabbitMQ") })
	p.terminate(t)
	if status := p.await(t, devPatience); status != 0 {
		t.Errorf("status %d, want 0", status)
	}
	if left := processesOf(t, folder); len(left) > 0 {
		t.Errorf("processes %v are left", left)
	}
}

func TestDevStopsWhileItStarts(t *testing.T) {
	t.Parallel()
	folder := devFolder(t)
	p := launch(t, settings{}.environ(), "dev", "--data", folder)
	eventually(t, "the database is there", func() bool { return strings.Contains(p.stdout.String(), "PostgreSQL is ready") })
	p.terminate(t)
	if status := p.await(t, devPatience); status != 0 {
		t.Errorf("status %d, want 0", status)
	}
	if left := processesOf(t, folder); len(left) > 0 {
		t.Errorf("processes %v are left", left)
	}
}

func TestDevRefusesALogFormatThatThereIsNot(t *testing.T) {
	t.Parallel()
	status, _, stderr := runToEnd(t, settings{}.environ(), "dev", "--data", devFolder(t), "--log-format", "xml")
	if status != 2 || !strings.Contains(stderr, "--log-format") {
		t.Errorf("status %d, %q", status, stderr)
	}
}

// startDev starts dev and waits until it tells of itself. try is the command
// that it then asks people to try.
func startDev(t *testing.T, folder string) (p *process, try string) {
	t.Helper()
	p = launch(t, settings{}.environ(), "dev", "--data", folder)
	command := regexp.MustCompile(`(?m)^  (GLOTPOD_IDENT_SETTINGS=\S+ \S+ call list)$`)
	for deadline := time.Now().Add(devPatience); ; time.Sleep(20 * time.Millisecond) {
		if found := command.FindStringSubmatch(p.stdout.String()); found != nil {
			return p, "cd '" + p.cmd.Dir + "' && " + found[1]
		}
		select {
		case <-p.ended:
			t.Fatalf("dev has ended: %s", p.stdout.String())
		default:
		}
		if time.Now().After(deadline) {
			t.Fatalf("dev is not ready: %s", p.stdout.String())
		}
	}
}

// shell runs a command as a person would paste it, and returns what it prints.
func shell(t *testing.T, command string) string {
	t.Helper()
	cmd := exec.Command("sh", "-c", command)
	cmd.Env = settings{}.environ()
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s%s", command, err, out, stderr.String())
	}
	return string(out)
}

// devFolder makes a folder that PostgreSQL's user can reach.
func devFolder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "glotpod-ident-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	return dir
}

// processesOf lists the processes whose command line names a folder, where
// there is a /proc that tells.
func processesOf(t *testing.T, folder string) (pids []int) {
	t.Helper()
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range lines {
		line, err := os.ReadFile(file)
		if err != nil || !bytes.Contains(line, []byte(folder)) {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if err != nil {
			t.Fatal(err)
		}
		pids = append(pids, pid)
	}
	return pids
}
