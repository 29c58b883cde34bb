package deploytest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
)

const release = "ident"

// TestRollout does what an operator does with an installation: install, scale, replace the
// image, roll back, change a setting, leave the scaling to Kubernetes, uninstall.
func TestRollout(t *testing.T) {
	c := kubernetes(t)
	const namespace = "life"
	c.namespace(t, namespace, restricted)
	site := &site{t: t, c: c, namespace: namespace}

	site.helm("install", "--set", "image.tag=v1")
	site.has("v1", 3)
	site.isSpread()
	site.mayLose(1)

	site.helm("upgrade", "--set", "replicas=5")
	site.has("v1", 5)
	site.helm("upgrade", "--set", "replicas=2")
	site.has("v1", 2)
	site.helm("upgrade", "--set", "replicas=3")
	site.has("v1", 3)

	w := site.watch()
	site.helm("upgrade", "--set", "image.tag=v2")
	site.has("v2", 3)
	w.sawOneByOne([]string{"2", "1", "0"})

	w = site.watch()
	mustRun(t, c.helm("rollback", release, "--namespace", namespace, "--wait", "--timeout", timeout.String()))
	site.has("v1", 3)
	w.sawOneByOne([]string{"2", "1", "0"})

	before := site.pods()
	site.helm("upgrade", "--set", "serviceAccount.annotations.note=x")
	site.has("v1", 3)
	for name, p := range site.pods() {
		if p.Metadata.UID != before[name].Metadata.UID {
			t.Errorf("%s was replaced, but nothing that it uses has changed", name)
		}
	}
	w = site.watch()
	site.helm("upgrade", "--set", "settings.log.level=debug")
	site.has("v1", 3)
	w.sawOneByOne([]string{"2", "1", "0"})

	site.helm("upgrade", "--set", "autoscaling.by=cpu", "--set", "autoscaling.minReplicas=2")
	site.has("v1", 3)
	mustRun(t, c.kubectl("scale", "statefulset/ident-glotpod-ident", "--replicas=4", "--namespace", namespace))
	site.has("v1", 4)
	site.helm("upgrade", "--set", "image.tag=v3")
	site.has("v3", 4)

	mustRun(t, c.helm("uninstall", release, "--namespace", namespace, "--wait", "--timeout", timeout.String()))
	if err := await(func() error {
		out, err := run(c.kubectl("get", "all,secrets,serviceaccounts,networkpolicies,poddisruptionbudgets,horizontalpodautoscalers",
			"--namespace", namespace, "--selector=app.kubernetes.io/instance="+release, "--output=name"))
		if err == nil && out != "" {
			err = fmt.Errorf("objects are left: %s", out)
		}
		return err
	}, c.processes...); err != nil {
		t.Error(err)
	}
}

// A site is an installation of the chart.
type site struct {
	t         *testing.T
	c         *cluster
	namespace string
}

// A livePod is a pod in the cluster.
type livePod struct {
	Metadata struct {
		Name, UID         string
		DeletionTimestamp string
	}
	Spec struct {
		NodeName   string
		Containers []struct{ Image string }
	}
	Status struct {
		Conditions []struct{ Type, Status string }
	}
}

func (p livePod) ready() bool {
	for _, c := range p.Status.Conditions {
		if c.Type == "Ready" && c.Status == "True" {
			return p.Metadata.DeletionTimestamp == ""
		}
	}
	return false
}

func (s *site) helm(command string, set ...string) {
	s.t.Helper()
	args := []string{command, release, chart, "--namespace", s.namespace, "--wait", "--timeout", timeout.String(), "--set", key}
	if command == "upgrade" {
		args = append(args, "--reset-then-reuse-values")
	}
	mustRun(s.t, s.c.helm(append(args, set...)...))
}

func (s *site) pods() map[string]livePod {
	s.t.Helper()
	var list struct{ Items []livePod }
	out := mustRun(s.t, s.c.kubectl("get", "pods", "--namespace", s.namespace, "--output=json"))
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		s.t.Fatal(err)
	}
	pods := make(map[string]livePod)
	for _, p := range list.Items {
		pods[p.Metadata.Name] = p
	}
	return pods
}

