package localserver_test

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/glotpod/ident/deploy/localserver"
	"github.com/glotpod/ident/deploy/testservers"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(victimVariable); dir != "" {
		victim(dir)
		return
	}
	testservers.Main(m)
}

// awaitGone waits until all the processes are gone. It fails the test after a minute.
func awaitGone(t *testing.T, pids []int) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		left := running(pids)
		if len(left) == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("processes %v still run", left)
		}
	}
}

// running returns the processes that still run.
func running(pids []int) (left []int) {
	for _, pid := range pids {
		if localserver.Alive(pid) {
			left = append(left, pid)
		}
	}
	return left
}

// ownDir creates a folder that the user postgres may enter.
func ownDir(t *testing.T) string {
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

func TestPorts(t *testing.T) {
	t.Run("free and different", testFreePorts)
	t.Run("retry when a port is taken", testPortRetry)
	t.Run("no retry otherwise", testPortNoRetry)
}

func testFreePorts(t *testing.T) {
	ports, err := localserver.FreePorts(20)
	if err != nil {
		t.Fatal(err)
	}
	seen := make(map[int]bool)
	for _, port := range ports {
		if seen[port] {
			t.Errorf("port %d was returned twice", port)
		}
		seen[port] = true
	}
	if localserver.AnyTaken(ports) {
		t.Error("a port is taken")
	}
}

func testPortRetry(t *testing.T) {
	var tried [][]int
	err := localserver.OnFreePorts(2, func(ports []int) error {
		tried = append(tried, ports)
		if len(tried) == 3 {
			return nil
		}
		listen(t, ports[1])
		return errors.New("taken")
	})
	if err != nil || len(tried) != 3 {
		t.Errorf("tried %v, which gave the error %v", tried, err)
	}
}

func testPortNoRetry(t *testing.T) {
	cause := errors.New("another reason")
	tries := 0
	err := localserver.OnFreePorts(2, func([]int) error {
		tries++
		return cause
	})
	if !errors.Is(err, cause) || tries != 1 {
		t.Errorf("%d tries gave the error %v", tries, err)
	}
}

func TestNotInstalled(t *testing.T) {
	defer localserver.HideInstallations()()
	t.Setenv("PATH", t.TempDir())
	t.Setenv("GLOTPOD_IDENT_POSTGRES", "")
	t.Setenv("GLOTPOD_IDENT_RABBITMQ", "")
	_, err := localserver.StartPostgres(t.Context(), localserver.PostgresOptions{Dir: t.TempDir()})
	checkNotInstalled(t, err)
	_, err = localserver.StartRabbitMQ(t.Context(), localserver.RabbitMQOptions{Dir: t.TempDir()})
	checkNotInstalled(t, err)
}

func checkNotInstalled(t *testing.T, err error) {
	t.Helper()
	if !errors.Is(err, localserver.ErrNotInstalled) || !strings.Contains(err.Error(), "apt-get install rabbitmq-server postgresql") {
		t.Errorf("got the error %v", err)
	}
}

// The variables GLOTPOD_IDENT_POSTGRES and GLOTPOD_IDENT_RABBITMQ choose the programs.
func TestNamedFolder(t *testing.T) {
	defer localserver.HideInstallations()()
	t.Setenv("PATH", t.TempDir())
	for _, c := range []struct {
		variable string
		programs []string
		find     func() (string, error)
	}{
		{"GLOTPOD_IDENT_POSTGRES", []string{"initdb", "postgres"}, localserver.FindPostgres},
		{"GLOTPOD_IDENT_RABBITMQ", []string{"rabbitmq-server", "rabbitmqctl"}, func() (string, error) {
			server, _, err := localserver.FindRabbitMQ()
			return filepath.Dir(server), err
		}},
	} {
		t.Run(c.variable, func(t *testing.T) {
			folder := t.TempDir()
			t.Setenv(c.variable, folder)
			for _, program := range append(c.programs, "epmd") {
				if got, err := c.find(); program != "epmd" && (err == nil ||
					!strings.Contains(err.Error(), c.variable) || !strings.HasSuffix(err.Error(), "no program "+program)) {
					t.Errorf("without %s: %s, %v", program, got, err)
				}
				if err := os.WriteFile(filepath.Join(folder, program), nil, 0o700); err != nil {
					t.Fatal(err)
				}
			}
			if got, err := c.find(); err != nil || got != folder {
				t.Errorf("got the folder %q, %v, want %s", got, err, folder)
			}
		})
	}
}

func listen(t *testing.T, port int) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}
