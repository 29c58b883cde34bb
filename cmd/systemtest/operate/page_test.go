package operate

import (
	"fmt"
	"strings"
	"testing"

	"github.com/glotpod/ident/cmd/systemtest/harness"
	"github.com/glotpod/ident/cmd/systemtest/workload"
)

// rowSays is true where an instance's row in the table begins, after its letter
// and name, with a state.
func rowSays(name, state string) string {
	return fmt.Sprintf(`[...document.querySelectorAll("#members tbody tr")].some((row) =>
		row.querySelector("th span").textContent.split(" ")[0] === %q && row.querySelector("td").textContent.startsWith(%q))`, name, state)
}

func TestPage(t *testing.T) {
	t.Parallel()
	t.Run("follows_the_cluster", testPageFollowsTheCluster)
	t.Run("problems_as_text", testPageProblemsAsText)
	t.Run("many_partitions", testPageManyPartitions)
	t.Run("documents", testPageDocuments)
}

// testPageDocuments: the documents are served, and their links lead from one to another.
func testPageDocuments(t *testing.T) {
	t.Parallel()
	v := harness.NewSite(t).Serve(t)
	b := harness.OpenPage(t, v.URL)
	follow := func(link, title string) {
		t.Helper()
		b.ExpectTrue(t, link+" is there", fmt.Sprintf(`document.querySelector('a[href=%q]')`, link))
		b.Navigate(t, b.Eval(t, fmt.Sprintf(`document.querySelector('a[href=%q]').href`, link)).(string))
		b.ExpectTrue(t, "it is the document "+title, fmt.Sprintf("document.title === %q", title+" – glotpod.ident"))
		b.CheckFits(t, 360, 1280)
	}
	follow("docs/", "Documents")
	b.Screenshot(t, "documents")
	follow("config/SETTINGS.md", "Settings")
	b.Screenshot(t, "documents-settings")
	follow("../deploy/guide/security.md", "Who may do and see what")
	follow("observe.md#act-on-the-status-page", "Observe it")
	b.ExpectTrue(t, "the heading is the target", `document.querySelector("h2:target").textContent === "Act on the status page"`)
	b.Screenshot(t, "documents-observe")
	b.CheckConsole(t, strings.TrimPrefix(v.URL, "http://"))
}

func testPageFollowsTheCluster(t *testing.T) {
	t.Parallel()
	s := harness.NewSite(t)
	s.Settings["cluster.partitions"] = "16"
	s.Settings["cluster.queue_type"] = "classic"
	listen := harness.Settings{"http.listen": "127.0.0.1:" + harness.FreePort(t)}
	watched := s.ServeAs(t, "ident-0", listen)
	s.ServeAs(t, "ident-1")
	third := s.ServeAs(t, "ident-2")
	l := workload.Start(t, s.AMQPURL, workload.FewCallers, 2)
	harness.Eventually(t, "there are replies", l.Progress())

	b := harness.OpenPage(t, watched.URL)
	b.ExpectText(t, "verdict", "All 16 partitions have one owner. 3 instances.")
	for _, name := range []string{"ident-0", "ident-1", "ident-2"} {
		b.ExpectTrue(t, name+" is ready", rowSays(name, "ready"))
		b.ExpectText(t, "owned", name)
	}
	b.ExpectText(t, "rate-chart", "maximum")
	b.ExpectTrue(t, "all segments have a letter", `document.querySelectorAll("#letters text").length === 16`)
	b.Screenshot(t, "three")
	b.Eval(t, `(window.sameDocument = true)`)

	third.Kill(t)
	b.ExpectTrue(t, "the killed instance is gone", rowSays("ident-2", "gone since"))
	b.ExpectText(t, "changes", "ident-2 is gone")
	b.ExpectText(t, "changes", "from ident-2 to ") // to another one, or first to nobody
	b.ExpectText(t, "verdict", "All 16 partitions have one owner. 2 instances.")
	b.ExpectTrue(t, "it owns nothing", `!document.getElementById("owned").textContent.includes("ident-2")`)
	b.Screenshot(t, "killed")

	s.ServeAs(t, "ident-2")
	b.ExpectText(t, "verdict", "All 16 partitions have one owner. 3 instances.")
	b.ExpectTrue(t, "it is ready again", rowSays("ident-2", "ready"))
	b.ExpectText(t, "owned", "C ident-2") // its letter is as before
	b.ExpectText(t, "changes", "to ident-2")
	b.ExpectTrue(t, "the page was not loaded anew", "window.sameDocument")

	b.CheckFits(t, 360, 320)
	b.CheckConsole(t, strings.TrimPrefix(watched.URL, "http://"))

	watched.Kill(t)
	b.ExpectText(t, "contact", "No contact with this instance since ")
	b.ExpectTrue(t, "the last picture is greyed", `document.getElementById("picture").className === "stale"`)
	b.CheckFits(t, 320)
	b.Screenshot(t, "no-contact")
	s.ServeAs(t, "ident-0", listen)
	b.ExpectTrue(t, "there is contact again", `document.getElementById("contact").hidden`)
	b.ExpectText(t, "verdict", "All 16 partitions have one owner. 3 instances.")
	b.ExpectTrue(t, "the page was not loaded anew", "window.sameDocument")
	l.Check()
}
