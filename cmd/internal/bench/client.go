package bench

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/glotpod/ident/cluster/client"
)

// runClient is run by the Go client: a goroutine for each request in flight, over one
// connection. All requests are get, by the id of a user.
func (l *loadGenerator) runClient(ctx context.Context, w work, inFlight int, lasting time.Duration) (*loadResult, error) {
	whole := &loadResult{lasted: lasting}
	end := time.Now().Add(lasting)
	var mu sync.Mutex // guards whole
	group, ctx := errgroup.WithContext(ctx)
	for range inFlight {
		group.Go(func() error {
			one := new(loadResult)
			defer func() {
				mu.Lock()
				defer mu.Unlock()
				whole.merge(one)
			}()
			for now := time.Now(); now.Before(end) && ctx.Err() == nil; {
				r, more := w.next()
				if !more {
					return nil
				}
				id, err := strconv.ParseInt(r.user, 10, 64)
				if err != nil {
					return err
				}
				u, err := l.client.Get(ctx, client.Query{UserID: id})
				if err != nil {
					return fmt.Errorf("a request failed: %w", err)
				}
				if u.ID != id {
					return fmt.Errorf("the reply has the user %d instead of %d", u.ID, id)
				}
				sent := now
				now = time.Now()
				one.latencies.add(now.Sub(sent))
				if now.Before(end) {
					one.inTime++
				}
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	return whole, nil
}
