// Package web serves an instance's probes, metrics, profiles, events and status page
// over HTTP.
package web

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/pprof"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.uber.org/zap"

	"github.com/glotpod/ident/cmd/internal/clusterview"
)

const (
	httpTimeout = 10 * time.Second // of one request, but for those that go on

	// httpConnections is how many there may be at once. Nobody needs many, and
	// none is to take file descriptors from the work.
	httpConnections = 256

	// scrapesAtOnce is how many may ask for the metrics at a time.
	scrapesAtOnce = 4
)

// An Server tells over HTTP how the process is. None of it changes anything,
// and none of it shows a user's data.
type Server struct {
	http      *http.Server
	ended     chan struct{}
	instance  atomic.Pointer[Subject]
	watcher   *clusterview.Watcher
	listeners chan struct{} // holds one for each who listens to events
	log       *zap.Logger
}

// A Subject is what the probes ask.
type Subject interface {
	Ready() error   // nil while it is ready
	Started() error // nil once it has served
}

// Options are the options of a [Server].
type Options struct {
	Address string // to listen on; "": do not listen
	Pprof   bool   // serve profiles under /debug/pprof/
	Metrics *prometheus.Registry
	Watcher *clusterview.Watcher // the server closes it
	Log     *zap.Logger
}

// Listen starts a server.
func Listen(o Options) (*Server, error) {
	h := &Server{ended: make(chan struct{}), log: o.Log}
	if o.Address == "" {
		close(h.ended)
		return h, nil
	}
	listener, err := net.Listen("tcp", o.Address)
	if err != nil {
		return nil, fmt.Errorf("http.listen: %w", err)
	}
	h.watcher, h.listeners = o.Watcher, make(chan struct{}, listenersAtOnce)
	h.http = &http.Server{
		Handler:           h.routes(o.Metrics, o.Pprof),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       httpTimeout,
		WriteTimeout:      httpTimeout,
		IdleTimeout:       30 * time.Second,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          zap.NewStdLog(o.Log),
	}
	go func() {
		defer close(h.ended)
		if err := h.http.Serve(&newestListener{Listener: listener, most: httpConnections}); !errors.Is(err, http.ErrServerClosed) {
			o.Log.Error("http", zap.Error(err))
		}
	}()
	o.Log.Info("http", zap.Stringer("listen", listener.Addr()))
	return h, nil
}

func (h *Server) routes(metrics *prometheus.Registry, withPprof bool) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", servePage)
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "ok\n") })
	mux.HandleFunc("GET /readyz", h.probe(Subject.Ready))
	mux.HandleFunc("GET /startupz", h.probe(Subject.Started))
	mux.Handle("GET /metrics", promhttp.HandlerFor(metrics, promhttp.HandlerOpts{
		ErrorLog:            scrapeLog{h.log},
		ErrorHandling:       promhttp.ContinueOnError,
		MaxRequestsInFlight: scrapesAtOnce,
		Timeout:             httpTimeout - time.Second,
		EnableOpenMetrics:   true,
	}))
	mux.HandleFunc("GET /status.json", h.serveStatus)
	mux.HandleFunc("GET /events", h.serveEvents)
	if withPprof {
		mux.HandleFunc("GET /debug/pprof/", pprof.Index)
		mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
		mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
		mux.HandleFunc("GET /debug/pprof/profile", unhurried(pprof.Profile))
		mux.HandleFunc("GET /debug/pprof/trace", unhurried(pprof.Trace))
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		header := w.Header()
		header.Set("X-Content-Type-Options", "nosniff")
		header.Set("Cache-Control", "no-store")
		header.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
		mux.ServeHTTP(w, r)
	})
}

// A scrapeLog logs what promhttp says. It says of each metric that its reader is
// gone, or has waited for too long, which the reader knows.
type scrapeLog struct{ log *zap.Logger }

func (l scrapeLog) Println(words ...any) {
	level := zap.WarnLevel
	for _, word := range words {
		err, _ := word.(error)
		if errors.Is(err, context.Canceled) || errors.Is(err, http.ErrHandlerTimeout) {
			level = zap.DebugLevel
		}
	}
	l.log.Log(level, "metrics", zap.String("error", strings.TrimSpace(fmt.Sprintln(words...))))
}

// Serve says whom the probes are to ask. Before, they say that it is starting.
func (h *Server) Serve(s Subject) { h.instance.Store(&s) }

func (h *Server) probe(ask func(Subject) error) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		err := errors.New("starting")
		if s := h.instance.Load(); s != nil {
			err = ask(*s)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		io.WriteString(w, "ok\n")
	}
}

// unhurried serves what takes as long as the client has asked for.
func unhurried(serve http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		controller := http.NewResponseController(w)
		controller.SetReadDeadline(time.Time{}) // it would end the request
		controller.SetWriteDeadline(time.Time{})
		serve(w, r)
	}
}

// Close stops the server.
func (h *Server) Close() {
	if h.http != nil {
		h.watcher.Close() // ends what would go on
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if h.http.Shutdown(ctx) != nil {
			h.http.Close()
		}
	}
	<-h.ended
}
