package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"time"

	"github.com/glotpod/ident/cluster/membership"
	"github.com/glotpod/ident/cmd/internal/cli"
)

const (
	// writeTimeout bounds the writing of one line of a reply.
	writeTimeout = 10 * time.Second

	// retryAfter is in how many seconds an instance may be able to act.
	retryAfter = "5"
)

var errStopping = errors.New("this instance is stopping, and does not wait for the end of the action")

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
	w.Header().Set("Connection", "close")   // the listener does not count it any more
	ctx, cancel := context.WithCancelCause(r.Context())
	defer cancel(nil)
	go func() {
		select {
		case <-h.o.Done:
			cancel(errStopping)
		case <-ctx.Done():
		}
	}()
	out := &lineWriter{w: w, controller: controller}
	err := run(ctx, out)
	if err != nil && errors.Is(context.Cause(ctx), errStopping) {
		err = cli.WithStatus(cli.StatusUnreachable, errStopping)
	}
	switch {
	case err == nil:
		out.send(reply{Done: true})
	case out.begun:
		out.send(reply{Error: err.Error(), Status: cli.StatusOf(err)})
	default:
		controller.SetWriteDeadline(time.Now().Add(writeTimeout))
		writeError(w, httpStatus(err), err, cli.StatusOf(err))
	}
	return err
}

// httpStatus returns the HTTP status for the error of a command.
func httpStatus(err error) int {
	if errors.Is(err, membership.ErrNoInstance) {
		return http.StatusNotFound
	}
	switch cli.StatusOf(err) {
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
	switch status {
	case http.StatusUnauthorized:
		w.Header().Set("WWW-Authenticate", "Bearer")
	case http.StatusServiceUnavailable:
		w.Header().Set("Retry-After", retryAfter)
	}
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
