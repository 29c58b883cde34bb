package deploytest

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// A cluster is a Kubernetes cluster: etcd, an API server with its default admission
// plugins, the controllers, the scheduler, and nodes that kwok simulates.
type cluster struct {
	dir       string
	server    string // the API server's URL
	processes []*process
	tools     map[string]string
}

var shared struct {
	once    sync.Once
	cluster *cluster
	err     error
}

// kubernetes returns a cluster that all tests share.
func kubernetes(t *testing.T) *cluster {
	t.Helper()
	shared.once.Do(func() {
		tools := make(map[string]string)
		for _, name := range []string{"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kwok", "kubectl", "helm"} {
			tools[name] = tool(t, name)
		}
		for range 3 { // another program may have taken a port meanwhile
			if shared.cluster, shared.err = startCluster(tools); shared.err == nil {
				return
			}
		}
	})
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	if shared.cluster == nil {
		t.Fatal("there is no cluster")
	}
	c := shared.cluster
	t.Cleanup(func() {
		if t.Failed() {
			for _, p := range c.processes {
				t.Log(p.tail())
			}
		}
	})
	return c
}

func startCluster(tools map[string]string) (_ *cluster, err error) {
	dir, err := os.MkdirTemp("", "glotpod-ident-deploytest-")
	if err != nil {
		return nil, err
	}
	c := &cluster{dir: dir, tools: tools}
	defer func() {
		if err != nil {
			c.stop()
		}
	}()
	ports, err := freePorts(3)
	if err != nil {
		return nil, err
	}
	etcd, peers := "http://127.0.0.1:"+ports[0], "http://127.0.0.1:"+ports[1]
	c.server = "https://127.0.0.1:" + ports[2]
	token := rand.Text()
	if err := c.writeFiles(token); err != nil {
		return nil, err
	}

	err = c.start("etcd", "--data-dir="+filepath.Join(dir, "etcd"), "--unsafe-no-fsync",
		"--listen-client-urls="+etcd, "--advertise-client-urls="+etcd,
		"--listen-peer-urls="+peers, "--initial-advertise-peer-urls="+peers, "--initial-cluster=default="+peers)
	if err != nil {
		return nil, err
	}
	if err := await(func() error { return c.get(etcd+"/health", "") }, c.processes...); err != nil {
		return nil, err
	}
	err = c.start("kube-apiserver", "--etcd-servers="+etcd, "--bind-address=127.0.0.1", "--secure-port="+ports[2],
		"--cert-dir="+dir, "--token-auth-file="+filepath.Join(dir, "tokens"), "--authorization-mode=RBAC",
		"--service-account-issuer=https://kubernetes.default.svc", "--service-cluster-ip-range=10.0.0.0/24",
		"--service-account-key-file="+filepath.Join(dir, "accounts.pem"),
		"--service-account-signing-key-file="+filepath.Join(dir, "accounts.pem"),
		"--endpoint-reconciler-type=none")
	if err != nil {
		return nil, err
	}
	if err := await(func() error { return c.get(c.server+"/readyz", token) }, c.processes...); err != nil {
		return nil, err
	}
	kubeconfig := "--kubeconfig=" + c.kubeconfig()
	// kwok's module contains its configuration.
	kwok, err := run(exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "sigs.k8s.io/kwok"))
	if err != nil {
		return nil, err
	}
	stages := strings.TrimSpace(kwok) + "/kustomize/stage/"
	for _, args := range [][]string{
		{"kube-controller-manager", kubeconfig, "--leader-elect=false", "--secure-port=0",
			"--service-account-private-key-file=" + filepath.Join(dir, "accounts.pem")},
		{"kube-scheduler", kubeconfig, "--leader-elect=false", "--secure-port=0"},
		{"kwok", kubeconfig, "--manage-all-nodes=true", "--node-lease-duration-seconds=40", "--node-ip=127.0.0.1",
			"--config=" + stages + "node/fast/node-initialize.yaml",
			"--config=" + stages + "pod/fast/pod-ready.yaml",
			"--config=" + stages + "pod/fast/pod-delete.yaml"},
	} {
		if err := c.start(args[0], args[1:]...); err != nil {
			return nil, err
		}
	}
	if err := c.apply(nodes()); err != nil {
		return nil, err
	}
	return c, await(func() error {
		out, err := run(c.kubectl("get", "nodes", "-o", `jsonpath={.items[*].status.conditions[?(@.type=="Ready")].status}`))
		if err == nil && out != "True True True" {
			err = fmt.Errorf("want three ready nodes, have %q", out)
		}
		return err
	}, c.processes...)
}

