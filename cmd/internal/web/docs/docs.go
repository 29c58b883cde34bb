// Package docs serves the documents of the repository that are about running the service,
// as HTML. Their paths are those in the repository, so that links between them work. A link
// to a file that is not served leads to the repository.
package docs

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"fmt"
	"html/template"
	"io/fs"
	"net/http"
	"path"
	"strings"
	"sync"

	"github.com/glotpod/ident/cluster"
	"github.com/glotpod/ident/cmd"
	"github.com/glotpod/ident/config"
	"github.com/glotpod/ident/deploy"
	"github.com/glotpod/ident/store"
)

// folders have the documents, by the paths of the folders in the repository.
var folders = map[string]fs.FS{
	"cluster": cluster.Documents,
	"cmd":     cmd.Documents,
	"config":  config.Documents,
	"deploy":  deploy.Documents,
	"store":   store.Documents,
}

// index lists all documents in the order of the table of contents.
var index = []string{
	"cluster/HOW.md", "cluster/PROTOCOL.md", "config/SETTINGS.md", "cmd/COMMANDS.md", "store/DATA.md",
	"deploy/guide/run.md", "deploy/guide/kubernetes.md", "deploy/guide/systemd.md", "deploy/chart/README.md",
	"deploy/guide/rabbitmq.md", "deploy/guide/security.md", "deploy/guide/backup.md", "deploy/guide/observe.md",
	"deploy/guide/runbook.md", "deploy/guide/capacity.md", "deploy/guide/measure.md", "deploy/guide/upgrade.md",
	"deploy/guide/from-python.md", "deploy/CHANGELOG.md",
}

// read returns the text of a document.
func read(name string) ([]byte, error) {
	folder, file, _ := strings.Cut(name, "/")
	documents, ok := folders[folder]
	if !ok {
		return nil, fs.ErrNotExist
	}
	return fs.ReadFile(documents, file)
}

// A page is a document in HTML.
type page struct {
	Title string
	Body  template.HTML
	Style template.CSS
	Root  string // the relative path of the status page
}

//go:embed docs.css
var ownStyle string

//go:embed docs.html
var layoutText string

var layout = template.Must(template.New("document").Parse(layoutText))

// New returns a handler for the paths below /docs/. style is that of the status page.
func New(style string) http.Handler {
	style += ownStyle
	sum := sha256.Sum256([]byte(style))
	policy := fmt.Sprintf("default-src 'none'; style-src 'sha256-%s'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
		base64.StdEncoding.EncodeToString(sum[:]))
	mux := http.NewServeMux()
	serve := func(name string, make func() (*page, error)) {
		rendered := sync.OnceValues(func() ([]byte, error) {
			p, err := make()
			if err != nil {
				return nil, err
			}
			p.Style = template.CSS(style)
			p.Root = strings.Repeat("../", 1+strings.Count(name, "/"))
			var b bytes.Buffer
			err = layout.Execute(&b, p)
			return b.Bytes(), err
		})
		mux.HandleFunc("GET /docs/"+name, func(w http.ResponseWriter, _ *http.Request) {
			document, err := rendered()
			if err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
				return
			}
			w.Header().Set("Content-Type", "text/html; charset=utf-8")
			w.Header().Set("Content-Security-Policy", policy)
			w.Write(document)
		})
	}
	for _, name := range index {
		serve(name, func() (*page, error) { return render(name) })
	}
	serve("{$}", contents)
	mux.HandleFunc("GET /docs", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Location", "docs/") // http.Redirect makes it absolute, which a proxy's prefix breaks
		w.WriteHeader(http.StatusMovedPermanently)
	})
	return mux
}

// contents returns the table of contents.
func contents() (*page, error) {
	var b strings.Builder
	b.WriteString("<h1>Documents</h1>\n<ul>\n")
	for _, name := range index {
		p, err := render(name)
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(&b, "<li><a href=\"%s\">%s</a> <span class=\"hint\">%s</span></li>\n", name, template.HTMLEscapeString(p.Title), name)
	}
	b.WriteString("</ul>\n")
	return &page{Title: "Documents", Body: template.HTML(b.String())}, nil
}

// isServed reports whether a path in the repository is that of a document.
func isServed(name string) bool {
	_, err := read(name)
	return err == nil
}

// repository is where files are that are not served.
const repository = "https://github.com/glotpod/ident/blob/HEAD/"

// target returns where a link in a document leads to.
func target(document, link string) string {
	file, _, _ := strings.Cut(link, "#")
	if file == "" || strings.Contains(file, ":") {
		return link
	}
	name := path.Join(path.Dir(document), file)
	if isServed(name) {
		return link
	}
	return repository + name + strings.TrimPrefix(link, file)
}
