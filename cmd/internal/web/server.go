// Package web serves the probes, metrics, profiles, events and the status page of an
// instance over HTTP. Only the requests of package admin, which need a token, change
// anything. No response contains data of a user, except whether a user id has requests just now.
package web

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/pprof"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/glotpod/ident/cmd/internal/clusterview"
	"github.com/glotpod/ident/cmd/internal/web/admin"
	"github.com/glotpod/ident/cmd/internal/web/docs"
)

const (
	// requestTimeout bounds reading a request and writing its response, except for
	// events and profiles.
	requestTimeout = 10 * time.Second

	// maxConnections bounds the open connections, which use up file descriptors.
	maxConnections = 256
)

// A Server serves over HTTP.
type Server struct {
	http      *http.Server  // nil: it does not listen
	closed    chan struct{} // closed when http has stopped
	instance  atomic.Pointer[Instance]
	watcher   *clusterview.Watcher
	listeners chan struct{}  // has one element for each client of /events
	admin     *admin.Handler // nil: there are no actions
	log       *zap.Logger
}

// An Instance is what the probes report on.
type Instance interface {
	Ready() error   // nil while the instance is ready
	Started() error // nil since the instance has been ready once

	// Problems describes what is wrong although the instance may be ready.
	Problems() []string
}

// Options are the options of a [Server].
type Options struct {
	Address string // to listen on; "": do not listen
	SSLCert string // a PEM file; "": no TLS
	SSLKey  string // a PEM file, if SSLCert is set
	Pprof   bool   // serve profiles under /debug/pprof/

	// AdminToken returns the token of operators. nil: there are no actions.
	AdminToken func() (string, error)
	Operator   admin.Operator // carries actions out
	Metrics    *prometheus.Registry
	Watcher    *clusterview.Watcher // the server closes it
	Log        *zap.Logger
}

// Listen starts a server. Until [Server.SetInstance] is called, the probes report that
// the instance is starting.
func Listen(o Options) (*Server, error) {
	s := &Server{closed: make(chan struct{}), log: o.Log}
	if o.Address == "" {
		close(s.closed)
		return s, nil
	}
	listener, err := listen(o)
	if err != nil {
		return nil, err
	}
	s.watcher, s.listeners = o.Watcher, make(chan struct{}, maxListeners)
	if o.AdminToken != nil {
		s.admin = admin.New(admin.Options{Token: o.AdminToken, Keep: keepConn, Operator: o.Operator, Metrics: o.Metrics, Done: o.Watcher.Done(), Log: o.Log})
	}
	s.http = &http.Server{
		Handler:           s.routes(o.Metrics, o.Pprof),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       requestTimeout,
		WriteTimeout:      requestTimeout,
		IdleTimeout:       30 * time.Second,
		MaxHeaderBytes:    16 << 10,
		ConnContext:       withConn,
		ErrorLog:          log.New(serverLog{o.Log}, "", 0),
	}
	go func() {
		defer close(s.closed)
		if err := s.http.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			o.Log.Error("http", zap.Error(err))
		}
	}()
	o.Log.Info("http", zap.Stringer("listen", listener.Addr()), zap.Bool("tls", o.SSLCert != ""))
	return s, nil
}

// listen returns the listener of a server.
func listen(o Options) (net.Listener, error) {
	var secure *tls.Config
	if o.SSLCert != "" {
		c, err := newCertificate(o.SSLCert, o.SSLKey, o.Log)
		if err != nil {
			return nil, err
		}
		secure = c.config()
	}
	listener, err := net.Listen("tcp", o.Address)
	if err != nil {
		return nil, fmt.Errorf("http.listen: %w", err)
	}
	listener = &limitListener{Listener: listener, limit: maxConnections}
	if secure != nil {
		listener = tls.NewListener(listener, secure)
	}
	return listener, nil
}

// A serverLog logs the errors of the HTTP server. That a client does not complete the TLS
// handshake is logged at debug level: every port scan does so.
type serverLog struct{ log *zap.Logger }

func (l serverLog) Write(line []byte) (int, error) {
	level := zap.InfoLevel
	if bytes.HasPrefix(line, []byte("http: TLS handshake error")) {
		level = zap.DebugLevel
	}
	l.log.Log(level, string(bytes.TrimSpace(line)))
	return len(line), nil
}

// SetInstance sets the instance that the probes report on.
func (s *Server) SetInstance(i Instance) { s.instance.Store(&i) }

// Close stops the server. It waits up to a second for requests to finish.
func (s *Server) Close() {
	if s.http != nil {
		s.watcher.Close() // ends the requests for events
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if s.http.Shutdown(ctx) != nil {
			s.http.Close()
		}
	}
	<-s.closed
}

func (s *Server) routes(metrics *prometheus.Registry, withPprof bool) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", newPage(s.admin != nil))
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "ok\n") })
	mux.HandleFunc("GET /readyz", s.probe(Instance.Ready))
	mux.HandleFunc("GET /startupz", s.probe(Instance.Started))
	mux.Handle("GET /metrics", metricsHandler(metrics, s.log))
	mux.HandleFunc("GET /status.json", s.serveStatus)
	mux.HandleFunc("GET /users/{id}", s.serveUser)
	mux.HandleFunc("GET /events", s.serveEvents)
	documents := docs.New(pageFile("page.css"))
	mux.Handle("/docs", documents)
	mux.Handle("/docs/", documents)
	if s.admin != nil {
		mux.Handle("/admin/", s.admin)
	}
	if withPprof {
		mux.HandleFunc("GET /debug/pprof/", pprof.Index)
		mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
		mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
		mux.HandleFunc("GET /debug/pprof/profile", withoutTimeout(pprof.Profile))
		mux.HandleFunc("GET /debug/pprof/trace", withoutTimeout(pprof.Trace))
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		header := w.Header()
		header.Set("X-Content-Type-Options", "nosniff")
		header.Set("Cache-Control", "no-store")
		header.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
		mux.ServeHTTP(w, r)
	})
}

// probe serves a probe. check returns why it fails, nil if it succeeds; then the body has the
// problems.
func (s *Server) probe(check func(Instance) error) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		i := s.instance.Load()
		if i == nil {
			http.Error(w, "starting", http.StatusServiceUnavailable)
			return
		}
		if err := check(*i); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		io.WriteString(w, strings.Join(append([]string{"ok"}, (*i).Problems()...), "\n")+"\n")
	}
}

// withoutTimeout serves requests that take as long as the client asks for.
func withoutTimeout(serve http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		controller := http.NewResponseController(w)
		controller.SetReadDeadline(time.Time{}) // the deadline would cancel the request
		controller.SetWriteDeadline(time.Time{})
		serve(w, r)
	}
}