// has waits until there are exactly n pods, with numbered names and that image tag, and all
// are ready for minReadySeconds.
func (s *site) has(tag string, n int) {
	s.t.Helper()
	want := make(map[string]bool)
	for i := range n {
		want[fmt.Sprintf("ident-glotpod-ident-%d", i)] = true
	}
	err := await(func() error {
		have := make(map[string]bool)
		for name, p := range s.pods() {
			have[name] = p.ready() && p.Spec.Containers[0].Image == "glotpod-ident:"+tag
		}
		if !maps.Equal(have, want) {
			return fmt.Errorf("the pods with %s are %v, want %v", tag, have, want)
		}
		out, err := run(s.c.kubectl("get", "statefulset/ident-glotpod-ident", "--namespace", s.namespace,
			"--output=jsonpath={.status.availableReplicas} at {.status.currentRevision} and {.status.updateRevision}"))
		var available int
		var current, update string
		if _, scanErr := fmt.Sscanf(out, "%d at %s and %s", &available, &current, &update); err == nil &&
			(scanErr != nil || available != n || current != update) {
			err = fmt.Errorf("not all pods are available: %s", out)
		}
		return err
	}, s.c.processes...)
	if err != nil {
		s.t.Fatal(err)
	}
}

// isSpread checks that no two pods are in the same zone. There must be enough zones.
func (s *site) isSpread() {
	s.t.Helper()
	nodes := make(map[string]string)
	for name, p := range s.pods() {
		if other, taken := nodes[p.Spec.NodeName]; taken {
			s.t.Errorf("%s and %s are both on %s", name, other, p.Spec.NodeName)
		}
		nodes[p.Spec.NodeName] = name
	}
}

// mayLose waits until the disruption budget allows n of the pods to be evicted.
func (s *site) mayLose(n int) {
	s.t.Helper()
	want := fmt.Sprintf("%d of %d", n, len(s.pods()))
	err := await(func() error {
		out, err := run(s.c.kubectl("get", "pdb/ident-glotpod-ident", "--namespace", s.namespace,
			"--output=jsonpath={.status.disruptionsAllowed} of {.status.currentHealthy}"))
		if err == nil && out != want {
			err = fmt.Errorf("the budget allows %s disruptions, want %s", out, want)
		}
		return err
	}, s.c.processes...)
	if err != nil {
		s.t.Error(err)
	}
}

// A watch records all events of the pods of a site.
type watch struct {
	t       *testing.T
	stop    func()
	watched sync.WaitGroup

	// The result, valid after stop.
	err     error
	deleted []string // the numbers of the deleted pods, in order
	fewest  int      // the lowest number of ready pods
}

// watch starts a watch. All pods of the site must be ready.
func (s *site) watch() *watch {
	s.t.Helper()
	cmd := s.c.kubectl("get", "pods", "--namespace", s.namespace, "--watch", "--output-watch-events", "--output=json")
	out, err := cmd.StdoutPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	w := &watch{t: s.t, fewest: len(s.pods())}
	var once sync.Once
	w.stop = func() {
		once.Do(func() {
			_ = cmd.Process.Kill()
			w.watched.Wait()
			_ = cmd.Wait() // it was killed
		})
	}
	s.t.Cleanup(w.stop)
	all := len(s.pods())
	known := make(chan struct{}) // closed when the watch has seen all pods
	w.watched.Go(func() {
		w.err = w.follow(json.NewDecoder(out), all, known)
	})
	<-known
	return w
}

func (w *watch) follow(events *json.Decoder, all int, known chan struct{}) error {
	ready := make(map[string]bool)
	complete := false
	defer func() {
		if !complete {
			close(known)
		}
	}()
	for {
		var event struct {
			Type   string
			Object livePod
		}
		if err := events.Decode(&event); errors.Is(err, io.EOF) || err != nil && complete {
			return nil // it was stopped
		} else if err != nil {
			return err
		}
		name := event.Object.Metadata.Name
		ready[name] = event.Type != "DELETED" && event.Object.ready()
		if event.Type == "DELETED" {
			w.deleted = append(w.deleted, name[strings.LastIndexByte(name, '-')+1:])
		}
		n := 0
		for _, is := range ready {
			if is {
				n++
			}
		}
		if !complete && n == all {
			complete = true
			close(known)
		}
		if complete {
			w.fewest = min(w.fewest, n)
		}
	}
}

// sawOneByOne stops the watch. It checks that exactly these pods were deleted, in this
// order, and that at most one pod was missing at any time.
func (w *watch) sawOneByOne(numbers []string) {
	w.t.Helper()
	w.stop()
	if w.err != nil {
		w.t.Fatal(w.err)
	}
	if !slices.Equal(w.deleted, numbers) {
		w.t.Errorf("the pods were deleted in the order %v, want %v", w.deleted, numbers)
	}
	if want := len(numbers) - 1; w.fewest != want {
		w.t.Errorf("of %d pods, at least %d were ready, want %d", len(numbers), w.fewest, want)
	}
}
