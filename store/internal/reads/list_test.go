package reads_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/cluster/ownership"
	"github.com/glotpod/ident/deploy/testservers"
	"github.com/glotpod/ident/store"
	"github.com/glotpod/ident/store/internal/storetest"
)

func TestMain(m *testing.M) { testservers.Main(m) }

// slowLists makes a list with a name take 200 ms for each user of another name. Lists are
// the only statements that call ident_words, apart from the index on names.
const slowLists = `CREATE SCHEMA slow;
	CREATE FUNCTION slow.ident_words(text) RETURNS tsvector LANGUAGE plpgsql VOLATILE AS
		$$ BEGIN PERFORM pg_sleep(0.2); RETURN public.ident_words($1); END $$;
	DO $$ BEGIN
		EXECUTE format('ALTER DATABASE %I SET search_path = slow, pg_catalog, public', current_database());
	END $$`

// TestManyLists: however many lists are asked for at once, and however slow they are, writes,
// look-ups and changes of leases do not wait for them.
func TestManyLists(t *testing.T) {
	const soon = 5 * time.Second // of the 25 s or more that all lists take
	for _, connections := range []int{10, 4} {
		t.Run(fmt.Sprint(connections, "_connections"), func(t *testing.T) {
			h := storetest.Start(t, func(o *store.Options) { o.MaxConnections = connections })
			id := h.CreateUser(1)
			h.Exec(slowLists)
			s := h.OpenStore() // its connections have the search path
			ctx, cancel := context.WithCancel(t.Context())
			var listing sync.WaitGroup
			defer listing.Wait()
			defer cancel()
			for range 256 {
				listing.Go(func() { s.List(ctx, &actor.Page{Size: 10, Name: "nobody"}) })
			}
			h.WaitUntil("SELECT count(*) > 0 FROM pg_stat_activity WHERE datname = current_database() AND query LIKE '%ident_words%' AND pid <> pg_backend_pid()")

			lease := h.Lease
			for round := range 3 {
				for what, do := range map[string]func() error{
					"commit": func() error { return h.RenameUser(s, h.Lease, id, fmt.Sprint("name ", round)) },
					"look_up": func() error {
						_, err := s.Find(t.Context(), &actor.Lookup{UserID: &id})
						return err
					},
					"claim": func() error {
						_, err := s.Claim(t.Context(), []ownership.Claim{{Partition: 1 + round, Attempt: 1, By: storetest.Member("test")}})
						return err
					},
					"hand_over": func() error {
						lease.Partition, lease.Epoch = 1+round, 1
						_, err := s.HandOver(t.Context(), []ownership.HandOver{{Lease: lease, To: storetest.Member("next")}})
						return err
					},
					"survey": func() error {
						_, err := s.Survey(t.Context())
						return err
					},
				} {
					begun := time.Now()
					if err := do(); err != nil || time.Since(begun) > soon {
						t.Errorf("%s: %v after %v", what, err, time.Since(begun))
					}
				}
			}
		})
	}
}
