package deploytest

import (
	"testing"
	"time"

	"github.com/compose-spec/compose-go/v2/cli"
)

// TestCompose loads the file with the loader of Docker Compose.
func TestCompose(t *testing.T) {
	options, err := cli.NewProjectOptions([]string{"../compose.yaml"}, cli.WithInterpolation(true))
	if err != nil {
		t.Fatal(err)
	}
	project, err := options.LoadProject(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ports := make(map[string]string)
	for _, name := range []string{"ident-1", "ident-2", "ident-3"} {
		s, ok := project.Services[name]
		if !ok {
			t.Fatalf("there is no service %s", name)
		}
		if s.Hostname != name {
			t.Errorf("%s has the host name %q", name, s.Hostname)
		}
		if s.StopGracePeriod == nil || time.Duration(*s.StopGracePeriod) <= 25*time.Second {
			t.Errorf("%s is killed after %v, which is too early for its drain", name, s.StopGracePeriod)
		}
		if s.Environment["GLOTPOD_IDENT__AMQP__HOST"] == nil {
			t.Errorf("%s has no settings", name)
		}
		if s.DependsOn["migrate"].Condition != "service_completed_successfully" || s.DependsOn["rabbitmq"].Condition != "service_healthy" {
			t.Errorf("%s waits for %v", name, s.DependsOn)
		}
		if !s.ReadOnly || len(s.CapDrop) == 0 {
			t.Errorf("%s has unnecessary privileges", name)
		}
		for _, p := range s.Ports {
			ports[p.Published] = name
			if p.HostIP != "127.0.0.1" {
				t.Errorf("%s can be reached from other machines: %+v", name, p)
			}
		}
	}
	for name, s := range project.Services {
		if s.HealthCheck != nil && s.HealthCheck.StartInterval != nil {
			t.Errorf("%s cannot be started by an engine before 25.0, as some distributions have it", name)
		}
	}
	if len(ports) != 3 {
		t.Errorf("the three have the ports %v", ports)
	}
}
