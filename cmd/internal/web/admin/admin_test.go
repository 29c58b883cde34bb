package admin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/glotpod/ident/cluster/membership"
	"github.com/glotpod/ident/cluster/wait"
	"github.com/glotpod/ident/cmd/internal/cli"
	"github.com/glotpod/ident/cmd/internal/operate"
)

const token = "correct-horse-battery"

// A fakeOperator notes what it was asked for.
type fakeOperator struct {
	asked []string
	print string // before the end
	err   error
	ctx   context.Context
	takes time.Duration // after print
}

func (o *fakeOperator) note(ctx context.Context, out io.Writer, format string, args ...any) error {
	o.asked, o.ctx = append(o.asked, fmt.Sprintf(format, args...)), ctx
	io.WriteString(out, o.print)
	if err := wait.For(ctx, o.takes); err != nil {
		return err
	}
	return o.err
}

func (o *fakeOperator) Drain(ctx context.Context, names []string, all bool, out io.Writer) error {
	return o.note(ctx, out, "drain %v %v", names, all)
}

func (o *fakeOperator) Undrain(ctx context.Context, names []string, out io.Writer) error {
	return o.note(ctx, out, "undrain %v", names)
}

func (o *fakeOperator) Repartition(ctx context.Context, r operate.RepartitionRequest, out io.Writer) error {
	return o.note(ctx, out, "repartition %+v", r)
}

// A site is a handler with what it uses.
type site struct {
	*Handler
	operator fakeOperator
	logged   *observer.ObservedLogs
	token    string
	kept     int // connections
	done     chan struct{}
}

func newSite() *site {
	core, logged := observer.New(zap.WarnLevel)
	s := &site{logged: logged, token: token, done: make(chan struct{})}
	s.Handler = New(Options{
		Token: func() (string, error) {
			if s.token == "" {
				return "", errors.New("no such file")
			}
			return s.token, nil
		},
		Keep: func(*http.Request) { s.kept++ }, Operator: &s.operator, Metrics: prometheus.NewRegistry(), Done: s.done, Log: zap.New(core),
	})
	return s
}

// post sends a request with a token.
func (s *site) post(path, body, token string, changes ...func(*http.Request)) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodPost, path, strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Authorization", "Bearer "+token)
	for _, change := range changes {
		change(r)
	}
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	return w
}

// count returns how many requests were counted.
func (s *site) count(t *testing.T, action, outcome string) float64 {
	t.Helper()
	var m dto.Metric
	if err := s.requests.WithLabelValues(action, outcome).Write(&m); err != nil {
		t.Fatal(err)
	}
	return m.Counter.GetValue()
}

func TestActions(t *testing.T) {
	s := newSite()
	s.operator.print = "half\nall but "
	for _, test := range []struct{ path, body, asked string }{
		{"/admin/drain", `{"instances": ["a", "b"]}`, "drain [a b] false"},
		{"/admin/drain", `{"instances": ["a"], "all": true}`, "drain [a] true"},
		{"/admin/undrain", `{"instances": ["a"]}`, "undrain [a]"},
		{"/admin/repartition", `{"partitions": 6, "queue_type": "classic", "dry_run": true, "abort": true}`,
			"repartition {Partitions:6 QueueType:classic DryRun:true Abort:true}"},
	} {
		w := s.post(test.path, test.body, token)
		if got := s.operator.asked[len(s.operator.asked)-1]; w.Code != http.StatusOK || got != test.asked || w.Body.String() != `{"progress":"half"}`+"\n"+`{"done":true}`+"\n" {
			t.Errorf("%s %s: %d %s, asked for %q", test.path, test.body, w.Code, w.Body, got)
		}
		if s.operator.ctx.Err() == nil {
			t.Error("the context of the action outlives it")
		}
	}
	if w := s.post("/admin/check", "{}", token); w.Code != http.StatusOK || len(s.operator.asked) != 4 {
		t.Errorf("check: %d %s %v", w.Code, w.Body, s.operator.asked)
	}
	logged := s.logged.All()
	if len(logged) != 8 || logged[0].ContextMap()["remote"] != "192.0.2.1:1234" || logged[0].ContextMap()["action"] != "drain" {
		t.Errorf("%+v", logged)
	}
	if n := s.count(t, "drain", outcomeDone); n != 2 {
		t.Errorf("%v drains were counted", n)
	}
	if s.kept != 5 {
		t.Errorf("%d connections are kept", s.kept)
	}
}

