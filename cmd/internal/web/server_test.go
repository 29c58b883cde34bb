package web

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/glotpod/ident/cluster/broker"
	"github.com/glotpod/ident/cmd/internal/clusterview"
)

// A fakeInstance has fixed states.
type fakeInstance struct {
	ready, started error
	problems       []string
}

func (i fakeInstance) Ready() error   { return i.ready }
func (i fakeInstance) Started() error { return i.started }

func (i fakeInstance) Problems() []string { return i.problems }

// get sends a request to a server that does not listen.
func get(s *Server, path string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	s.routes(prometheus.NewRegistry(), false).ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
	return w
}

func TestProbes(t *testing.T) {
	draining := errors.New("draining")
	for name, test := range map[string]struct {
		instance               Instance // nil: not set
		livez, readyz, startup string   // "": the probe succeeds
	}{
		"starting":       {nil, "", "starting", "starting"},
		"serving":        {fakeInstance{}, "", "", ""},
		"draining":       {fakeInstance{ready: draining}, "", "draining", ""},
		"not yet served": {fakeInstance{ready: draining, started: draining}, "", "draining", "draining"},
	} {
		t.Run(name, func(t *testing.T) {
			s := &Server{log: zap.NewNop()}
			if test.instance != nil {
				s.SetInstance(test.instance)
			}
			for path, reason := range map[string]string{"/livez": test.livez, "/readyz": test.readyz, "/startupz": test.startup} {
				status, body := http.StatusOK, "ok"
				if reason != "" {
					status, body = http.StatusServiceUnavailable, reason
				}
				if w := get(s, path); w.Code != status || strings.TrimSpace(w.Body.String()) != body {
					t.Errorf("%s: %d %q, want %d %q", path, w.Code, w.Body, status, body)
				}
			}
		})
	}
}

// TestProblems: what is wrong with all instances alike makes none of them unready.
func TestProblems(t *testing.T) {
	s := &Server{log: zap.NewNop()}
	s.SetInstance(fakeInstance{problems: []string{"commits wait"}})
	if w := get(s, "/readyz"); w.Code != http.StatusOK || w.Body.String() != "ok\ncommits wait\n" {
		t.Errorf("%d %q", w.Code, w.Body)
	}
}

func TestPage(t *testing.T) {
	s := &Server{log: zap.NewNop()}
	w := get(s, "/")
	policy, body := w.Result().Header.Get("Content-Security-Policy"), w.Body.String()
	t.Run("policy denies by default", func(t *testing.T) {
		if w.Code != http.StatusOK || !strings.Contains(policy, "default-src 'none'") || strings.Contains(policy, "unsafe") {
			t.Errorf("%d, with the policy %q", w.Code, policy)
		}
	})
	t.Run("policy allows the style and the script", func(t *testing.T) {
		for _, part := range []struct{ begin, end, directive string }{
			{"<style>", "</style>", "style-src "}, {"<script>", "</script>", "script-src "},
		} {
			_, rest, _ := strings.Cut(body, part.begin)
			text, rest, found := strings.Cut(rest, part.end)
			if !found || text == "" || strings.Contains(rest, part.begin) || !strings.Contains(policy, part.directive+policyHash(text)) {
				t.Errorf("the policy %q does not allow the content of %s", policy, part.begin)
			}
		}
	})
	t.Run("loads nothing and sets no markup", func(t *testing.T) {
		for _, unwanted := range []string{"{{", "src=", "@import", "innerHTML", "insertAdjacentHTML"} {
			if strings.Contains(body, unwanted) {
				t.Errorf("the page contains %q", unwanted)
			}
		}
	})
	t.Run("unknown path", func(t *testing.T) {
		if w := get(s, "/elsewhere"); w.Code != http.StatusNotFound {
			t.Errorf("status %d", w.Code)
		}
	})
}

// TestUserBusy: a client that asks too often about users is told when to ask again.
func TestUserBusy(t *testing.T) {
	s := &Server{log: zap.NewNop(), watcher: clusterview.NewWatcher("a", broker.Options{Addresses: []string{"127.0.0.1:1"}})}
	defer s.watcher.Close()
	var busy atomic.Int32
	var all sync.WaitGroup
	for range 40 {
		all.Go(func() {
			if w := get(s, "/users/7"); w.Code == http.StatusTooManyRequests && w.Header().Get("Retry-After") == "1" {
				busy.Add(1)
			}
		})
	}
	all.Wait()
	if busy.Load() == 0 {
		t.Error("all were asked")
	}
}
