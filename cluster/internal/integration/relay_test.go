package integration_test

import (
	"fmt"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/cluster"
)

const (
	relayUsers = 30
	asksForAll = "glotpod_ident_asks_for_all_requests"
)

// TestRelay has two instances serve writes that come by the shared queue.
func TestRelay(t *testing.T) {
	t.Parallel()
	s := newSetup(t)
	one, _ := s.runInstance()
	s.options.Name, s.options.Store = "two", openStore(t, s.database)
	two, stop := s.runInstance()
	for id := range int64(relayUsers) {
		s.commit(id + 1)
	}
	caller := s.client()

	t.Run("writes_for_the_other_instance_are_relayed_to_it", func(t *testing.T) {
		s.until("a hundred writes are relayed", func() bool {
			s.patchMany(caller, 10)
			return s.sum(one, "glotpod_ident_relayed_requests")+s.sum(two, "glotpod_ident_relayed_requests") > 100
		})
	})

	t.Run("one_instance_gets_all_requests_under_load", func(t *testing.T) {
		s.until("one instance asks for all", func() bool {
			s.patchMany(caller, 10)
			return s.sum(one, asksForAll)+s.sum(two, asksForAll) == 1
		})
		s.until("both ask for their share", func() bool { return s.sum(one, asksForAll)+s.sum(two, asksForAll) == 0 })
	})

	t.Run("each_write_takes_effect_once_and_in_order_while_the_other_instance_ends", func(t *testing.T) {
		before := s.one("SELECT sum(sequence)::bigint FROM users").(int64)
		var patching sync.WaitGroup
		patching.Go(func() { s.patchMany(caller, 100) })
		if err := stop(); err != nil {
			t.Error(err)
		}
		patching.Wait()
		if got, want := s.one("SELECT sum(sequence)::bigint FROM users").(int64)-before, int64(100*relayUsers); got != want {
			t.Errorf("there were %d changes, want %d", got, want)
		}
		if n := s.one("SELECT count(*) FROM users WHERE name <> 'name 99'"); n != int64(0) {
			t.Errorf("%v users do not have the name of the last write", n)
		}
	})
}

// patchMany patches all users n times, each user's patches one after another.
func (s *setup) patchMany(caller *caller, n int) {
	s.t.Helper()
	var patching sync.WaitGroup
	for id := range relayUsers {
		patching.Go(func() {
			for i := range n {
				reply, err := caller.Call(s.t.Context(), "patch", "", pack(map[string]any{"user_id": id + 1, "ops": []any{
					map[string]any{"op": "replace", "path": "/name", "value": fmt.Sprint("name ", i)}}}))
				if code := actor.ErrorCode(reply); err != nil || code != "" {
					s.t.Error(code, err)
					return
				}
			}
		})
	}
	patching.Wait()
}

// sum returns the value of a metric of an instance, or the sum of a histogram.
func (s *setup) sum(i *cluster.Instance, metric string) (sum float64) {
	s.t.Helper()
	registry := prometheus.NewRegistry()
	registry.MustRegister(i)
	families, err := registry.Gather()
	if err != nil {
		s.t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == metric {
			for _, m := range f.GetMetric() {
				sum += m.GetGauge().GetValue() + m.GetCounter().GetValue() + m.GetHistogram().GetSampleSum()
			}
		}
	}
	return sum
}
