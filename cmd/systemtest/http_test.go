package systemtest

import (
	"bufio"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

func TestMetricsCountRequestsByOperationWayAndOutcomeAndHoldNoData(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	v := s.serve(t)
	c := s.newCaller(t)
	c.call(t, "create", newUser()).is(t, dict{"user_id": 1})
	c.call(t, "get", dict{"user_id": 1})
	c.call(t, "get", dict{"user_id": 77}).refused(t, "not_found")

	var metrics string
	eventually(t, "the requests are counted", func() bool {
		metrics = v.fetch(t, "/metrics")
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
	for _, secret := range marked {
		if text := metrics + v.fetch(t, "/status.json"); strings.Contains(strings.ToLower(text), secret) {
			t.Errorf("%q is shown", secret)
		}
	}
}

func TestAnyInstanceShowsTheWholeClusterOverHTTP(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	for _, v := range []*service{s.serve(t), s.serve(t)} {
		eventually(t, "both are shown, and own all partitions", func() bool {
			var status struct {
				Members  []struct{ Name, State string }
				Unowned  []int
				Problems []string
			}
			if err := json.Unmarshal([]byte(v.fetch(t, "/status.json")), &status); err != nil {
				t.Fatal(err)
			}
			return len(status.Members) == 2 && len(status.Unowned) == 0 && len(status.Problems) == 0
		})
	}
}

func TestEventsGoOnForLongerThanAnyOtherRequestAndTheirConnectionEndsSoonAfterThem(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	broker := newLink(t, s.settings["amqp.port"])
	v := s.serve(t, settings{"amqp.port": broker.port()})
	usual := broker.open.Load()
	response, err := http.Get(v.url + "/events")
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
	if n := broker.open.Load(); n != usual+1 {
		t.Errorf("%d connections to the broker, and %d while nobody looks", n, usual)
	}
	response.Body.Close()
	eventually(t, "the connection to look by is closed", func() bool { return broker.open.Load() == usual })
	v.oneConnection(t)
}

func TestManyConnectionsShutNoProbeOut(t *testing.T) {
	t.Parallel()
	v := newSite(t).serve(t)
	if response, err := http.Head(v.url + "/events"); err != nil || response.StatusCode != http.StatusOK {
		t.Errorf("the head of the events: %v, %v", response, err)
	}
	var replies []*bufio.Reader
	for _, begin := range []string{"GET /events HTTP/1.1\r\nHost: x\r\n\r\n", "GET /ev", ""} {
		for range 300 {
			conn, err := net.Dial("tcp", strings.TrimPrefix(v.url, "http://"))
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
			if status := v.probe(path); status != http.StatusOK {
				t.Errorf("%s beside many who say %q: %d", path, begin, status)
			}
		}
		if !strings.Contains(v.fetch(t, "/metrics"), "\nglotpod_ident_ready 1\n") {
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
	v.oneConnection(t)
}

func TestProfilesAreServedOnlyWhenAskedFor(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	if status := s.serve(t).probe("/debug/pprof/"); status != http.StatusNotFound {
		t.Errorf("unasked, they are: %d", status)
	}
	if status := s.serve(t, settings{"http.pprof": "true"}).probe("/debug/pprof/heap"); status != http.StatusOK {
		t.Errorf("asked for, they are not: %d", status)
	}
}
