package deploytest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

type server struct {
	Host, User, Password string
	Port                 int
}

// testServers returns the broker and the database for the tests.
func testServers(t *testing.T) (servers struct{ Postgres, RabbitMQ server }) {
	t.Helper()
	const variable = "GLOTPOD_IDENT_TESTSERVERS"
	if err := json.Unmarshal([]byte(os.Getenv(variable)), &servers); err != nil {
		t.Fatalf("%s must describe a broker and a database (make test-deploy starts them): %v", variable, err)
	}
	return servers
}

// checkURL returns nil if a GET of the URL succeeds with status 200.
func checkURL(url string) error {
	response, err := http.Get(url)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", url, response.Status)
	}
	return nil
}

// TestPod runs the containers of the chart's pod as processes, with the settings file
// from the Secret, the environment, the arguments, and the program of the image. The init
// container must create the schema, the probes must succeed, and SIGTERM must end the
// instance with status 0.
func TestPod(t *testing.T) {
	servers := testServers(t)
	ports, err := freePorts(1)
	if err != nil {
		t.Fatal(err)
	}
	settings, err := json.Marshal(map[string]any{
		"amqp": map[string]any{"host": servers.RabbitMQ.Host, "port": servers.RabbitMQ.Port,
			"login": servers.RabbitMQ.User, "password": servers.RabbitMQ.Password},
		"database": map[string]any{
			"encryption_key": []string{strings.TrimPrefix(key, "settings.database.encryption_key=")},
			"postgres": map[string]any{"host": servers.Postgres.Host, "port": servers.Postgres.Port, "database": "postgres",
				"user": servers.Postgres.User, "password": servers.Postgres.Password, "sslmode": "disable"},
		},
		"actor":   map[string]any{"warm_bytes": 1 << 30},
		"tracing": map[string]any{"sample": 0.25},
	})
	if err != nil {
		t.Fatal(err)
	}
	made := objects(t, mustRun(t, exec.Command(tool(t, "helm"), "template", "ident", chart,
		"--set", "port="+ports[0], "--set-json", "settings="+string(settings))))
	var secret struct{ StringData map[string]string }
	decode(t, made["Secret/ident-glotpod-ident-settings"], &secret)
	dir := t.TempDir()
	file := filepath.Join(dir, "settings.toml")
	if err := os.WriteFile(file, []byte(secret.StringData["settings.toml"]), 0o600); err != nil {
		t.Fatal(err)
	}

	pod := podOf(t, made)
	program := buildAsImage(t, repository(t))
	environ := func(c container) []string {
		var all []string
		for name, value := range c.environ("ident-0") {
			if name == "GLOTPOD_IDENT_SETTINGS" {
				value = file
			}
			all = append(all, name+"="+value)
		}
		return all
	}

	migrate := exec.Command(program, pod.InitContainers[0].Args...)
	migrate.Env = environ(pod.InitContainers[0])
	if out := mustRun(t, migrate); !strings.Contains(out, "up to date") {
		t.Errorf("migrate says %q", out)
	}

	ident := pod.Containers[0]
	p, err := start(dir, "ident", program, environ(ident), ident.Args...)
	if err != nil {
		t.Fatal(err)
	}
	defer p.stop(false)
	for _, path := range []string{ident.StartupProbe.HTTPGet.Path, ident.ReadinessProbe.HTTPGet.Path, ident.LivenessProbe.HTTPGet.Path, "/metrics"} {
		if err := await(func() error { return checkURL("http://127.0.0.1:" + ports[0] + path) }, p); err != nil {
			t.Fatal(err)
		}
	}

	// This is what `kubectl exec` runs.
	status := exec.Command(program, "status")
	status.Env = environ(ident)
	if out := mustRun(t, status); !strings.Contains(out, "ident-0") {
		t.Errorf("the instance is not named after its pod:\n%s", out)
	}

	// This is what `helm test` runs. The servers of the tests are not as safe as doctor wants it.
	examining := doctorOf(t, made).Spec.Containers[0]
	doctor := exec.Command(program, examining.Args...)
	doctor.Env = environ(examining)
	out, err := run(doctor)
	if code := doctor.ProcessState.ExitCode(); code > 1 || !strings.Contains(out, "fsync is off") {
		t.Errorf("doctor ends with %d: %v", code, err)
	}

	p.stop(true)
	if code := p.cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("the instance ended with %d: %s", code, p.tail())
	}
	log, err := os.ReadFile(p.log)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(log, []byte(servers.RabbitMQ.Password)) {
		t.Error("the log contains a password")
	}
}
