package operate

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/glotpod/ident/cmd/systemtest/harness"
)

// metricName finds the names of this program's metrics in an expression.
var metricName = regexp.MustCompile(`\b(glotpod_ident|process|go)_[a-z0-9_]+\b`)

// observabilityFiles are those that name metrics.
var observabilityFiles = []string{
	"../../../deploy/chart/files/alerts.yaml",
	"../../../deploy/prometheus/alerts_test.yaml",
	"../../../deploy/chart/files/dashboard.json",
}

func TestObservabilityFiles(t *testing.T) {
	t.Parallel()
	s := harness.NewSite(t)
	v := s.Serve(t)
	c := s.NewCaller(t)
	c.Call(t, "create", harness.NewUser()).IsResult(t, dict{"user_id": 1})
	c.Call(t, "get", dict{"user_id": 1})

	served := make(map[string]bool)
	harness.Eventually(t, "what is counted by the way is served", func() bool {
		for line := range strings.Lines(v.Fetch(t, "/metrics")) {
			if name := metricName.FindString(line); !strings.HasPrefix(line, "#") && name != "" {
				served[name] = true
			}
		}
		return served["glotpod_ident_notification_lag_seconds_bucket"] && served["glotpod_ident_commit_duration_seconds_bucket"]
	})
	for _, file := range observabilityFiles {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		names := metricName.FindAllString(string(text), -1)
		if len(names) == 0 {
			t.Errorf("%s names no metrics", file)
		}
		for _, name := range names {
			if !served[name] {
				t.Errorf("%s names %s, which is not served", file, name)
			}
		}
	}
}
