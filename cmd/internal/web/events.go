package web

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"
)

// serveStatus tells of the whole cluster, as glotpod-ident status --json does.
func (h *Server) serveStatus(w http.ResponseWriter, r *http.Request) {
	document, err := h.watcher.View(r.Context())
	status := http.StatusOK
	if err != nil {
		status = http.StatusServiceUnavailable
		document = quoted(struct {
			Error string `json:"error"`
		}{err.Error()})
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	w.Write(document) // an error is the client's end
	io.WriteString(w, "\n")
}

// quoted returns in JSON what surely has such a form.
func quoted(what any) []byte {
	document, err := json.Marshal(what)
	if err != nil {
		panic(err)
	}
	return document
}

// eventEvery is how often who listens hears of the cluster.
const eventEvery = time.Second

// listenersAtOnce is how many may listen to one instance. Another one shows the
// same.
const listenersAtOnce = 64

// serveEvents sends the view, or why there is none, again and again, as
// server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html).
func (h *Server) serveEvents(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/event-stream")
	if r.Method == http.MethodHead {
		return
	}
	select {
	case h.listeners <- struct{}{}:
		defer func() { <-h.listeners }()
	default:
		w.Header().Set("Retry-After", "10")
		http.Error(w, "too many listen already", http.StatusServiceUnavailable)
		return
	}
	controller := http.NewResponseController(w)
	controller.SetReadDeadline(time.Time{}) // it would end the request
	ticker := time.NewTicker(eventEvery)
	defer ticker.Stop()
	for {
		name := "view"
		data, err := h.watcher.View(r.Context())
		if err != nil {
			name, data = "trouble", quoted(err.Error())
		}
		controller.SetWriteDeadline(time.Now().Add(httpTimeout))
		if _, err := fmt.Fprintf(w, "event: %s\ndata: %s\n\n", name, data); err != nil {
			return
		}
		if controller.Flush() != nil {
			return
		}
		select {
		case <-ticker.C:
		case <-r.Context().Done():
			return
		case <-h.watcher.Done():
			return
		}
	}
}
