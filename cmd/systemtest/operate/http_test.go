package operate

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/glotpod/ident/cmd/systemtest/harness"
	"github.com/glotpod/ident/deploy/testservers"
)

func TestHTTP(t *testing.T) {
	t.Parallel()
	t.Run("metrics", testHTTPMetrics)
	t.Run("status", testHTTPStatus)
	t.Run("events", testHTTPEvents)
	t.Run("many_connections", testHTTPManyConnections)
	t.Run("profiles", testHTTPProfiles)
	t.Run("TLS", testHTTPTLS)
}

func testHTTPMetrics(t *testing.T) {
	t.Parallel()
	s := harness.NewSite(t)
	v := s.Serve(t)
	c := s.NewCaller(t)
	c.Call(t, "create", harness.NewUser()).IsResult(t, dict{"user_id": 1})
	c.Call(t, "get", dict{"user_id": 1})
	c.Call(t, "get", dict{"user_id": 77}).IsError(t, "not_found")

	var metrics string
	harness.Eventually(t, "the requests are counted", func() bool {
		metrics = v.Fetch(t, "/metrics")
		for _, line := range []string{
			`glotpod_ident_requests_total{operation="create",outcome="ok",way="shared"} 1`,
			`glotpod_ident_requests_total{operation="get",outcome="ok",way="shared"} 1`,
			`glotpod_ident_requests_total{operation="get",outcome="not_found",way="shared"} 1`,
			`glotpod_ident_request_duration_seconds_count{operation="get",way="shared"} 2`,
			`glotpod_ident_partitions_owned 4`,
			`glotpod_ident_requests_in_flight 0`,
		} {
			if !strings.Contains(metrics, "\n"+line+"\n") {
				return false
			}
		}
		return true
	})
	for _, secret := range harness.Secrets {
		if text := metrics + v.Fetch(t, "/status.json"); strings.Contains(strings.ToLower(text), secret) {
			t.Errorf("%q is shown", secret)
		}
	}
}

func testHTTPStatus(t *testing.T) {
	t.Parallel()
	s := harness.NewSite(t)
	for _, v := range []*harness.Instance{s.Serve(t), s.Serve(t)} {
		harness.Eventually(t, "both are shown, and own all partitions", func() bool {
			var status struct {
				Members  []struct{ Name, State string }
				Unowned  []int
				Problems []string
			}
			if err := json.Unmarshal([]byte(v.Fetch(t, "/status.json")), &status); err != nil {
				t.Fatal(err)
			}
			return len(status.Members) == 2 && len(status.Unowned) == 0 && len(status.Problems) == 0
		})
	}
}

func testHTTPEvents(t *testing.T) {
	t.Parallel()
	s := harness.NewSite(t)
	broker := harness.NewProxy(t, s.Settings["amqp.port"])
	v := s.Serve(t, harness.Settings{"amqp.port": broker.Port()})
	usual := broker.OpenConns.Load()
	response, err := http.Get(v.URL + "/events")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	events := bufio.NewScanner(response.Body)
	events.Buffer(nil, 1<<20)
	for begun := time.Now(); time.Since(begun) < 11*time.Second; {
		if !events.Scan() {
			t.Fatalf("the events have ended after %v: %v", time.Since(begun), events.Err())
		}
		if line := events.Text(); strings.HasPrefix(line, "event: ") && line != "event: view" {
			t.Errorf("an event is %q", line)
		}
	}
	if n := broker.OpenConns.Load(); n != usual+1 {
		t.Errorf("%d connections to the broker, and %d while nobody looks", n, usual)
	}
	response.Body.Close()
	harness.Eventually(t, "the connection to look by is closed", func() bool { return broker.OpenConns.Load() == usual })
	v.CheckOneConnection(t)
}

func testHTTPManyConnections(t *testing.T) {
	t.Parallel()
	v := harness.NewSite(t).Serve(t)
	if response, err := http.Head(v.URL + "/events"); err != nil || response.StatusCode != http.StatusOK {
		t.Errorf("the head of the events: %v, %v", response, err)
	}
	var replies []*bufio.Reader
	for _, begin := range []string{"GET /events HTTP/1.1\r\nHost: x\r\n\r\n", "GET /ev", ""} {
		for range 300 {
			conn, err := net.Dial("tcp", strings.TrimPrefix(v.URL, "http://"))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if _, err := io.WriteString(conn, begin); err != nil {
				t.Fatal(err)
			}
			replies = append(replies, bufio.NewReader(conn))
		}
		for _, path := range []string{"/livez", "/readyz"} {
			if status := v.Probe(path); status != http.StatusOK {
				t.Errorf("%s beside many who say %q: %d", path, begin, status)
			}
		}
		if !strings.Contains(v.Fetch(t, "/metrics"), "\nglotpod_ident_ready 1\n") {
			t.Errorf("no metrics beside many who say %q", begin)
		}
	}
	var refused int
	for _, reply := range replies[:300] {
		line, _ := reply.ReadString('\n')
		if strings.Contains(line, " 503 ") {
			refused++
		}
	}
	if refused < 100 {
		t.Errorf("%d of 300 who would listen to events were refused", refused)
	}
	v.CheckOneConnection(t)
}

func testHTTPProfiles(t *testing.T) {
	t.Parallel()
	s := harness.NewSite(t)
	if status := s.Serve(t).Probe("/debug/pprof/"); status != http.StatusNotFound {
		t.Errorf("unasked, they are: %d", status)
	}
	if status := s.Serve(t, harness.Settings{"http.pprof": "true"}).Probe("/debug/pprof/heap"); status != http.StatusOK {
		t.Errorf("asked for, they are not: %d", status)
	}
}

// testHTTPTLS: with a certificate, http.listen takes HTTPS alone.
func testHTTPTLS(t *testing.T) {
	t.Parallel()
	authority := testservers.NewAuthority(t)
	cert, key := authority.Issue(t, "page")
	v := harness.NewSite(t).Serve(t, harness.Settings{"http.ssl_cert": cert, "http.ssl_key": key})
	ca, err := os.ReadFile(authority.CAFile)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	client := http.Client{Timeout: harness.Timeout, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}}
	defer client.CloseIdleConnections()
	for _, path := range []string{"/", "/status.json", "/metrics", "/readyz"} {
		response, err := client.Get(v.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if response.StatusCode != http.StatusOK {
			t.Errorf("%s: %d", path, response.StatusCode)
		}
	}
	response, err := http.Get(strings.Replace(v.URL, "https:", "http:", 1) + "/livez")
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if response.StatusCode != http.StatusBadRequest {
		t.Errorf("without TLS: %d", response.StatusCode)
	}
}
