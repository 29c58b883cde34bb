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

// devTimeout is how long glotpod-ident-dev may take to start or stop its servers.
const devTimeout = 3 * time.Minute

// Each start of glotpod-ident-dev starts a RabbitMQ, which is slow, so each cluster
// serves to check as much as it can.
func TestDev(t *testing.T) {
	t.Parallel()
	t.Run("data_is_kept", func(t *testing.T) {
		t.Parallel()
		folder := devFolder(t)
		first, try := startDev(t, folder)
		status, stdout, stderr := harness.LaunchDev(t, harness.Settings{}.Environ(), "--data", folder).AwaitOutput(t)
		if status != 1 || !strings.Contains(stderr, "another glotpod-ident-dev") {
			t.Errorf("a second cluster in the same folder: status %d, %q, %q", status, stdout, stderr)
		}
		if out := shell(t, try); !strings.Contains(out, `"users": []`) {
			t.Errorf("%s: %s", try, out)
		}
		shell(t, strings.Replace(try, "call list", "call create name=Ada email=ada@example.org github.id=7 github.access_token=kept", 1))
		first.Cmd.Process.Signal(os.Interrupt)
		checkDevExit(t, first, folder, 0)
		for line := range strings.Lines(first.Stderr.String()) {
			if !regexp.MustCompile(`^ident-[012] \| .*\n$`).MatchString(line) {
				t.Errorf("the log does not say which instance wrote %q", line)
			}
		}

		second, try := startDev(t, folder, "--instances", "1")
		if out := shell(t, strings.Replace(try, "call list", "call get user_id=1 --show-tokens", 1)); !strings.Contains(out, `"access_token": "kept"`) {
			t.Errorf("the second start does not find the user of the first: %s", out)
		}
		broker := processesOf(t, folder+"/rabbitmq")
		if len(broker) == 0 {
			t.Skip("only Linux shows the environment of processes")
		}
		for _, pid := range broker {
			syscall.Kill(pid, syscall.SIGKILL)
		}
		checkDevExit(t, second, folder, 1) // as the broker has died
		if !strings.Contains(second.Stderr.String(), "ended by itself") {
			t.Errorf("dev does not say why it ended: %s", second.Stderr.String())
		}
	})
	t.Run("instances", func(t *testing.T) {
		t.Parallel()
		folder := devFolder(t)
		p, try := startDev(t, folder, "--instances", "2")

		// A killed instance is started again.
		shell(t, awaitDevOutput(t, p, `(?m)^  (kill -9 \d+)$`))
		restarted := awaitDevOutput(t, p, `ident-1 has ended by itself \(signal: killed\)[^$]*ident-1 is ready again\. To kill it: kill -9 (\d+)\n`)

		// Another instance joins the cluster by the command that dev prints.
		joining := exec.Command("sh", "-c", "exec env "+awaitDevOutput(t, p, `(?m)^  (\S+ \S+=ident-2 .* serve)$`))
		var log harness.Output
		joining.Dir, joining.Env, joining.Stderr = p.Cmd.Dir, harness.Settings{}.Environ(), &log
		if err := joining.Start(); err != nil {
			t.Fatal(err)
		}
		exited := make(chan error, 1)
		go func() { exited <- joining.Wait() }()
		log.Await(t, "the third instance serves", harness.Contains("serving"))
		joining.Process.Signal(os.Interrupt)
		if err := <-exited; err != nil {
			t.Errorf("the third instance: %v\n%s", err, log.String())
		}

		// Dev gets rid of a frozen instance, and at the second signal stops waiting
		// for the broker.
		shell(t, "kill -STOP "+restarted)
		shell(t, try)
		p.Terminate(t)
		p.Stdout.Await(t, "the broker is being stopped", harness.Contains("Stopping RabbitMQ"))
		p.Terminate(t)
		checkDevExit(t, p, folder, 0)
	})
	t.Run("stop_during_start", func(t *testing.T) {
		t.Parallel()
		folder := devFolder(t)
		p := harness.LaunchDev(t, harness.Settings{}.Environ(), "--data", folder)
		p.Stdout.Await(t, "the database is there", harness.Contains("PostgreSQL is ready"))
		p.Terminate(t)
		checkDevExit(t, p, folder, 0)
	})
	t.Run("wrong_flags", func(t *testing.T) {
		t.Parallel()
		for _, args := range [][]string{{"--log-format", "xml"}, {"--instances", "0"}, {"--instances", "10"}} {
			status, _, stderr := harness.LaunchDev(t, harness.Settings{}.Environ(), append([]string{"--data", devFolder(t)}, args...)...).AwaitOutput(t)
			if status != 2 || !strings.Contains(stderr, args[0]) {
				t.Errorf("%q: status %d, %q", args, status, stderr)
			}
		}
	})
}

// checkDevExit fails unless the process exits with a status and leaves no process
// of its folder behind.
func checkDevExit(t *testing.T, p *harness.Process, folder string, status int) {
	t.Helper()
	if got := p.AwaitExit(t, devTimeout); got != status {
		t.Errorf("status %d, want %d", got, status)
	}
	if left := processesOf(t, folder); len(left) > 0 {
		t.Errorf("processes %v are left", left)
	}
}

// startDev starts glotpod-ident-dev and waits until the cluster is ready. try is the
// command that dev then suggests.
func startDev(t *testing.T, folder string, args ...string) (p *harness.Process, try string) {
	t.Helper()
	p = harness.LaunchDev(t, harness.Settings{}.Environ(), append([]string{"--data", folder}, args...)...)
	try = awaitDevOutput(t, p, `(?m)^  (GLOTPOD_IDENT_SETTINGS=\S+ \S+ call list)$`)
	return p, "cd '" + p.Cmd.Dir + "' && " + try
}

// awaitDevOutput waits until dev prints text that matches a pattern, and returns the
// group of the pattern.
func awaitDevOutput(t *testing.T, p *harness.Process, pattern string) string {
	t.Helper()
	wanted := regexp.MustCompile(pattern)
	timeout := time.After(devTimeout)
	for {
		changed := p.Stdout.Changed()
		if found := wanted.FindStringSubmatch(p.Stdout.String()); found != nil {
			return found[1]
		}
		select {
		case <-changed:
		case <-p.Done:
			t.Fatalf("dev has ended: %s", p.Stdout.String())
		case <-timeout:
			t.Fatalf("dev does not print %s: %s", pattern, p.Stdout.String())
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