// TestRefused: nothing is done for a request that is not as it must be.
func TestRefused(t *testing.T) {
	s := newSite()
	const path, body = "/admin/drain", `{"instances": ["a"]}`
	for name, test := range map[string]struct {
		status int
		send   func() *httptest.ResponseRecorder
	}{
		"wrong token": {401, func() *httptest.ResponseRecorder { return s.post(path, body, token+"x") }},
		"empty token": {401, func() *httptest.ResponseRecorder { return s.post(path, body, "") }},
		"no bearer": {401, func() *httptest.ResponseRecorder {
			return s.post(path, body, "", func(r *http.Request) { r.Header.Set("Authorization", token) })
		}},
		"no header": {401, func() *httptest.ResponseRecorder {
			return s.post(path, body, "", func(r *http.Request) { r.Header.Del("Authorization"); r.URL.RawQuery = "token=" + token })
		}},
		"GET": {405, func() *httptest.ResponseRecorder {
			return s.post(path, body, token, func(r *http.Request) { r.Method = http.MethodGet })
		}},
		"a form": {415, func() *httptest.ResponseRecorder {
			return s.post(path, body, token, func(r *http.Request) { r.Header.Set("Content-Type", "text/plain") })
		}},
		"unknown action": {404, func() *httptest.ResponseRecorder { return s.post("/admin/stop", body, token) }},
		"no JSON":        {400, func() *httptest.ResponseRecorder { return s.post(path, "{", token) }},
		"unknown key":    {400, func() *httptest.ResponseRecorder { return s.post(path, `{"instance": "a"}`, token) }},
		"of another page": {403, func() *httptest.ResponseRecorder {
			return s.post(path, body, token, func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "cross-site") })
		}},
		"not the end": {400, func() *httptest.ResponseRecorder { return s.post(path, body+" ]", token) }},
		"two objects": {400, func() *httptest.ResponseRecorder { return s.post(path, body+body, token) }},
		"too large": {400, func() *httptest.ResponseRecorder {
			return s.post(path, `{"instances": ["`+strings.Repeat("a", maxRequestBytes)+`"]}`, token)
		}},
	} {
		w := test.send()
		if w.Code != test.status || len(s.operator.asked)+s.kept > 0 {
			t.Errorf("%s: %d %s, asked for %v", name, w.Code, w.Body, s.operator.asked)
		}
		if challenged := w.Header().Get("WWW-Authenticate") != ""; challenged != (w.Code == http.StatusUnauthorized) {
			t.Errorf("%s: %v", name, w.Header())
		}
	}
	for _, entry := range s.logged.All() {
		if text := fmt.Sprint(entry.Message, entry.ContextMap()); strings.Contains(text, token) {
			t.Errorf("the log has the token: %s", text)
		}
	}
	if n := s.count(t, "drain", outcomeRefused); n != 4 {
		t.Errorf("%v wrong tokens were counted", n)
	}
	s.token = ""
	if w := s.post(path, body, ""); w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" || len(s.operator.asked) > 0 {
		t.Errorf("without a token in the file: %d %s", w.Code, w.Body)
	}
}

func TestFailures(t *testing.T) {
	s := newSite()
	s.operator.err = errors.New("refused")
	if w := s.post("/admin/undrain", "{}", token); w.Code != http.StatusConflict || w.Body.String() != `{"error":"refused","exit_status":1}`+"\n" {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	s.operator.err = fmt.Errorf("%w: x", membership.ErrNoInstance)
	if w := s.post("/admin/undrain", "{}", token); w.Code != http.StatusNotFound {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	s.operator.err = cli.WithStatus(cli.StatusNoReply, errors.New("late"))
	if w := s.post("/admin/undrain", "{}", token); w.Code != http.StatusGatewayTimeout {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	s.operator.print = "begun\n"
	if w := s.post("/admin/undrain", "{}", token); w.Code != http.StatusOK || !strings.HasSuffix(w.Body.String(), `{"error":"late","exit_status":3}`+"\n") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

// TestSlots: beside as many actions as may run, a token can be checked and a repartition be aborted.
func TestSlots(t *testing.T) {
	s := newSite()
	for range maxActions {
		s.actions <- struct{}{}
	}
	for _, test := range []struct {
		path, body string
		status     int
	}{
		{"/admin/undrain", "{}", 503}, {"/admin/repartition", `{"partitions": 6}`, 503},
		{"/admin/repartition", `{"abort": true}`, 200}, {"/admin/check", "{}", 200},
	} {
		if w := s.post(test.path, test.body, token); w.Code != test.status {
			t.Errorf("%s %s: %d %s", test.path, test.body, w.Code, w.Body)
		}
	}
}

// TestStopping: an action ends when the instance stops, and the reply says so.
func TestStopping(t *testing.T) {
	s := newSite()
	s.operator.takes = time.Hour
	close(s.done)
	if w := s.post("/admin/undrain", "{}", token); w.Code != http.StatusServiceUnavailable || !strings.Contains(w.Body.String(), "stopping") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

// TestSlowAction: an action may take longer than the server's timeouts, and its progress is
// sent at once.
func TestSlowAction(t *testing.T) {
	const timeout = 500 * time.Millisecond
	s := newSite()
	s.operator.print, s.operator.takes = "half\n", 2*timeout
	server := httptest.NewUnstartedServer(s)
	server.Config.ReadTimeout, server.Config.WriteTimeout = timeout, timeout
	server.Start()
	defer server.Close()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, server.URL+"/admin/undrain", strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Authorization", "Bearer "+token)
	response, err := server.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	first := make([]byte, len(`{"progress":"half"}`))
	if _, err := io.ReadFull(response.Body, first); err != nil || string(first) != `{"progress":"half"}` || s.count(t, "undrain", outcomeDone) != 0 {
		t.Errorf("at first: %s %v", first, err)
	}
	rest, err := io.ReadAll(response.Body)
	if err != nil || strings.TrimSpace(string(rest)) != `{"done":true}` {
		t.Errorf("then: %s %v", rest, err)
	}
}

// TestWrongTokens: requests with wrong tokens, or with none, do not keep out a client with the
// right one.
func TestWrongTokens(t *testing.T) {
	s := newSite()
	for n := range 1100 {
		from := func(r *http.Request) { r.RemoteAddr = fmt.Sprintf("10.0.%d.%d:1", n/256, n%256) }
		s.post("/admin/check", "{}", "guess", from)
		s.post("/admin/check", "{}", "guess")
		s.post("/admin/check", "{}", "", func(r *http.Request) { r.Header.Del("Authorization") })
	}
	for _, remote := range []string{"192.0.2.1:1234", "10.0.0.1:1", "10.9.9.9:1"} {
		if w := s.post("/admin/check", "{}", token, func(r *http.Request) { r.RemoteAddr = remote }); w.Code != http.StatusOK {
			t.Errorf("%s: %d %s", remote, w.Code, w.Body)
		}
	}
}
