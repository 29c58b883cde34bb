package store_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/store"
	"github.com/glotpod/ident/store/internal/storetest"
)

// A contest is a round in which writes to several users have the same request ids. The
// first write with a request id is applied, and the others are refused.
type contest struct {
	h     *storetest.Harness
	round int

	mu      sync.Mutex // guards the following fields
	applied int
	names   map[string]string // the name that was applied with each request id
	last    map[int64]string  // the name of each user
}

// enter returns a function that commits writes to a user, in a random order. A third of them
// have no request id.
func (c *contest) enter(s *store.Store, user int64, requests int) (commit func()) {
	t := c.h.T
	var writes []*actor.Write
	var ids, names []string
	for i, n := range rand.Perm(requests) {
		id, name := "", fmt.Sprintf("%d %d %d", c.round, user, i)
		if i%3 > 0 {
			id = fmt.Sprint(c.round, " ", n)
		}
		ids, names = append(ids, id), append(names, name)
		writes = append(writes, storetest.Request(t, "patch", id, storetest.Args{"user_id": user, "ops": storetest.Replace("/name", name)}))
	}
	cached := c.h.User(user)
	return func() { c.commit(s, user, cached, writes, ids, names) }
}

func (c *contest) commit(s *store.Store, user int64, cached *actor.User, writes []*actor.Write, ids, names []string) {
	t := c.h.T
	for len(writes) > 0 {
		writes[0].Cached = cached
		outcomes, err := s.Commit(t.Context(), c.h.Lease, writes)
		if err != nil {
			t.Error(err)
			return
		}
		c.mu.Lock()
		for i, o := range outcomes {
			switch {
			case o.Refusal == nil:
				c.applied++
				c.last[user] = names[i]
				if other, taken := c.names[ids[i]]; taken && ids[i] != "" {
					t.Errorf("a request was applied for %q and for %q", other, names[i])
				}
				c.names[ids[i]] = names[i]
			case o.Refusal.Code != actor.BadRequest || ids[i] == "":
				t.Errorf("%q was refused: %v", names[i], o.Refusal)
			}
		}
		c.mu.Unlock()
		n := len(outcomes)
		cached, writes, ids, names = outcomes[n-1].After, writes[n:], ids[n:], names[n:]
	}
}

// TestReplays: requests of many users are applied once, though connections break.
func TestReplays(t *testing.T) {
	h := storetest.Start(t)
	type side struct {
		*store.Store
		*storetest.Proxy
	}
	var sides []side
	for range 2 {
		s, p := h.OpenThroughProxy()
		sides = append(sides, side{s, p})
	}
	var users []int64
	for i := range 6 {
		users = append(users, h.CreateUser(i))
	}
	ctx, stop := context.WithCancel(t.Context())
	var cutting sync.WaitGroup
	cutting.Go(func() {
		for ctx.Err() == nil {
			select {
			case <-time.After(rand.N(200 * time.Millisecond)):
				sides[rand.IntN(2)].Cut()
			case <-ctx.Done():
			}
		}
	})
	applied := 0
	rounds := 7
	if storetest.Long {
		rounds = 20
	}
	for round := range rounds {
		c := &contest{h: h, round: round, names: make(map[string]string), last: make(map[int64]string)}
		var entered sync.WaitGroup
		for i, user := range users {
			entered.Go(c.enter(sides[i%2].Store, user, 20))
		}
		entered.Wait()
		for user, name := range c.last {
			if got := h.User(user).Name; got != name {
				t.Errorf("user %d is %q, want %q", user, got, name)
			}
		}
		applied += c.applied
	}
	stop()
	cutting.Wait()
	sent := h.Value("SELECT format('%s %s', count(*), count(DISTINCT change::text)) FROM ident_log WHERE operation = 'patch'")
	if want := fmt.Sprint(applied, " ", applied); sent != want {
		t.Errorf("%s notifications in all and different, want %s", sent, want)
	}
}
