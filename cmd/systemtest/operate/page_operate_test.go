package operate

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/glotpod/ident/cmd/systemtest/harness"
)

// adminToken is the token of operators in these tests.
const adminToken = "correct-horse-battery-staple"

// act sends an instance a request to act, and returns the status and the reply.
func act(t *testing.T, v *harness.Instance, token, action, body string) (int, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, v.URL+"/admin/"+action, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+token)
	r.Header.Set("Content-Type", "application/json")
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	reply, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(reply)
}

// TestPageOperates: with the token, an operator acts on the status page and over HTTP.
func TestPageOperates(t *testing.T) {
	t.Parallel()
	s := harness.NewSite(t)
	s.Settings["cluster.partitions"], s.Settings["cluster.queue_type"] = "16", "classic"
	tokenFile := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(tokenFile, []byte(adminToken+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	v := s.ServeAs(t, "ident-0", harness.Settings{"http.admin_token_file": tokenFile})
	v.ExtraSecrets = append(v.ExtraSecrets, adminToken)
	plain := s.ServeAs(t, "ident-1")

	t.Run("not without the setting", func(t *testing.T) {
		if status, reply := act(t, plain, adminToken, "drain", `{"instances": ["ident-1"]}`); status != http.StatusNotFound {
			t.Errorf("%d %s", status, reply)
		}
		if page := plain.Fetch(t, "/"); strings.Contains(page, "admin/") || strings.Contains(page, `id="operate"`) {
			t.Error("the page has actions")
		}
	})

	b := harness.OpenPage(t, v.URL)
	b.ExpectText(t, "verdict", "All 16 partitions have one owner. 2 instances.")
	b.Screenshot(t, "operate-locked")
	b.Eval(t, fmt.Sprintf(`(document.getElementById("token").value = %q, document.querySelector("#token-form button").click())`, adminToken))
	b.ExpectTrue(t, "the actions are shown", `!document.getElementById("controls").hidden`)
	press := func(button string) {
		t.Helper()
		b.ExpectTrue(t, button+" can be pressed", fmt.Sprintf(`document.querySelector(%q)?.offsetParent`, button))
		b.Eval(t, fmt.Sprintf(`(document.querySelector(%q).click())`, button))
	}
	b.Eval(t, `(document.getElementById("instance").value = "ident-1")`)

	press("button[value=drain]")
	b.ExpectText(t, "confirm-text", "partitions over to 1 other instance")
	b.Screenshot(t, "operate-confirm")
	press("#confirm-no")
	press("button[value=drain]")
	press("#confirm-yes")
	b.ExpectText(t, "operate-log", "ident-1 has no partitions.")
	b.ExpectText(t, "operate-log", "Drain ident-1: done")
	b.ExpectTrue(t, "it is drained", rowSays("ident-1", "draining"))
	press("button[value=undrain]")
	b.ExpectText(t, "confirm-text", "about 8 of 16")
	press("#confirm-yes")
	b.ExpectText(t, "operate-log", "Undrain ident-1: done")
	b.ExpectTrue(t, "it is ready", rowSays("ident-1", "ready"))

	b.Eval(t, `(document.getElementById("new-partitions").value = "24")`)
	press("button[value=change]")
	b.ExpectText(t, "confirm-text", "/0016 to glotpod.rpc/ident/0039")
	press("#confirm-yes")
	b.ExpectText(t, "operate-log", "The cluster has 24 partitions")
	b.ExpectText(t, "verdict", "All 24 partitions have one owner. 2 instances.")
	b.Screenshot(t, "operate-done")
	if begun := b.Eval(t, `document.getElementById("operate-log").textContent.split("begins").length - 1`); begun != 3.0 {
		t.Errorf("%v actions have begun", begun)
	}
	b.CheckFits(t, 360, 320)
	b.CheckConsole(t, strings.TrimPrefix(v.URL, "http://"))

	press("button[value=abort]")
	press("#confirm-yes")
	b.ExpectText(t, "operate-error", "no repartition is under way")
	testLostReplies(t, b, press)
	testActsOverHTTP(t, v, tokenFile)
	press("button[value=abort]")
	press("#confirm-yes")
	b.ExpectText(t, "operate-error", "the token is missing or wrong")
	b.ExpectTrue(t, "the actions are hidden", `document.getElementById("controls").hidden`)
	b.Screenshot(t, "operate-refused")
}

// testLostReplies has replies not arrive: the page says that the action may go on, not that it is
// not done.
func testLostReplies(t *testing.T, b *harness.Browser, press func(string)) {
	t.Helper()
	b.Eval(t, `(window.realFetch = window.fetch, true)`)
	for reason, fetch := range map[string]string{
		"(cut)":          `new Response(new ReadableStream({start: (c) => c.error(new TypeError("cut"))}), {headers: {"Content-Type": "application/x-ndjson"}})`,
		"the status 502": `new Response("<p>Bad gateway</p>", {status: 502, headers: {"Content-Type": "text/html"}})`,
		"(unreachable)":  `Promise.reject(new TypeError("unreachable"))`,
	} {
		b.Eval(t, `(window.fetch = async () => `+fetch+`, true)`)
		press("button[value=abort]")
		press("#confirm-yes")
		b.ExpectText(t, "operate-error", reason)
		b.ExpectTrue(t, "the page says that the action may go on", `/^T.*may go on/.test(document.getElementById("operate-error").textContent)`)
	}
	b.Eval(t, `(window.fetch = window.realFetch, true)`)
}

// testActsOverHTTP acts with the token of the file, and with that which replaces it.
func testActsOverHTTP(t *testing.T, v *harness.Instance, tokenFile string) {
	t.Helper()
	if status, reply := act(t, v, adminToken, "drain", `{"instances": ["ident-9"]}`); status != http.StatusNotFound || !strings.Contains(reply, "ident-0, ident-1") {
		t.Errorf("of an unknown instance: %d %s", status, reply)
	}
	if status, reply := act(t, v, adminToken, "drain", `{"instances": ["ident-0", "ident-1"]}`); status != http.StatusConflict || !strings.Contains(reply, "no instance would remain") {
		t.Errorf("of all: %d %s", status, reply)
	}
	if status, reply := act(t, v, adminToken, "repartition", `{"partitions": 1025}`); status != http.StatusBadRequest || !strings.Contains(reply, "1 to 1024") {
		t.Errorf("to too many partitions: %d %s", status, reply)
	}
	if err := os.WriteFile(tokenFile, []byte("another-"+adminToken), 0o600); err != nil {
		t.Fatal(err)
	}
	for token, want := range map[string]int{adminToken: http.StatusUnauthorized, "another-" + adminToken: http.StatusOK} {
		if status, reply := act(t, v, token, "drain", `{"instances": ["ident-1"]}`); status != want {
			t.Errorf("with %s: %d %s", token, status, reply)
		}
	}
	harness.Eventually(t, "the log has the actions", func() bool {
		return v.Stderr.Count("operator's action begins") >= 7 && v.Stderr.Count("operator's token refused") > 0
	})
}
