package systemtest

import (
	"bytes"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// settings are some of the program's, by key, as in "amqp.host".
type settings map[string]string

// with returns s changed by others.
func (s settings) with(others ...settings) settings {
	all := maps.Clone(s)
	for _, o := range others {
		maps.Copy(all, o)
	}
	return all
}

// environ returns the environment that gives the program these settings, and
// nothing of the tests' own.
func (s settings) environ() []string {
	// Unasked, the race detector delays each exit by a second.
	env := []string{"GLOTPOD_IDENT_TEST_PROGRAM=1", "PATH=" + os.Getenv("PATH"), "GORACE=atexit_sleep_ms=0"}
	for _, key := range slices.Sorted(maps.Keys(s)) {
		env = append(env, "GLOTPOD_IDENT__"+strings.ToUpper(strings.ReplaceAll(key, ".", "__"))+"="+s[key])
	}
	return env
}

// A process is one run of the program.
type process struct {
	cmd            *exec.Cmd
	stdout, stderr output
	quiet          []string // what its log must not hold, beside marked
	awaited        bool     // the test knows that it has ended
	ended          chan struct{}
	endedAt        time.Time // once ended is closed
}

// launch runs the program in an environment. The process is gone when the test
// ends; what it wrote is checked whenever it ends.
func launch(t *testing.T, env []string, args ...string) *process {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return launchProgram(t, self, env, args...)
}

// launchProgram is launch, for a program that need not be this one.
func launchProgram(t *testing.T, program string, env []string, args ...string) *process {
	t.Helper()
	p := &process{cmd: exec.Command(program, args...), ended: make(chan struct{})}
	p.cmd.Env = env
	p.cmd.Dir = t.TempDir()
	p.cmd.Stdout, p.cmd.Stderr = &p.stdout, &p.stderr
	for _, entry := range env {
		if name, value, _ := strings.Cut(entry, "="); strings.HasSuffix(name, "__POSTGRES__PASSWORD") {
			p.quiet = append(p.quiet, value)
		}
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.ended)
		p.cmd.Wait()
		p.endedAt = time.Now()
	}()
	t.Cleanup(func() {
		p.cmd.Process.Kill()
		<-p.ended
		p.check(t)
		if t.Failed() && slices.Contains(args, "serve") {
			t.Logf("glotpod-ident %s:\n%s", strings.Join(args, " "), p.stderr.last(60))
		}
	})
	return p
}

// marked is in every token, password, key, email and name of these tests.
var marked = []string{"s3cret", "secret.example"}

// check looks for what must not be in a log.
func (p *process) check(t *testing.T) {
	t.Helper()
	log := p.stderr.String()
	for _, sign := range []string{"DATA RACE", "panic", "fatal error:", "goroutine 1 ["} {
		if strings.Contains(log, sign) {
			t.Errorf("the log has %q:\n%s", sign, log)
		}
	}
	for _, secret := range slices.Concat(marked, p.quiet) {
		for line := range strings.Lines(log) {
			if strings.Contains(strings.ToLower(line), strings.ToLower(secret)) {
				t.Errorf("the log has %q, which is secret: %s", secret, line)
			}
		}
	}
	if p.cmd.ProcessState.ExitCode() == 66 {
		t.Errorf("status 66 is the race detector's:\n%s", log)
	}
}

// await waits until the process has ended and returns its status, -1 if a
// signal ended it.
func (p *process) await(t *testing.T, atMost time.Duration) int {
	t.Helper()
	select {
	case <-p.ended:
		p.awaited = true
		return p.cmd.ProcessState.ExitCode()
	case <-time.After(atMost):
		t.Fatalf("the program has not ended within %v", atMost)
		return 0
	}
}

// kill ends the process by SIGKILL.
func (p *process) kill(t *testing.T) {
	t.Helper()
	p.cmd.Process.Kill()
	p.await(t, patience)
}

// terminate asks the process to end.
func (p *process) terminate(t *testing.T) {
	t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
}

// runToEnd runs the program until it ends.
func runToEnd(t *testing.T, env []string, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	p := launch(t, env, args...)
	status = p.await(t, patience)
	return status, p.stdout.String(), p.stderr.String()
}

// output is what a process has written so far.
type output struct {
	mu   sync.Mutex // guards the following field
	text bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// count says how often there is a log line with this message.
func (o *output) count(message string) int {
	return strings.Count(o.String(), `"msg":"`+message+`"`)
}

func (o *output) last(lines int) string {
	all := strings.SplitAfter(o.String(), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "")
}

// encryptionKeys is the setting that gives the program these keys.
func encryptionKeys(keys ...string) settings {
	return settings{"database.encryption_key": strings.Join(keys, ",")}
}

// pythonKey is the key of testdata/python-service.sql in base64url, and the same
// in base32 and base64.
const (
	pythonKey       = "s3cretKeyOfThePythonServiceUsedInTestsOnly0="
	pythonKeyBase32 = "WN3SW6WST3EOPU4F4PZLMGRHJHVO7COHSSY6OSE5G6WLNQ5HS4WQ===="
)
