package web

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
)

// A standIn is ready, and has been, as it says.
type standIn struct{ ready, started error }

func (s standIn) Ready() error   { return s.ready }
func (s standIn) Started() error { return s.started }

func TestProbesSayInWordsWhyNot(t *testing.T) {
	draining := errors.New("draining")
	for name, test := range map[string]struct {
		subject                Subject // nil: not there yet
		livez, readyz, startup string  // "": it is well
	}{
		"starting":       {nil, "", "starting", "starting"},
		"serving":        {standIn{}, "", "", ""},
		"draining":       {standIn{ready: draining}, "", "draining", ""},
		"not yet served": {standIn{draining, draining}, "", "draining", "draining"},
	} {
		h := &Server{log: zap.NewNop()}
		if test.subject != nil {
			h.Serve(test.subject)
		}
		routes := h.routes(prometheus.NewRegistry(), false)
		for path, reason := range map[string]string{"/livez": test.livez, "/readyz": test.readyz, "/startupz": test.startup} {
			status, says := http.StatusOK, "ok"
			if reason != "" {
				status, says = http.StatusServiceUnavailable, reason
			}
			w := httptest.NewRecorder()
			routes.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
			if w.Code != status || strings.TrimSpace(w.Body.String()) != says {
				t.Errorf("%s, %s: %d %q, want %d %q", name, path, w.Code, w.Body, status, says)
			}
		}
	}
}

func TestPageAllowsNothingButWhatItIs(t *testing.T) {
	w := httptest.NewRecorder()
	h := &Server{log: zap.NewNop()}
	routes := h.routes(prometheus.NewRegistry(), false)
	routes.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
	policy, body := w.Result().Header.Get("Content-Security-Policy"), w.Body.String()
	if w.Code != http.StatusOK || !strings.Contains(policy, "default-src 'none'") || strings.Contains(policy, "unsafe") {
		t.Errorf("%d, with the policy %q", w.Code, policy)
	}
	for _, part := range []struct{ begin, end, directive string }{
		{"<style>", "</style>", "style-src "}, {"<script>", "</script>", "script-src "},
	} {
		_, rest, _ := strings.Cut(body, part.begin)
		text, rest, found := strings.Cut(rest, part.end)
		if !found || text == "" || strings.Contains(rest, part.begin) || !strings.Contains(policy, part.directive+policyHash(text)) {
			t.Errorf("the policy %q does not fit what is in %s", policy, part.begin)
		}
	}
	for _, foreign := range []string{"{{", "src=", "@import", "innerHTML", "insertAdjacentHTML"} {
		if strings.Contains(body, foreign) {
			t.Errorf("the page has %q", foreign)
		}
	}
	w = httptest.NewRecorder()
	routes.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/elsewhere", nil))
	if w.Code != http.StatusNotFound {
		t.Errorf("what is not there is answered with %d", w.Code)
	}
}
