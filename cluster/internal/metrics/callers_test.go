package metrics

import (
	"fmt"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

func TestCallers(t *testing.T) {
	m := New()
	var counting sync.WaitGroup
	for range 4 {
		counting.Go(func() {
			for i := range 2 * maxCallers {
				for _, login := range []string{"", fmt.Sprint("login-", i)} {
					m.Completed("get", WayShared, OutcomeOK, login, 0)
				}
			}
		})
	}
	counting.Wait()
	series := make(chan prometheus.Metric, 4*maxCallers)
	m.callers.counts.Collect(series)
	if len(series) != maxCallers+2 {
		t.Errorf("there are %d series", len(series))
	}
	m.Completed("get", WayShared, OutcomeForwarded, "", 0) // counts where it is carried out
	for login, want := range map[string]int64{"": 8 * maxCallers, CallerOther: 4 * maxCallers} {
		if got := Count(m.callers.counts.WithLabelValues(login)); got != want {
			t.Errorf("%q has %v requests, want %v", login, got, want)
		}
	}
}
