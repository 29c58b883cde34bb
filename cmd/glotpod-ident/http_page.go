package main

import (
	_ "embed"
	"net/http"
)

//go:embed page.html
var pageHTML []byte

// page is the status page. It needs nothing from elsewhere.
var page = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
	header := w.Header()
	header.Set("Content-Type", "text/html; charset=utf-8")
	header.Set("Content-Security-Policy", "default-src 'none'; connect-src 'self'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
	w.Write(pageHTML)
})
