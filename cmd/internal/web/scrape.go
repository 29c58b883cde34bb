package web

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.uber.org/zap"
)

// maxScrapes bounds the scrapes that run at the same time.
const maxScrapes = 4

func metricsHandler(metrics *prometheus.Registry, log *zap.Logger) http.Handler {
	return promhttp.HandlerFor(metrics, promhttp.HandlerOpts{
		ErrorLog:            scrapeLog{log},
		ErrorHandling:       promhttp.ContinueOnError,
		MaxRequestsInFlight: maxScrapes,
		Timeout:             requestTimeout - time.Second,
		EnableOpenMetrics:   true,
	})
}

// A scrapeLog logs the errors of promhttp. If the client of a scrape has left or the
// scrape has timed out, promhttp reports an error for each metric; these errors are
// logged at debug level.
type scrapeLog struct{ log *zap.Logger }

func (l scrapeLog) Println(args ...any) {
	level := zap.WarnLevel
	for _, arg := range args {
		err, _ := arg.(error)
		if errors.Is(err, context.Canceled) || errors.Is(err, http.ErrHandlerTimeout) {
			level = zap.DebugLevel
		}
	}
	l.log.Log(level, "metrics", zap.String("error", strings.TrimSpace(fmt.Sprintln(args...))))
}
