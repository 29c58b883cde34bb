package web

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/glotpod/ident/cmd/internal/clusterview"
)

const (
	// eventInterval is the time between two events.
	eventInterval = time.Second

	// maxListeners bounds the clients of /events. Another instance sends the same
	// events.
	maxListeners = 64
)

// serveStatus serves a view of the whole cluster. It contains what
// glotpod-ident status --json prints.
func (s *Server) serveStatus(w http.ResponseWriter, r *http.Request) {
	document, err := s.watcher.View(r.Context())
	writeDocument(w, document, err, http.StatusServiceUnavailable)
}

// serveUser serves what a user waits for, as glotpod-ident user waiting --json prints it.
func (s *Server) serveUser(w http.ResponseWriter, r *http.Request) {
	id, err := strconv.ParseInt(r.PathValue("id"), 10, 64)
	if err != nil || id < 1 {
		writeDocument(w, nil, errUserID, http.StatusBadRequest)
		return
	}
	document, err := s.watcher.User(r.Context(), id)
	status := http.StatusServiceUnavailable
	if errors.Is(err, clusterview.ErrBusy) {
		status = http.StatusTooManyRequests
		w.Header().Set("Retry-After", "1")
	}
	writeDocument(w, document, err, status)
}

var errUserID = errors.New("the id of a user is a whole number from 1")

// writeDocument serves a JSON document or, with another status, an error.
func writeDocument(w http.ResponseWriter, document []byte, err error, statusOfError int) {
	status := http.StatusOK
	if err != nil {
		status = statusOfError
		document = mustMarshal(struct {
			Error string `json:"error"`
		}{err.Error()})
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	w.Write(document) // an error means that the client has left
	io.WriteString(w, "\n")
}

// mustMarshal encodes a value that has a JSON form.
func mustMarshal(v any) []byte {
	document, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return document
}

// serveEvents sends a view at each interval as a server-sent event, or the error if there
// is no view (https://html.spec.whatwg.org/multipage/server-sent-events.html).
func (s *Server) serveEvents(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/event-stream")
	if r.Method == http.MethodHead {
		return
	}
	select {
	case s.listeners <- struct{}{}:
		defer func() { <-s.listeners }()
	default:
		w.Header().Set("Retry-After", "10")
		http.Error(w, "too many clients listen already", http.StatusServiceUnavailable)
		return
	}
	controller := http.NewResponseController(w)
	controller.SetReadDeadline(time.Time{}) // the deadline would cancel the request
	ticker := time.NewTicker(eventInterval)
	defer ticker.Stop()
	for {
		name := "view"
		data, err := s.watcher.View(r.Context())
		if err != nil {
			name, data = "trouble", mustMarshal(err.Error())
		}
		controller.SetWriteDeadline(time.Now().Add(requestTimeout))
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
		case <-s.watcher.Done():
			return
		}
	}
}
