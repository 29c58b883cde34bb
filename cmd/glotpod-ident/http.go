package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
)

// A healthServer says over HTTP whether the process works (/livez) and whether
// it serves (/readyz).
type healthServer struct {
	http  *http.Server
	ended chan struct{}
	ready atomic.Pointer[func() error]
}

// listenHTTP serves at an address, or nowhere where it is "".
func listenHTTP(address string, log *zap.Logger) (*healthServer, error) {
	h := &healthServer{ended: make(chan struct{})}
	if address == "" {
		close(h.ended)
		return h, nil
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("http.listen: %w", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", h.serveReady)
	h.http = &http.Server{
		Handler:           mux,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      10 * time.Second,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          zap.NewStdLog(log),
	}
	go func() {
		defer close(h.ended)
		if err := h.http.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			log.Error("http", zap.Error(err))
		}
	}()
	log.Info("http", zap.Stringer("listen", listener.Addr()))
	return h, nil
}

// readyWhen says what decides whether the process is ready. Before, it is not.
func (h *healthServer) readyWhen(ready func() error) { h.ready.Store(&ready) }

func (h *healthServer) serveReady(w http.ResponseWriter, _ *http.Request) {
	err := errors.New("starting")
	if ready := h.ready.Load(); ready != nil {
		err = (*ready)()
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	fmt.Fprintln(w, "ok")
}

func (h *healthServer) close() {
	if h.http != nil {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if h.http.Shutdown(ctx) != nil {
			h.http.Close()
		}
	}
	<-h.ended
}
