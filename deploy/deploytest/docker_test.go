package deploytest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// A dockerEngine is a Docker engine that belongs to a test.
type dockerEngine struct {
	t      *testing.T
	dir    string
	client string // the path of docker
}

// dockerClient returns the path of a client that builds with BuildKit. Clients from 23.0 on
// need the plugin buildx for it.
func dockerClient(t *testing.T) string {
	t.Helper()
	for _, dir := range filepath.SplitList(os.Getenv("PATH")) {
		path := filepath.Join(dir, "docker")
		version, err := run(exec.Command(path, "--version"))
		if err != nil {
			continue
		}
		var major int
		if _, err := fmt.Sscanf(version, "Docker version %d.", &major); err == nil && major < 23 {
			return path
		}
		if _, err := run(exec.Command(path, "buildx", "version")); err == nil {
			return path
		}
	}
	t.Fatal("there is no docker that builds by BuildKit")
	return ""
}

// startDocker starts an engine without images. It is stopped when the test ends.
func startDocker(t *testing.T) *dockerEngine {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can start a Docker engine")
	}
	dir, err := os.MkdirTemp("", "ident-docker-") // short, because the path of a socket is limited
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_, _ = run(exec.Command("umount", filepath.Join(dir, "exec/netns/default"))) // the engine leaves it behind
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	d := &dockerEngine{t: t, dir: dir, client: dockerClient(t)}
	engine, err := start(dir, "dockerd", "dockerd", nil, "--host", d.address(), "--pidfile", filepath.Join(dir, "pid"),
		"--data-root", filepath.Join(dir, "data"), "--exec-root", filepath.Join(dir, "exec"), "--storage-driver", "vfs",
		// The containers use the host's network. The engine must not change it.
		"--bridge", "none", "--iptables=false", "--ip6tables=false")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { engine.stop(true) })
	if err := await(func() error { _, err := run(d.command("version")); return err }, engine); err != nil {
		t.Fatal(err)
	}
	return d
}

func (d *dockerEngine) address() string { return "unix://" + filepath.Join(d.dir, "socket") }

func (d *dockerEngine) command(args ...string) *exec.Cmd {
	cmd := exec.Command(d.client, append([]string{"--host", d.address()}, args...)...)
	cmd.Env = append(os.Environ(), "DOCKER_BUILDKIT=1")
	return cmd
}

func (d *dockerEngine) run(args ...string) string {
	d.t.Helper()
	return strings.TrimSpace(mustRun(d.t, d.command(args...)))
}

var builderImage = regexp.MustCompile(`(?m)^FROM (?:--platform=\S+ )?(golang:\S+) AS build$`)

// makeBuilder creates the build image from this machine's Go, certificates and busybox. The
// real build image is in a registry, which may be unreachable.
func (d *dockerEngine) makeBuilder() {
	d.t.Helper()
	dockerfile, err := os.ReadFile("../Dockerfile")
	if err != nil {
		d.t.Fatal(err)
	}
	name := builderImage.FindSubmatch(dockerfile)
	if name == nil {
		d.t.Fatal("the Dockerfile has no build image")
	}
	root := filepath.Join(d.dir, "root")
	mustRun(d.t, exec.Command("sh", "-euc", `
		mkdir -p "$1/bin" "$1/tmp" "$1/usr/local" "$1/etc/ssl/certs"
		cp "$(command -v busybox)" "$1/bin/busybox"
		chroot "$1" /bin/busybox --install /bin
		cp -a "$2" "$1/usr/local/go"
		cp -L /etc/ssl/certs/ca-certificates.crt "$1/etc/ssl/certs/"
		tar -C "$1" -cf "$1.tar" .`, "sh", root, goEnv(d.t, "GOROOT")))
	imports := []string{"import"}
	for _, variable := range []string{"PATH=/usr/local/go/bin:/bin", "GOPROXY=" + goEnv(d.t, "GOPROXY"), "GOSUMDB=" + goEnv(d.t, "GOSUMDB")} {
		imports = append(imports, "--change", "ENV "+variable)
	}
	d.run(append(imports, root+".tar", string(name[1]))...)
}

