package operate

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/glotpod/ident/cmd/systemtest/harness"
)

// A stagedPage serves an instance's page with events of the test.
type stagedPage struct {
	url   string
	event atomic.Pointer[string] // that is sent again and again
}

func newStagedPage(t *testing.T) *stagedPage {
	t.Helper()
	v := harness.NewSite(t).Serve(t)
	st := new(stagedPage)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		response, err := http.Get(v.URL)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		defer response.Body.Close()
		for _, name := range []string{"Content-Type", "Content-Security-Policy"} {
			w.Header().Set(name, response.Header.Get(name))
		}
		io.Copy(w, response.Body)
	})
	mux.HandleFunc("GET /events", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for ticks := time.Tick(100 * time.Millisecond); ; {
			io.WriteString(w, *st.event.Load())
			http.NewResponseController(w).Flush()
			select {
			case <-ticks:
			case <-r.Context().Done():
				return
			}
		}
	})
	server := httptest.NewServer(mux)
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
	})
	st.url = server.URL
	return st
}

// send sends the page an event from now on.
func (st *stagedPage) send(t *testing.T, name string, document any) {
	t.Helper()
	data, err := json.Marshal(document)
	if err != nil {
		t.Fatal(err)
	}
	event := fmt.Sprintf("event: %s\ndata: %s\n\n", name, data)
	st.event.Store(&event)
}

// scene returns a view of so many partitions, which owner assigns to instances.
func scene(partitions int, owner func(int) string, names ...string) dict {
	now := time.Now().UTC()
	held, all, rates := make(map[string]list), list{}, list{}
	for p := range partitions {
		name := owner(p)
		view := dict{"partition": p, "owner": name, "epoch": 7, "phase": "owned", "requests_per_second": 1.5,
			"outdated_claims": list{}, "queue": dict{"name": "q", "messages_ready": 0}}
		all = append(all, view)
		held[name] = append(held[name], dict{"requests_per_second": 1.5})
	}
	members := list{}
	for _, name := range names {
		members = append(members, dict{"name": name, "state": "ready", "version": "v1.2.3-4-gabcdef0", "started_at": now.Add(-50 * time.Hour),
			"partitions": append(list{}, held[name]...), "shared_requests_per_second": 123.4, "warm_users": 98765})
	}
	for i := range 60 {
		rate := dict{"end": now.Unix() - int64(10*(60-i)), "per_second": 800 + 300*float64(i*i%17)/17, "p50_seconds": nil, "p99_seconds": nil}
		if i < 20 || i > 24 { // in between it stood still
			rate["p50_seconds"], rate["p99_seconds"] = 0.001+0.0002*float64(i%7), 0.004+0.001*float64(i*i%11)
		} else {
			rate["per_second"] = 0
		}
		rates = append(rates, rate)
	}
	return dict{"at": now, "seen_from": names[0], "members": members, "missing": list{}, "problems": list{}, "rates": rates, "changes": list{},
		"unowned": list{}, "contested": list{}, "shared_queue": dict{"name": "q", "messages_ready": 0}, "partitions": all}
}

