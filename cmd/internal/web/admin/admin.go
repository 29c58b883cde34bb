// Package admin lets an operator act over HTTP: drain and undrain instances, and change the
// partitions.
//
// # What it promises
//
//   - Nothing is done without the token, which is in the header Authorization and in a file.
//     It is compared in constant time, and is in no URL, log line or reply.
//   - A request of another web page does nothing: a browser adds no such header by itself, no
//     reply allows another origin to, and a request from another origin is refused first.
//   - Wrong tokens, from wherever they come, do not keep out a client that has the right one.
//   - Each action is logged, with the address that it came from, before it begins and after
//     its end.
//
// # Requests and replies
//
// A request is a POST of a JSON object. The reply is a stream of JSON objects, one per line,
// as the action goes on: {"progress": "…"}, and at the end {"done": true} or {"error": "…",
// "exit_status": n}, where n is that of the command. If there is an error before any
// progress, the status of the reply is not 200. If the client leaves, the action ends as an
// interrupted command does. The server closes no connection with an action to accept others.
package admin

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/glotpod/ident/cluster/throttle"
	"github.com/glotpod/ident/cmd/internal/cli"
	"github.com/glotpod/ident/cmd/internal/operate"
)

const (
	// maxActions bounds the actions that run at the same time, as far as [needsSlot] says.
	// Each has a connection to the broker.
	maxActions = 8

	// maxRequestBytes is far more than an instance's name for each instance.
	maxRequestBytes = 16 << 10

	// refusedLogInterval is the least time between two log lines about wrong tokens.
	refusedLogInterval = 10 * time.Second
)

// An Operator carries actions out, as [operate.Operator] does.
type Operator interface {
	Drain(ctx context.Context, names []string, all bool, out io.Writer) error
	Undrain(ctx context.Context, names []string, out io.Writer) error
	Repartition(ctx context.Context, r operate.RepartitionRequest, out io.Writer) error
}

// Options are the options of a [Handler].
type Options struct {
	// Token returns the token of operators.
	Token func() (string, error)

	// Keep has the server not close the connection of a request to accept others.
	Keep func(*http.Request)

	Operator Operator
	Metrics  prometheus.Registerer
	Done     <-chan struct{} // closed when actions are to end
	Log      *zap.Logger
}

// A Handler serves the paths below /admin/.
type Handler struct {
	o        Options
	mux      *http.ServeMux
	handler  http.Handler           // mux, for requests of this origin alone
	actions  chan struct{}          // has one element for each action that has a slot
	requests *prometheus.CounterVec // by action and outcome
	refused  *throttle.Logger
	unusable *throttle.Logger
}

// The values of the label outcome.
const (
	outcomeDone      = "done"
	outcomeFailed    = "failed"
	outcomeRefused   = "token_refused"
	outcomeMalformed = "malformed"
)

// New returns a handler.
func New(o Options) *Handler {
	h := &Handler{
		o:       o,
		mux:     http.NewServeMux(),
		actions: make(chan struct{}, maxActions),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "glotpod_ident_admin_requests_total",
			Help: "Requests to act, by action and outcome: done, failed, token_refused or malformed.",
		}, []string{"action", "outcome"}),
		refused:  throttle.New(o.Log, zapcore.WarnLevel, "operator's token refused", refusedLogInterval),
		unusable: throttle.New(o.Log, zapcore.WarnLevel, "operator's token not read again", refusedLogInterval),
	}
	o.Metrics.MustRegister(h.requests)
	sameOrigin := http.NewCrossOriginProtection()
	sameOrigin.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		writeError(w, http.StatusForbidden, errOrigin, cli.StatusUsage)
	}))
	h.handler = sameOrigin.Handler(h.mux)
	handle(h, "check", check)
	handle(h, "drain", func(ctx context.Context, r drainRequest, out io.Writer) error {
		return o.Operator.Drain(ctx, r.Instances, r.All, out)
	})
	handle(h, "undrain", func(ctx context.Context, r undrainRequest, out io.Writer) error {
		return o.Operator.Undrain(ctx, r.Instances, out)
	})
	handle(h, "repartition", o.Operator.Repartition)
	return h
}

type (
	drainRequest struct {
		Instances []string `json:"instances"`
		All       bool     `json:"all"`
	}
	undrainRequest struct {
		Instances []string `json:"instances"`
	}
)

func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) { h.handler.ServeHTTP(w, r) }

var (
	errTooMany = errors.New("too many actions run already")
	errOrigin  = errors.New("requests of other web pages are refused")
)

// check is an action that does nothing.
func check(context.Context, struct{}, io.Writer) error { return nil }

// needsSlot reports whether a request counts as one of maxActions. The token can be checked,
// and a repartition that others wait for be aborted, beside any number of actions.
func needsSlot(request any) bool {
	switch r := request.(type) {
	case struct{}:
		return false
	case operate.RepartitionRequest:
		return !r.Abort
	}
	return true
}

// handle serves an action.
func handle[T any](h *Handler, action string, run func(context.Context, T, io.Writer) error) {
	h.mux.HandleFunc("POST /admin/"+action, func(w http.ResponseWriter, r *http.Request) {
		var request T
		if status, err := h.accept(w, r, action, &request); err != nil {
			writeError(w, status, err, cli.StatusUsage)
			return
		}
		if needsSlot(request) {
			select {
			case h.actions <- struct{}{}:
				defer func() { <-h.actions }()
			default:
				writeError(w, http.StatusServiceUnavailable, errTooMany, cli.StatusFailure)
				return
			}
		}
		h.o.Keep(r)
		// The level is one that log.level hardly ever hides.
		log := h.o.Log.With(zap.String("action", action), zap.String("remote", r.RemoteAddr), zap.Any("request", request)).Warn
		if action == "check" {
			log = func(string, ...zap.Field) {}
		}
		log("operator's action begins")
		outcome := outcomeDone
		err := h.stream(w, r, func(ctx context.Context, out io.Writer) error { return run(ctx, request, out) })
		if err != nil {
			outcome = outcomeFailed
		}
		log("operator's action ended", zap.Error(err))
		h.requests.WithLabelValues(action, outcome).Inc()
	})
}

// accept checks and decodes a request. The error says why it is refused, with an HTTP status.
func (h *Handler) accept(w http.ResponseWriter, r *http.Request, action string, into any) (status int, err error) {
	if status, err := h.authorize(r); err != nil {
		h.requests.WithLabelValues(action, outcomeRefused).Inc()
		h.refused.Log(1, zap.String("action", action), zap.String("remote", r.RemoteAddr), zap.Error(err))
		return status, err
	}
	status = http.StatusUnsupportedMediaType
	err = errors.New("the content type must be application/json")
	if mediaType, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")); mediaType == "application/json" {
		status = http.StatusBadRequest
		decoder := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxRequestBytes))
		decoder.DisallowUnknownFields()
		if err = decoder.Decode(into); err == nil {
			if _, end := decoder.Token(); !errors.Is(end, io.EOF) {
				err = errors.New("more than one JSON object")
			}
		}
	}
	if err != nil {
		h.requests.WithLabelValues(action, outcomeMalformed).Inc()
	}
	return status, err
}
