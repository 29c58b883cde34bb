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

// scrape scrapes the metrics in a synctest bubble and returns the log entries of level
// info and above. It closes scraped when the scrape has returned.
func scrape(ctx context.Context, metrics *prometheus.Registry, scraped chan struct{}) []observer.LoggedEntry {
	core, logged := observer.New(zap.InfoLevel)
	s := &Server{log: zap.New(core)}
	request := httptest.NewRequestWithContext(ctx, http.MethodGet, "/metrics", nil)
	s.routes(metrics, false).ServeHTTP(httptest.NewRecorder(), request)
	close(scraped)
	synctest.Wait()
	return logged.All()
}

func TestScrapeLog(t *testing.T) {
	for name, leave := range map[string]func(cancel func()){
		"client left": func(cancel func()) { cancel() },
		"timeout":     func(func()) {},
	} {
		t.Run(name+"/not logged", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				scraped := make(chan struct{})
				metrics := prometheus.NewRegistry()
				metrics.MustRegister(
					prometheus.NewGauge(prometheus.GaugeOpts{Name: "a"}),
					prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "b"}, func() float64 {
						leave(cancel)
						<-scraped
						return 0
					}),
				)
				if logged := scrape(ctx, metrics, scraped); len(logged) > 0 {
					t.Errorf("%+v", logged)
				}
			})
		})
	}
	t.Run("broken metric/logged", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			metrics := prometheus.NewRegistry()
			metrics.MustRegister(brokenMetric{prometheus.NewDesc("a", "", nil, nil)})
			if logged := scrape(t.Context(), metrics, make(chan struct{})); len(logged) != 1 || logged[0].Level != zap.WarnLevel {
				t.Errorf("%+v", logged)
			}
		})
	})
}

// A brokenMetric cannot be collected.
type brokenMetric struct{ desc *prometheus.Desc }

func (m brokenMetric) Describe(descs chan<- *prometheus.Desc) { descs <- m.desc }

func (m brokenMetric) Collect(metrics chan<- prometheus.Metric) {
	metrics <- prometheus.NewInvalidMetric(m.desc, errors.New("broken"))
}
