package systemtest

import (
	"fmt"
	"strings"
	"testing"
)

// rowSays is true where an instance's row in the table begins, after its letter
// and name, with a state.
func rowSays(name, state string) string {
	return fmt.Sprintf(`[...document.querySelectorAll("#members tbody tr")].some((row) =>
		row.querySelector("th span").textContent.split(" ")[0] === %q && row.querySelector("td").textContent.startsWith(%q))`, name, state)
}

func TestPageShowsTheClusterAsItChanges(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.settings["cluster.partitions"] = "64"
	s.settings["cluster.queue_type"] = "classic"
	listen := settings{"http.listen": "127.0.0.1:" + freePort(t)}
	watched := s.serveAs(t, "ident-0", listen)
	s.serveAs(t, "ident-1")
	third := s.serveAs(t, "ident-2")
	l := newLoad(t, s.amqpURL, 2)
	eventually(t, "requests are answered", l.asksOn())

	b := browse(t, watched.url)
	b.says(t, "verdict", "All 64 partitions have one owner. 3 instances.")
	for _, name := range []string{"ident-0", "ident-1", "ident-2"} {
		b.shows(t, name+" is ready", rowSays(name, "ready"))
		b.says(t, "owned", name)
	}
	b.says(t, "rate-chart", "at most")
	b.shows(t, "all segments have a letter", `document.querySelectorAll("#letters text").length === 64`)
	b.shoot(t, "three")
	b.eval(t, `(window.sameDocument = true)`)

	third.kill(t)
	b.shows(t, "the killed instance is gone", rowSays("ident-2", "gone since"))
	b.says(t, "changes", "ident-2 is gone")
	b.says(t, "changes", "from ident-2 to ") // to another one, or first to nobody
	b.says(t, "verdict", "All 64 partitions have one owner. 2 instances.")
	b.shows(t, "it owns nothing", `!document.getElementById("owned").textContent.includes("ident-2")`)
	b.shoot(t, "killed")

	s.serveAs(t, "ident-2")
	b.says(t, "verdict", "All 64 partitions have one owner. 3 instances.")
	b.shows(t, "it is ready again", rowSays("ident-2", "ready"))
	b.says(t, "owned", "C ident-2") // its letter is as before
	b.says(t, "changes", "to ident-2")
	b.shows(t, "the page was not loaded anew", "window.sameDocument")

	b.fits(t, 360, 320)
	b.isQuiet(t, strings.TrimPrefix(watched.url, "http://"))

	watched.kill(t)
	b.says(t, "contact", "No contact with this instance since ")
	b.shows(t, "the last picture is greyed", `document.getElementById("picture").className === "stale"`)
	b.fits(t, 320)
	b.shoot(t, "no-contact")
	s.serveAs(t, "ident-0", listen)
	b.shows(t, "there is contact again", `document.getElementById("contact").hidden`)
	b.says(t, "verdict", "All 64 partitions have one owner. 3 instances.")
	b.shows(t, "the page was not loaded anew", "window.sameDocument")
	l.check()
}
