package integration_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/cluster"
	"github.com/glotpod/ident/cluster/partition"
)

// TestSilentQueues has two instances over queues that take nothing in and confirm nothing.
func TestSilentQueues(t *testing.T) {
	t.Parallel()
	t.Run("a_partition_queue_costs_its_own_requests", testSilentPartition)
}

// testSilentPartition suspends the queue of one partition. An instance that has not
// forwarded to it before, or has, goes on to forward to the others.
func testSilentPartition(t *testing.T) {
	s := newSetup(t)
	first, _ := s.launch()
	s.options.Name, s.options.Store = "two", openStore(t, s.database)
	second, _ := s.launch()
	for _, instance := range []*cluster.Instance{first, second} {
		s.until("both instances are ready", func() bool { return instance.Ready() == nil })
	}
	caller := s.client()
	const users = 24
	var silent, healthy []int64
	for id := range int64(users) {
		s.commit(id + 1)
		if partition.Of(id+1, s.options.Partitions) == 0 {
			silent = append(silent, id+1)
		} else {
			healthy = append(healthy, id+1)
		}
	}
	forwarded := func() float64 {
		return value(t, first, "requests_forwarded_total") + value(t, second, "requests_forwarded_total")
	}
	for _, id := range healthy[:4] {
		s.patch(t.Context(), caller, id)
	}
	resume := s.vhost.SuspendQueue(t, cluster.PartitionQueue(0))
	before := forwarded()

	var stuck sync.WaitGroup
	var mu sync.Mutex
	refused := 0
	for n := range 60 {
		stuck.Go(func() {
			begun := time.Now()
			err := s.patch(t.Context(), caller, silent[n%len(silent)])
			if took := time.Since(begun); took > 15*time.Second {
				t.Errorf("a reply about the silent partition took %v", took)
			}
			if err != nil {
				mu.Lock()
				defer mu.Unlock()
				refused++
			}
		})
	}
	done := make(chan struct{})
	go func() { stuck.Wait(); close(done) }()
	for last := false; !last; { // while requests to the silent partition are overdue, too
		select {
		case <-done:
			last = true
		case <-time.After(200 * time.Millisecond):
		}
		var others sync.WaitGroup
		for _, id := range healthy {
			others.Go(func() {
				begun := time.Now()
				if err := s.patch(t.Context(), caller, id); err != nil {
					t.Errorf("another partition: %v after %v", err, time.Since(begun))
				}
			})
		}
		others.Wait()
	}
	for _, id := range silent {
		s.result(caller.Call(t.Context(), "get", "", pack(map[string]any{"user_id": id})))
	}
	if refused == 0 || forwarded()-before < 20 {
		t.Errorf("%d requests were refused, and %v forwarded", refused, forwarded()-before)
	}
	resume()
	s.until("the partition takes requests again", func() bool {
		for range 4 { // by both instances
			if s.patch(t.Context(), caller, silent[0]) != nil {
				return false
			}
		}
		return true
	})
}

// patch changes the name of a user, by the shared queue. It returns an error if the
// request is refused.
func (s *setup) patch(ctx context.Context, caller *caller, user int64) error {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	reply, err := caller.Call(ctx, "patch", "", pack(map[string]any{"user_id": user, "ops": []any{
		map[string]any{"op": "replace", "path": "/name", "value": fmt.Sprint(time.Now().UnixNano())}}}))
	if err != nil {
		s.t.Error(err)
		return err
	}
	if code := actor.ErrorCode(reply); code != "" {
		return errors.New(string(code))
	}
	return nil
}