func goEnv(t *testing.T, name string) string {
	t.Helper()
	return strings.TrimSpace(mustRun(t, exec.Command("go", "env", name)))
}

func TestDockerImage(t *testing.T) {
	d := startDocker(t)
	d.makeBuilder()
	d.run("build", "--network", "host", "--file", filepath.Join(repository(t), "deploy/Dockerfile"),
		"--build-arg", "VERSION=v1.2.3-test", "--build-arg", "REVISION=0123abc", "--tag", "glotpod-ident", repository(t))
	if got := d.run("inspect", "--format", `{{index .Config.Labels "org.opencontainers.image.version"}} {{index .Config.Labels "org.opencontainers.image.revision"}}`,
		"glotpod-ident"); got != "v1.2.3-test 0123abc" {
		t.Errorf("the labels of the image are %q", got)
	}
	files := d.run("image", "save", "--output", filepath.Join(d.dir, "image.tar"), "glotpod-ident") + mustRun(t, exec.Command("sh", "-euc",
		`cd "$1" && mkdir image && tar -xf image.tar -C image && find image -name layer.tar -exec tar -tf {} ';' | grep -v '/$' | sort`, "sh", d.dir))
	if want := []string{"etc/ssl/certs/ca-certificates.crt", "glotpod-ident"}; !slices.Equal(strings.Fields(files), want) {
		t.Errorf("the files of the image are\n%s", files)
	}

	servers := testServers(t)
	ports, err := freePorts(1)
	if err != nil {
		t.Fatal(err)
	}
	container := func(args ...string) []string {
		all := []string{"run", "--network", "host", "--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"}
		for name, value := range map[string]string{
			"CLUSTER__INSTANCE": "ident-docker", "HTTP__LISTEN": "127.0.0.1:" + ports[0],
			"AMQP__HOST": servers.RabbitMQ.Host, "AMQP__PORT": strconv.Itoa(servers.RabbitMQ.Port),
			"AMQP__LOGIN": servers.RabbitMQ.User, "AMQP__PASSWORD": servers.RabbitMQ.Password,
			"DATABASE__ENCRYPTION_KEY": strings.TrimPrefix(key, "settings.database.encryption_key="),
			"DATABASE__POSTGRES__HOST": servers.Postgres.Host, "DATABASE__POSTGRES__PORT": strconv.Itoa(servers.Postgres.Port),
			"DATABASE__POSTGRES__DATABASE": "postgres", "DATABASE__POSTGRES__SSLMODE": "disable",
			"DATABASE__POSTGRES__USER": servers.Postgres.User, "DATABASE__POSTGRES__PASSWORD": servers.Postgres.Password,
		} {
			all = append(all, "--env", "GLOTPOD_IDENT__"+name+"="+value)
		}
		return append(all, args...)
	}
	if out := d.run(container("--rm", "glotpod-ident", "migrate")...); !strings.Contains(out, "up to date") {
		t.Errorf("migrate says %q", out)
	}
	id := d.run(container("--detach", "glotpod-ident")...)
	if err := await(func() error { return checkURL("http://127.0.0.1:" + ports[0] + "/readyz") }); err != nil {
		t.Fatalf("%v\n%s", err, d.run("logs", id))
	}
	status, err := os.ReadFile("/proc/" + d.run("inspect", "--format", "{{.State.Pid}}", id) + "/status")
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{"\nUid:\t65532\t65532\t65532\t65532\n", "\nGid:\t65532\t65532\t65532\t65532\n", "\nCapEff:\t0000000000000000\n"} {
		if !strings.Contains(string(status), line) {
			t.Errorf("/proc/<pid>/status does not contain %q", line)
		}
	}
	if out := d.run("exec", id, "/glotpod-ident", "status"); !strings.Contains(out, "ident-docker") {
		t.Errorf("the status does not list the instance:\n%s", out)
	}
	d.run("stop", "--time", "60", id)
	if code := d.run("inspect", "--format", "{{.State.ExitCode}}", id); code != "0" {
		t.Errorf("the instance ended with %s: %s", code, d.run("logs", id))
	}
}
