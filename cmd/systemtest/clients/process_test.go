package clients

import (
	"bufio"
	"bytes"
	"encoding/json"
	"os/exec"
	"testing"
	"time"
)

// patience is how long a client may take for a step, which takes 20 s at most.
const patience = 60 * time.Second

// drive starts a process that is a driver.
func drive(t *testing.T, name string, args ...string) driver {
	t.Helper()
	cmd := exec.Command(name, args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := make(chan []byte)
	ended := make(chan error, 1)
	go func() {
		defer close(lines)
		for scanner := bufio.NewScanner(out); scanner.Scan(); {
			lines <- bytes.Clone(scanner.Bytes())
		}
		ended <- cmd.Wait()
	}()
	t.Cleanup(func() {
		in.Close() // ends the process
		defer time.AfterFunc(patience, func() { cmd.Process.Kill() }).Stop()
		for range lines {
		}
		if err := <-ended; err != nil {
			t.Errorf("%s ended: %v\n%s", name, err, &stderr)
		}
	})
	return func(t *testing.T, s *step) (outcome dict) {
		t.Helper()
		line, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := in.Write(append(line, '\n')); err != nil {
			t.Fatal(err)
		}
		select {
		case line, ok := <-lines:
			if !ok {
				t.Fatalf("%s has ended:\n%s", name, &stderr)
			}
			decode(t, line, &outcome)
		case <-time.After(patience):
			t.Fatalf("%s does not answer", name)
		}
		return outcome
	}
}

// asText returns the URLs of the brokers as JSON.
func (b brokers) asText(t *testing.T) string {
	t.Helper()
	text, err := json.Marshal(b)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
