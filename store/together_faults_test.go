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
)

// A contest is a round in which several users want the same requests to be theirs: under
// one identity, the first that comes is carried out, and the others are refused.
type contest struct {
	h     *harness
	round int

	mu      sync.Mutex // guards the following fields
	applied int
	by      map[string]string // who has which identity: the name that it gave
	last    map[int64]string  // the name of each user
}

// enter returns what commits writes to a user, in a random order, a third of them without
// identity.
func (c *contest) enter(s *store.Store, user int64, identities int) (commit func()) {
	t := c.h.t
	var writes []*actor.Write
	var ids, names []string
	for i, n := range rand.Perm(identities) {
		id, name := "", fmt.Sprintf("%d %d %d", c.round, user, i)
		if i%3 > 0 {
			id = fmt.Sprint(c.round, " ", n)
		}
		ids, names = append(ids, id), append(names, name)
		writes = append(writes, request(t, "patch", id, args{"user_id": user, "ops": replace("/name", name)}))
	}
	known := c.h.get(user)
	return func() { c.commit(s, user, known, writes, ids, names) }
}

func (c *contest) commit(s *store.Store, user int64, known *actor.User, writes []*actor.Write, ids, names []string) {
	t := c.h.t
	for len(writes) > 0 {
		writes[0].Cached = known
		outcomes, err := s.Commit(t.Context(), c.h.lease, writes)
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
				if other, taken := c.by[ids[i]]; taken && ids[i] != "" {
					t.Errorf("a request was carried out for %q and for %q", other, names[i])
				}
				c.by[ids[i]] = names[i]
			case o.Refusal.Code != actor.BadRequest || ids[i] == "":
				t.Errorf("%q was refused: %v", names[i], o.Refusal)
			}
		}
		c.mu.Unlock()
		n := len(outcomes)
		known, writes, ids, names = outcomes[n-1].After, writes[n:], ids[n:], names[n:]
	}
}

func TestRequestsOfManyUsersAreAppliedOnceThoughConnectionsBreak(t *testing.T) {
	h := start(t)
	type side struct {
		*store.Store
		*proxy
	}
	var sides []side
	for range 2 {
		s, p := h.throughProxy()
		sides = append(sides, side{s, p})
	}
	var users []int64
	for i := range 6 {
		users = append(users, h.create(i))
	}
	ctx, stop := context.WithCancel(t.Context())
	var cutting sync.WaitGroup
	cutting.Go(func() {
		for ctx.Err() == nil {
			select {
			case <-time.After(rand.N(200 * time.Millisecond)):
				sides[rand.IntN(2)].cut()
			case <-ctx.Done():
			}
		}
	})
	applied := 0
	for round := range 20 {
		c := &contest{h: h, round: round, by: make(map[string]string), last: make(map[int64]string)}
		var entered sync.WaitGroup
		for i, user := range users {
			entered.Go(c.enter(sides[i%2].Store, user, 20))
		}
		entered.Wait()
		for user, name := range c.last {
			if got := h.get(user).Name; got != name {
				t.Errorf("user %d is %q, want %q", user, got, name)
			}
		}
		applied += c.applied
	}
	stop()
	cutting.Wait()
	told := h.one("SELECT format('%s %s', count(*), count(DISTINCT body)) FROM ident_outbox WHERE routing_key LIKE '%.patch'")
	if want := fmt.Sprint(applied, " ", applied); told != want {
		t.Errorf("%s notifications in all and different, want %s", told, want)
	}
}
