package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"time"
)

// serveStatus tells of the whole cluster, as glotpod-ident status --json does.
func (h *httpServer) serveStatus(w http.ResponseWriter, r *http.Request) {
	v, err := h.watcher.look(r.Context())
	if err != nil {
		h.sendJSON(w, http.StatusServiceUnavailable, struct {
			Error string `json:"error"`
		}{err.Error()})
		return
	}
	h.sendJSON(w, http.StatusOK, v)
}

func (h *httpServer) sendJSON(w http.ResponseWriter, status int, document any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(document) // an error is the client's end
}

// eventEvery is how often who listens hears of the cluster.
const eventEvery = time.Second

// serveEvents sends the view, or why there is none, again and again, as
// server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html).
func (h *httpServer) serveEvents(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/event-stream")
	controller := http.NewResponseController(w)
	controller.SetReadDeadline(time.Time{}) // it would end the request
	ticker := time.NewTicker(eventEvery)
	defer ticker.Stop()
	for {
		var document any
		name := "view"
		v, err := h.watcher.look(r.Context())
		if document = v; err != nil {
			name, document = "trouble", err.Error()
		}
		data, err := json.Marshal(document)
		if err != nil {
			return
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
		case <-h.watcher.ctx.Done():
			return
		}
	}
}
