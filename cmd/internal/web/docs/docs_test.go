package docs

import (
	"crypto/sha256"
	"encoding/base64"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// get returns the reply to a request for a path.
func get(t *testing.T, h http.Handler, name string) (status int, body string, header http.Header) {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, name, nil))
	return w.Code, w.Body.String(), w.Header()
}

// TestIndex: the table of contents has each document.
func TestIndex(t *testing.T) {
	var all []string
	for folder, documents := range folders {
		err := fs.WalkDir(documents, ".", func(name string, entry fs.DirEntry, err error) error {
			if err == nil && !entry.IsDir() {
				all = append(all, path.Join(folder, name))
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if want := slices.Sorted(slices.Values(index)); !slices.Equal(slices.Sorted(slices.Values(all)), want) {
		t.Errorf("there are the documents %q, and listed are %q", all, want)
	}
}

// TestLinks: what is served leads to what is served, with its anchor, or elsewhere.
func TestLinks(t *testing.T) {
	h := New("")
	ids := make(map[string][]string)
	links := make(map[string][]string)
	for _, name := range append([]string{""}, index...) {
		status, body, _ := get(t, h, "/docs/"+name)
		if status != http.StatusOK {
			t.Fatalf("%s: %d %s", name, status, body)
		}
		for _, found := range regexp.MustCompile(` id="([^"]+)"`).FindAllStringSubmatch(body, -1) {
			ids[name] = append(ids[name], found[1])
		}
		_, main, _ := strings.Cut(body, "<main")
		for _, found := range regexp.MustCompile(` href="([^"]+)"`).FindAllStringSubmatch(main, -1) {
			links[name] = append(links[name], found[1])
		}
		if strings.Contains(body, "<script") || strings.Contains(body, " style=") {
			t.Errorf("%s has what it must not have", name)
		}
	}
	checked := 0
	for from, all := range links {
		for _, link := range all {
			if strings.Contains(link, "://") {
				continue
			}
			checked++
			file, anchor, _ := strings.Cut(link, "#")
			to := path.Join(path.Dir(from), file)
			if file == "" {
				to = from
			}
			if !slices.Contains(index, to) || anchor != "" && !slices.Contains(ids[to], anchor) {
				t.Errorf("%s leads to %s", from, link)
			}
		}
	}
	if checked < 50 {
		t.Errorf("%d links were found", checked)
	}
	if got := target("deploy/guide/run.md", "../compose.yaml#x"); got != repository+"deploy/compose.yaml#x" {
		t.Errorf("a file that is not served is at %s", got)
	}
}

func TestPage(t *testing.T) {
	h := New("a > b { color: red }")
	_, body, header := get(t, h, "/docs/config/SETTINGS.md")
	policy := header.Get("Content-Security-Policy")
	_, rest, _ := strings.Cut(body, "<style>")
	style, _, _ := strings.Cut(rest, "</style>")
	sum := sha256.Sum256([]byte(style))
	if !strings.Contains(style, "a > b") || !strings.Contains(policy, "'sha256-"+base64.StdEncoding.EncodeToString(sum[:])+"'") ||
		!strings.Contains(policy, "default-src 'none'") || strings.Contains(policy, "script-src") || strings.Contains(policy, "unsafe") {
		t.Errorf("the policy %q does not fit the style %q", policy, style)
	}
	for _, want := range []string{"<title>Settings – glotpod.ident</title>", "<table>", "<code>http.listen</code>", `<a href="../../">Status</a>`} {
		if !strings.Contains(body, want) {
			t.Errorf("there is no %s", want)
		}
	}
	if status, _, header := get(t, h, "/docs"); status != http.StatusMovedPermanently || header.Get("Location") != "docs/" {
		t.Errorf("/docs: %d %v", status, header)
	}
	for _, name := range []string{"/docs/README.md", "/docs/cluster", "/docs/cluster/doc.go", "/docs/x/HOW.md"} {
		if status, _, _ := get(t, h, name); status != http.StatusNotFound {
			t.Errorf("%s: %d", name, status)
		}
	}
}
