package cli

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

	"github.com/glotpod/ident/config"
)

const (
	httpTimeout = 10 * time.Second // of one request, but for those that go on

	// httpConnections is how many there may be at once. Nobody needs many, and
	// none is to take file descriptors from the work.
	httpConnections = 256

	// scrapesAtOnce is how many may ask for the metrics at a time.
	scrapesAtOnce = 4
)

// An httpServer tells over HTTP how the process is. None of it changes anything,
// and none of it shows a user's data.
type httpServer struct {
	http      *http.Server
	ended     chan struct{}
	instance  atomic.Pointer[subject]
	watcher   *watcher
	listeners chan struct{} // holds one for each who listens to events
	log       *zap.Logger
}

// A subject is what the probes ask.
type subject interface {
	Ready() error   // nil while it is ready
	Started() error // nil once it has served
}

// listenHTTP serves as the settings say, or nothing where they say so.
func listenHTTP(c *config.Config, metrics *prometheus.Registry, log *zap.Logger) (*httpServer, error) {
	h := &httpServer{ended: make(chan struct{}), log: log}
	if c.HTTP.Listen == "" {
		close(h.ended)
		return h, nil
	}
	listener, err := net.Listen("tcp", c.HTTP.Listen)
	if err != nil {
		return nil, fmt.Errorf("http.listen: %w", err)
	}
	h.watcher, h.listeners = newWatcher(c), make(chan struct{}, listenersAtOnce)
	h.http = &http.Server{
		Handler:           h.routes(metrics, c.HTTP.Pprof),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       httpTimeout,
		WriteTimeout:      httpTimeout,
		IdleTimeout:       30 * time.Second,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          zap.NewStdLog(log),
	}
	go func() {
		defer close(h.ended)
		if err := h.http.Serve(&newestListener{Listener: listener, most: httpConnections}); !errors.Is(err, http.ErrServerClosed) {
			log.Error("http", zap.Error(err))
		}
	}()
	log.Info("http", zap.Stringer("listen", listener.Addr()))
	return h, nil
}

func (h *httpServer) routes(metrics *prometheus.Registry, withPprof bool) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", servePage)
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "ok\n") })
	mux.HandleFunc("GET /readyz", h.probe(subject.Ready))
	mux.HandleFunc("GET /startupz", h.probe(subject.Started))
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

// serve says whom the probes are to ask. Before, they say that it is starting.
func (h *httpServer) serve(s subject) { h.instance.Store(&s) }

func (h *httpServer) probe(ask func(subject) error) http.HandlerFunc {
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

func (h *httpServer) close() {
	if h.http != nil {
		h.watcher.close() // ends what would go on
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if h.http.Shutdown(ctx) != nil {
			h.http.Close()
		}
	}
	<-h.ended
}