func testPageProblemsAsText(t *testing.T) {
	t.Parallel()
	st := newStagedPage(t)
	names := []string{"ident-0", "ident-1", "ident-2", "ident-3", "ident-4", "an-instance-with-a-name-as-long-as-a-name-of-an-instance-can-be1"}
	markup := `<img src="/hostile" onerror="window.hostile = 1">`
	bad := scene(64, func(p int) string { return names[p%len(names)] }, names...)
	partition := func(p int) dict { return bad["partitions"].(list)[p].(dict) }
	partition(3)["phase"], partition(4)["phase"], partition(5)["phase"] = "starting", "handing over", "handing over"
	for p := 20; p < 24; p++ {
		partition(p)["owner"], partition(p)["phase"], partition(p)["epoch"] = "", "", 0
		partition(p)["queue"] = dict{"name": "q", "messages_ready": 1000 * p}
	}
	partition(40)["outdated_claims"] = list{dict{"member": markup, "epoch": 6}}
	bad["problems"] = list{"ident-9 does not reply, but other instances believe that it is alive.",
		"4 of 64 partitions have no owner among the instances that replied: 20-23. Requests for their users wait.", markup}
	bad["missing"] = list{"ident-9"}
	bad["changes"] = list{dict{"at": time.Now(), "what": "ident-9 does not reply"}, dict{"at": time.Now(), "what": markup}}
	bad["shared_queue"] = dict{"name": "q", "messages_ready": 17}
	bad["members"].(list)[2].(dict)["version"] = markup
	st.send(t, "view", bad)

	b := harness.OpenPage(t, st.url)
	b.ExpectText(t, "verdict", "3 problems:")
	for _, id := range []string{"problems", "changes", "members"} {
		b.ExpectText(t, id, markup)
	}
	b.ExpectTrue(t, "a letter for each of those who own", `["A", "B", "C", "D", "E", "F", "?"].every((letter) =>
		[...document.querySelectorAll("#letters text")].some((text) => text.textContent === letter))`)
	for _, text := range []string{"owned: 57", "starting: 1", "handing over: 2", "no owner (?): 4", "several owners: 1"} {
		b.ExpectText(t, "phase-legend", text)
	}
	b.ExpectTrue(t, "who does not answer is shown", rowSays("ident-9", "no reply"))
	b.ExpectText(t, "backlog", "23,000")
	b.ExpectText(t, "shared-queue", "17 requests wait in the shared queue")
	b.ExpectTrue(t, "the tab's title says so", `document.title === "(3!) glotpod.ident"`)

	// What a segment is can be read, also with the keyboard alone.
	b.Eval(t, `document.querySelector("[data-partition='21']").dispatchEvent(new MouseEvent("click", {bubbles: true}))`)
	b.ExpectText(t, "partition", "Partition 21: no owner, 21000 waiting")
	b.Eval(t, `[document.getElementById("ring").focus(), document.getElementById("ring").dispatchEvent(new KeyboardEvent("keydown", {key: "Home"})),
		document.getElementById("ring").dispatchEvent(new KeyboardEvent("keydown", {key: "ArrowLeft"}))]`)
	b.ExpectText(t, "partition", "Partition 63: ")
	b.ExpectText(t, "partition", ", owned, epoch 7, 0 waiting, 1.50 requests/s")
	b.Eval(t, `[...document.querySelectorAll(".letter")].find((letter) => letter.textContent === "C").click()`)
	b.ExpectTrue(t, "all other instances' partitions are dimmed", `document.querySelectorAll("#segments .dim").length === 64 - 11`)
	b.Screenshot(t, "only")
	b.Eval(t, `[...document.querySelectorAll(".letter")].find((letter) => letter.textContent === "C").click()`)
	b.ExpectTrue(t, "none is", `document.querySelectorAll("#segments .dim").length === 0`)

	b.CheckFits(t, 360, 320)
	b.Screenshot(t, "wrong")
	b.CheckConsole(t, strings.TrimPrefix(st.url, "http://"))
	if b.Eval(t, "window.hostile === undefined") != true {
		t.Error("text was taken for markup")
	}

	st.send(t, "trouble", "RabbitMQ cannot be reached: "+markup)
	b.ExpectText(t, "contact", "This instance cannot survey the cluster: RabbitMQ cannot be reached: "+markup)
	b.ExpectTrue(t, "the last picture is greyed", `document.getElementById("picture").className === "stale"`)
	b.Screenshot(t, "trouble")
	b.CheckConsole(t, strings.TrimPrefix(st.url, "http://"))
}

func testPageManyPartitions(t *testing.T) {
	t.Parallel()
	st := newStagedPage(t)
	names := []string{}
	for i := range 30 {
		names = append(names, fmt.Sprintf("ident-%02d", i))
	}
	b := (*harness.Browser)(nil)
	for _, partitions := range []int{1, 2, 1024} {
		st.send(t, "view", scene(partitions, func(p int) string { return names[p*7919%partitions%len(names)] }, names...))
		if b == nil {
			b = harness.OpenPage(t, st.url)
		}
		b.ExpectTrue(t, fmt.Sprint(partitions, " segments"), fmt.Sprintf(`document.querySelectorAll("#segments path").length === %d`, partitions))
		b.CheckFits(t, 320)
		b.Screenshot(t, fmt.Sprint("partitions-", partitions))
	}
	b.ExpectTrue(t, "letters go on after Z", `[...document.querySelectorAll(".letter")].at(-1).textContent === "AD"`)
	b.CheckConsole(t, strings.TrimPrefix(st.url, "http://"))
}
