package web

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

// scrape asks for the metrics in a bubble, and returns what is logged at info and above.
func scrape(ctx context.Context, metrics *prometheus.Registry, gone chan struct{}) []observer.LoggedEntry {
	core, logged := observer.New(zap.InfoLevel)
	h := &Server{log: zap.New(core)}
	request := httptest.NewRequestWithContext(ctx, http.MethodGet, "/metrics", nil)
	h.routes(metrics, false).ServeHTTP(httptest.NewRecorder(), request)
	close(gone)
	synctest.Wait()
	return logged.All()
}

func TestAScrapeWhoseReaderIsGoneIsNotLogged(t *testing.T) {
	for name, leave := range map[string]func(cancel func()){
		"it hangs up":   func(cancel func()) { cancel() },
		"it has waited": func(func()) {},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				gone := make(chan struct{})
				metrics := prometheus.NewRegistry()
				metrics.MustRegister(
					prometheus.NewGauge(prometheus.GaugeOpts{Name: "a"}),
					prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "b"}, func() float64 {
						leave(cancel)
						<-gone
						return 0
					}),
				)
				if logged := scrape(ctx, metrics, gone); len(logged) > 0 {
					t.Errorf("%+v", logged)
				}
			})
		})
	}
}

func TestAMetricThatCannotBeToldIsLogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		metrics := prometheus.NewRegistry()
		metrics.MustRegister(sour{prometheus.NewDesc("a", "", nil, nil)})
		if logged := scrape(t.Context(), metrics, make(chan struct{})); len(logged) != 1 || logged[0].Level != zap.WarnLevel {
			t.Errorf("%+v", logged)
		}
	})
}

// sour collects a metric that cannot be told.
type sour struct{ *prometheus.Desc }

func (s sour) Describe(to chan<- *prometheus.Desc) { to <- s.Desc }

func (s sour) Collect(to chan<- prometheus.Metric) {
	to <- prometheus.NewInvalidMetric(s.Desc, errors.New("sour"))
}
