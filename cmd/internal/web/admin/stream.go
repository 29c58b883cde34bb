package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"time"

	"github.com/glotpod/ident/cmd/internal/cli"
)

// writeTimeout bounds the writing of one line of a reply.
const writeTimeout = 10 * time.Second

// A reply is one line of the reply to an action.
type reply struct {
	Progress string `json:"progress,omitempty"`
	Done     bool   `json:"done,omitempty"`
	Error    string `json:"error,omitempty"`
	Status   int    `json:"exit_status,omitempty"` // with Error
}

// stream runs an action, and sends each line of its output at once. It returns the error of
// the action.
func (h *Handler) stream(w http.ResponseWriter, r *http.Request, run func(context.Context, io.Writer) error) error {
	controller := http.NewResponseController(w)
	controller.SetReadDeadline(time.Time{}) // the deadline would cancel the request
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	go func() {
		select {
		case <-h.o.Done:
			cancel()
		case <-ctx.Done():
		}
	}()
	out := &lineWriter{w: w, controller: controller}
	err := run(ctx, out)
	switch {
	case err == nil:
		out.send(reply{Done: true})
	case out.begun:
		out.send(reply{Error: err.Error(), Status: cli.StatusOf(err)})
	default:
		controller.SetWriteDeadline(time.Now().Add(writeTimeout))
		writeError(w, httpStatus(cli.StatusOf(err)), err, cli.StatusOf(err))
	}
	return err
}

// httpStatus returns the HTTP status for the exit status of a command.
func httpStatus(exit int) int {
	switch exit {
	case cli.StatusUsage:
		return http.StatusBadRequest
	case cli.StatusNoReply:
		return http.StatusGatewayTimeout
	case cli.StatusUnreachable:
		return http.StatusServiceUnavailable
	default:
		return http.StatusConflict
	}
}

// writeError replies with an error.
func writeError(w http.ResponseWriter, status int, err error, exit int) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(reply{Error: err.Error(), Status: exit}) // an error means that the client has left
}

// A lineWriter sends each line that is written to it as a reply.
type lineWriter struct {
	w          http.ResponseWriter
	controller *http.ResponseController
	begun      bool
	partial    []byte // of a line that has not ended
}

// Write never fails: an action does not end because nobody reads about it.
func (l *lineWriter) Write(text []byte) (int, error) {
	l.partial = append(l.partial, text...)
	for {
		line, rest, found := bytes.Cut(l.partial, []byte("\n"))
		if !found {
			return len(text), nil
		}
		l.send(reply{Progress: string(line)})
		l.partial = rest
	}
}

func (l *lineWriter) send(r reply) {
	if !l.begun {
		l.begun = true
		l.w.Header().Set("Content-Type", "application/x-ndjson")
	}
	l.controller.SetWriteDeadline(time.Now().Add(writeTimeout))
	json.NewEncoder(l.w).Encode(r) // an error means that the client has left
	l.controller.Flush()
}
