package operate

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

	"github.com/glotpod/ident/cmd/systemtest/harness"
)

// devPatience is what dev is given to start or stop its servers.
const devPatience = 3 * time.Minute

func TestDevFindsItsDataAgainAndLeavesNothingRunning(t *testing.T) {
	t.Parallel()
	folder := devFolder(t)
	p, try := startDev(t, folder)

	if status, stdout, stderr := harness.LaunchDev(t, harness.Settings{}.Environ(), "--data", folder).AwaitOutput(t); status != 1 || !strings.Contains(stderr, "another glotpod-ident-dev") {
		t.Errorf("a second one of the same folder: status %d, %q, %q", status, stdout, stderr)
	}
	if out := shell(t, try); !strings.Contains(out, `"users": []`) {
		t.Errorf("%s: %s", try, out)
	}
	shell(t, strings.Replace(try, "call list", "call create name=Ada email=ada@example.org github.id=7 github.access_token=kept", 1))
	p.Cmd.Process.Signal(os.Interrupt)
	if status := p.AwaitExit(t, devPatience); status != 0 {
		t.Errorf("status %d after an interrupt, want 0", status)
	}
	if left := processesOf(t, folder); len(left) > 0 {
		t.Errorf("processes %v are left", left)
	}
	for line := range strings.Lines(p.Stderr.String()) {
		if !regexp.MustCompile(`^ident-[012] \| .*\n$`).MatchString(line) {
			t.Errorf("the log does not say which instance wrote %q", line)
		}
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
	if status := p.AwaitExit(t, devPatience); status != 1 {
		t.Errorf("status %d after the broker died, want 1", status)
	}
	if !strings.Contains(p.Stderr.String(), "ended by itself") {
		t.Errorf("it does not say why it ended: %s", p.Stderr.String())
	}
	if left := processesOf(t, folder); len(left) > 0 {
		t.Errorf("processes %v are left", left)
	}
}

func TestDevStartsAnInstanceAgainAndCanBeJoined(t *testing.T) {
	t.Parallel()
	folder := devFolder(t)
	p, try := startDev(t, folder, "--instances", "2")

	shell(t, said(t, p, `(?m)^  (kill -9 \d+)$`))
	again := said(t, p, `ident-1 has ended by itself \(signal: killed\)[^$]*ident-1 is ready again\. To kill it: kill -9 (\d+)\n`)

	joining := exec.Command("sh", "-c", "exec env "+said(t, p, `(?m)^  (\S+ \S+=ident-2 .* serve)$`))
	var log harness.Output
	joining.Dir, joining.Env, joining.Stderr = p.Cmd.Dir, harness.Settings{}.Environ(), &log
	if err := joining.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- joining.Wait() }()
	harness.Eventually(t, "another one serves", func() bool { return strings.Contains(log.String(), "serving") })
	joining.Process.Signal(os.Interrupt)
	if err := <-ended; err != nil {
		t.Errorf("the one that joined: %v\n%s", err, log.String())
	}

	// One that is frozen hears of no signal to stop.
	shell(t, "kill -STOP "+again)
	shell(t, try)
	p.Terminate(t)
	if status := p.AwaitExit(t, devPatience); status != 0 {
		t.Errorf("status %d, want 0", status)
	}
	if left := processesOf(t, folder); len(left) > 0 {
		t.Errorf("processes %v are left", left)
	}
}

func TestDevStopsAtOnceUponASecondSignal(t *testing.T) {
	t.Parallel()
	folder := devFolder(t)
	p, _ := startDev(t, folder, "--instances", "1")
	p.Terminate(t)
	harness.Eventually(t, "the broker is being stopped", func() bool { return strings.Contains(p.Stdout.String(), "Stopping RabbitMQ") })
	p.Terminate(t)
	if status := p.AwaitExit(t, devPatience); status != 0 {
		t.Errorf("status %d, want 0", status)
	}
	if left := processesOf(t, folder); len(left) > 0 {
		t.Errorf("processes %v are left", left)
	}
}

func TestDevStopsWhileItStarts(t *testing.T) {
	t.Parallel()
	folder := devFolder(t)
	p := harness.LaunchDev(t, harness.Settings{}.Environ(), "--data", folder)
	harness.Eventually(t, "the database is there", func() bool { return strings.Contains(p.Stdout.String(), "PostgreSQL is ready") })
	p.Terminate(t)
	if status := p.AwaitExit(t, devPatience); status != 0 {
		t.Errorf("status %d, want 0", status)
	}
	if left := processesOf(t, folder); len(left) > 0 {
		t.Errorf("processes %v are left", left)
	}
}

func TestDevRefusesWhatItCannotDo(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"--log-format", "xml"}, {"--instances", "0"}, {"--instances", "10"}} {
		status, _, stderr := harness.LaunchDev(t, harness.Settings{}.Environ(), append([]string{"--data", devFolder(t)}, args...)...).AwaitOutput(t)
		if status != 2 || !strings.Contains(stderr, args[0]) {
			t.Errorf("%q: status %d, %q", args, status, stderr)
		}
	}
}

// startDev starts dev and waits until it tells of itself. try is the command
// that it then asks people to try.
func startDev(t *testing.T, folder string, args ...string) (p *harness.Process, try string) {
	t.Helper()
	p = harness.LaunchDev(t, harness.Settings{}.Environ(), append([]string{"--data", folder}, args...)...)
	try = said(t, p, `(?m)^  (GLOTPOD_IDENT_SETTINGS=\S+ \S+ call list)$`)
	return p, "cd '" + p.Cmd.Dir + "' && " + try
}

// said waits until dev says what matches a pattern, and returns the pattern's
// group.
func said(t *testing.T, p *harness.Process, pattern string) string {
	t.Helper()
	wanted := regexp.MustCompile(pattern)
	for deadline := time.Now().Add(devPatience); ; time.Sleep(20 * time.Millisecond) {
		if found := wanted.FindStringSubmatch(p.Stdout.String()); found != nil {
			return found[1]
		}
		select {
		case <-p.Done:
			t.Fatalf("dev has ended: %s", p.Stdout.String())
		default:
		}
		if time.Now().After(deadline) {
			t.Fatalf("dev does not say %s: %s", pattern, p.Stdout.String())
		}
	}
}

// shell runs a command as a person would paste it, and returns what it prints.
func shell(t *testing.T, command string) string {
	t.Helper()
	cmd := exec.Command("sh", "-c", command)
	cmd.Env = harness.Settings{}.Environ()
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

// processesOf lists the processes whose command line or environment names a
// folder, where there is a /proc that tells.
func processesOf(t *testing.T, folder string) (pids []int) {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range all {
		line, _ := os.ReadFile(dir + "/cmdline") // nothing of one that has ended
		environ, _ := os.ReadFile(dir + "/environ")
		if !bytes.Contains(line, []byte(folder)) && !bytes.Contains(environ, []byte(folder)) {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil {
			t.Fatal(err)
		}
		pids = append(pids, pid)
	}
	return pids
}