func (c *cluster) writeFiles(token string) error {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return err
	}
	accounts := pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})
	// The server creates its certificate by itself, so clients cannot verify it. It
	// listens on the loopback interface only.
	kubeconfig := fmt.Sprintf(`apiVersion: v1
kind: Config
current-context: test
contexts: [{name: test, context: {cluster: test, user: test}}]
clusters: [{name: test, cluster: {server: %q, insecure-skip-tls-verify: true}}]
users: [{name: test, user: {token: %q}}]
`, c.server, token)
	return errors.Join(
		os.WriteFile(filepath.Join(c.dir, "accounts.pem"), accounts, 0o600),
		os.WriteFile(filepath.Join(c.dir, "tokens"), []byte(token+`,test,test,"system:masters"`+"\n"), 0o600),
		os.WriteFile(c.kubeconfig(), []byte(kubeconfig), 0o600),
	)
}

func (c *cluster) kubeconfig() string { return filepath.Join(c.dir, "kubeconfig") }

// environ makes the tools ignore the configuration in the user's home.
func (c *cluster) environ() []string {
	return []string{"HOME=" + c.dir, "KUBECONFIG=" + c.kubeconfig(), "KUBERC=off", "HELM_CACHE_HOME=" + c.dir,
		"HELM_CONFIG_HOME=" + c.dir, "HELM_DATA_HOME=" + c.dir, "XDG_CONFIG_HOME=" + c.dir}
}

func (c *cluster) start(name string, args ...string) error {
	p, err := start(c.dir, name, c.tools[name], c.environ(), args...)
	if err == nil {
		c.processes = append(c.processes, p)
	}
	return err
}

func (c *cluster) stop() {
	for i := len(c.processes) - 1; i >= 0; i-- {
		c.processes[i].stop(false)
	}
	os.RemoveAll(c.dir)
}

func (c *cluster) get(url, token string) error {
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true}}
	request, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	request.Header.Set("Authorization", "Bearer "+token)
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	body, _ := io.ReadAll(response.Body)
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s\n%s", url, response.Status, body)
	}
	return nil
}

func (c *cluster) kubectl(args ...string) *exec.Cmd { return c.command("kubectl", args...) }

func (c *cluster) helm(args ...string) *exec.Cmd { return c.command("helm", args...) }

func (c *cluster) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(c.tools[name], args...)
	cmd.Env = append(os.Environ(), c.environ()...)
	return cmd
}

func (c *cluster) apply(manifest string, args ...string) error {
	cmd := c.kubectl(append([]string{"apply", "-f", "-"}, args...)...)
	cmd.Stdin = strings.NewReader(manifest)
	_, err := run(cmd)
	return err
}

// nodes returns three nodes in three zones, which kwok simulates.
func nodes() string {
	var b strings.Builder
	for _, zone := range []string{"a", "b", "c"} {
		fmt.Fprintf(&b, `---
apiVersion: v1
kind: Node
metadata:
  name: node-%[1]s
  annotations: {kwok.x-k8s.io/node: fake}
  labels: {kubernetes.io/hostname: node-%[1]s, topology.kubernetes.io/zone: %[1]s}
status:
  allocatable: {cpu: 32, memory: 256Gi, pods: 110}
  capacity: {cpu: 32, memory: 256Gi, pods: 110}
`, zone)
	}
	return b.String()
}

// restricted are the labels of a namespace that enforces the level "restricted" of
// Kubernetes' Pod Security Standards.
const restricted = "pod-security.kubernetes.io/enforce: restricted, pod-security.kubernetes.io/warn: restricted"

// namespace creates a namespace.
func (c *cluster) namespace(t *testing.T, name string, labels ...string) {
	t.Helper()
	err := c.apply(fmt.Sprintf(`{apiVersion: v1, kind: Namespace, metadata: {name: %s, labels: {%s}}}`, name, strings.Join(labels, ", ")))
	if err != nil {
		t.Fatal(err)
	}
}
