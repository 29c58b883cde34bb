package integration_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tinylib/msgp/msgp"
	"go.uber.org/zap"
)

// BenchmarkOverload measures how long the requests of a caller take while another caller sends far more
// than the service can carry out, and while one user gets far more requests than can be carried out for
// it. The measurements alternate with those without the load. The metrics are the 99th percentiles in
// milliseconds, and how many of the load's requests are carried out per second.
func BenchmarkOverload(b *testing.B) {
	s := newSetup(b)
	s.options.Log, s.options.Prefetch, s.options.QueueType = zap.NewNop(), 256, "classic"
	s.run()
	const users = 1000
	for id := range int64(users) {
		s.commit(id + 1)
	}
	var n atomic.Int64
	patch := func(user int64) []byte {
		body, _ := msgp.AppendMapStrIntf(nil, map[string]any{"user_id": user, "ops": []any{
			map[string]any{"op": "replace", "path": "/name", "value": fmt.Sprint("Ada ", n.Add(1))}}})
		return body
	}
	// Each load is the number of its requests under way, and the user of the next one.
	for _, load := range []struct {
		name     string
		underWay int
		user     func() int64
	}{
		{"flood/256", 256, func() int64 { return n.Add(1)%users + 1 }},
		{"flood/1000", 1000, func() int64 { return n.Add(1)%users + 1 }},
		{"hot_user/256", 256, func() int64 { return s.userIn(0) }},
	} {
		for _, inFlight := range []int{1, 8} {
			b.Run(fmt.Sprintf("%s/%d", load.name, inFlight), func(b *testing.B) {
				var alone, beside []time.Duration
				var carriedOut, elapsed float64
				flooder, caller := s.client(), s.client()
				for range max(3, b.N) {
					alone = append(alone, durations(b, caller, inFlight, 2*time.Second, func() []byte { return patch(n.Add(1)%users + 1) })...)
					ctx, stop := context.WithCancel(b.Context())
					var sent atomic.Int64
					var running sync.WaitGroup
					for range load.underWay {
						running.Go(func() {
							for ctx.Err() == nil {
								if _, err := flooder.Call(ctx, "patch", "", patch(load.user())); err == nil {
									sent.Add(1)
								}
							}
						})
					}
					begun := time.Now()
					durations(b, caller, inFlight, 2*time.Second, func() []byte { return patch(n.Add(1)%users + 1) }) // until the instance has room
					beside = append(beside, durations(b, caller, inFlight, 3*time.Second, func() []byte { return patch(n.Add(1)%users + 1) })...)
					carriedOut, elapsed = carriedOut+float64(sent.Load()), elapsed+time.Since(begun).Seconds()
					stop()
					running.Wait()
					caller.Call(b.Context(), "get", "", patch(1)) // waits until the queue is empty
				}
				p99 := func(all []time.Duration) float64 {
					slices.Sort(all)
					return all[len(all)*99/100].Seconds() * 1000
				}
				b.ReportMetric(p99(alone), "ms-alone")
				b.ReportMetric(p99(beside), "ms-beside")
				b.ReportMetric(carriedOut/elapsed, "load/s")
				b.ReportMetric(0, "ns/op")
			})
		}
	}
}

// durations sends requests for a time, and returns how long each took.
func durations(b *testing.B, c *caller, inFlight int, lasting time.Duration, body func() []byte) (all []time.Duration) {
	var mu sync.Mutex
	var running sync.WaitGroup
	for range inFlight {
		running.Go(func() {
			for end := time.Now().Add(lasting); time.Now().Before(end); {
				begun := time.Now()
				if _, err := c.Call(b.Context(), "patch", "", body()); err != nil {
					b.Error(err)
					return
				}
				mu.Lock()
				all = append(all, time.Since(begun))
				mu.Unlock()
			}
		})
	}
	running.Wait()
	return all
}
