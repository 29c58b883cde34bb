package web

import (
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"fmt"
	"net/http"
	"strings"
)

//go:embed page
var pageFiles embed.FS

// newPage returns a handler for the status page, with or without the actions of operators.
// The page is one document that loads nothing else except events, what the user of a form
// asks for, and the replies to actions. Its policy allows no other style and no other script.
func newPage(actions bool) http.HandlerFunc {
	style := pageFile("page.css")
	script := pageFile("dom.js") + pageFile("members.js") + pageFile("ring.js") + pageFile("charts.js") + pageFile("user.js")
	section := ""
	if actions {
		section = pageFile("operate.html")
		script += pageFile("operate.js")
	}
	script += pageFile("page.js")
	document := []byte(strings.NewReplacer("{{style}}", style, "{{operate}}", section, "{{script}}", script).Replace(pageFile("page.html")))
	policy := fmt.Sprintf("default-src 'none'; connect-src 'self'; img-src data:; style-src %s; script-src %s; "+
		"base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
		policyHash(style), policyHash(script))
	return func(w http.ResponseWriter, _ *http.Request) {
		header := w.Header()
		header.Set("Content-Type", "text/html; charset=utf-8")
		header.Set("Content-Security-Policy", policy)
		w.Write(document)
	}
}

func pageFile(name string) string {
	text, err := pageFiles.ReadFile("page/" + name)
	if err != nil {
		panic(err) // the files are embedded
	}
	return string(text)
}

// policyHash returns the source expression for an inline style or script in a
// Content-Security-Policy.
func policyHash(text string) string {
	sum := sha256.Sum256([]byte(text))
	return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
}
