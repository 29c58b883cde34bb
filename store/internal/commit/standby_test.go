package commit_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/cluster/ownership"
	"github.com/glotpod/ident/cluster/partition"
	"github.com/glotpod/ident/deploy/localserver"
	"github.com/glotpod/ident/deploy/testservers"
	"github.com/glotpod/ident/store"
	"github.com/glotpod/ident/store/internal/storetest"
)

// An awayStandby is a synchronous standby that is not connected: no commit returns before
// its wait is cancelled.
type awayStandby struct {
	h *storetest.Harness

	mu       sync.Mutex      // guards the following field
	answered map[string]bool // which operations have returned success
	running  sync.WaitGroup  // of operations
}

const waitsForStandby = "FROM pg_stat_activity WHERE wait_event = 'SyncRep'"

// startAwayStandby makes the standby that all commits wait for.
func startAwayStandby(h *storetest.Harness) *awayStandby {
	h.T.Helper()
	h.Exec("ALTER SYSTEM SET synchronous_standby_names = 'away'")
	h.Exec("SELECT pg_reload_conf()")
	a := &awayStandby{h: h, answered: make(map[string]bool)}
	for waits := false; !waits; { // until the server waits for the standby
		ctx, cancel := context.WithTimeout(h.T.Context(), 100*time.Millisecond)
		_, err := h.Connect(h.T).Exec(ctx, "SELECT pg_logical_emit_message(true, 'test'::text, ''::text)")
		waits = err != nil
		cancel()
	}
	return a
}

// begin repeats an operation until it returns success.
func (a *awayStandby) begin(name string, do func(ctx context.Context) error) {
	a.running.Go(func() {
		for a.h.T.Context().Err() == nil {
			if err := do(a.h.T.Context()); err == nil {
				a.mu.Lock()
				a.answered[name] = true
				a.mu.Unlock()
				return
			}
		}
	})
}

// names returns the operations that have returned success.
func (a *awayStandby) names() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	var names []string
	for name := range a.answered {
		names = append(names, name)
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}

// endWaits ends waits for the standby with pg_terminate_backend or pg_cancel_backend until
// a query selects true. What waited stays committed.
func (a *awayStandby) endWaits(by, until string, args ...any) {
	a.h.T.Helper()
	for begun := time.Now(); a.h.Value(until, args...) != true; {
		a.h.Exec("SELECT " + by + "(pid) " + waitsForStandby)
		if time.Since(begun) > time.Minute {
			a.h.T.Fatalf("never true: %s", until)
		}
	}
}

// comeBack makes the server wait for no standby.
func (a *awayStandby) comeBack() {
	a.h.T.Helper()
	ctx := context.Background() // this may be a cleanup
	for _, sql := range []string{"ALTER SYSTEM RESET synchronous_standby_names", "SELECT pg_reload_conf()"} {
		if _, err := a.h.DB.Exec(ctx, sql); err != nil {
			a.h.T.Errorf("%s: %v", sql, err)
		}
	}
	a.running.Wait()
}

// TestSynchronousStandby: while the synchronous standby is away, a commit whose wait is
// cancelled stays in the primary. No operation returns success because it finds that
// there.
func TestSynchronousStandby(t *testing.T) {
	server := testservers.OwnPostgres(t, localserver.PostgresOptions{})
	for _, by := range []string{"pg_terminate_backend", "pg_cancel_backend"} {
		t.Run(by, func(t *testing.T) { testSynchronousStandby(t, server, by) })
	}
}

func testSynchronousStandby(t *testing.T, server *localserver.Postgres, by string) {
	h := storetest.StartOnServer(t, server, "of_"+by)
	other := h.OpenStore()
	id := h.CreateUser(1)
	cached := h.User(id)
	handedOver := h.ClaimPartition(1, 0)
	h.ReleaseLeases(h.ClaimPartition(2, 0))

	a := startAwayStandby(h)
	t.Cleanup(a.comeBack)
	commit := func(s *store.Store, w actor.Write, want string) func(context.Context) error {
		return func(ctx context.Context) error {
			w := w
			o, err := storetest.Commit(ctx, s, h.Lease, &w)
			if got := fmt.Sprint(o.UserID, o.Refusal); err == nil && !strings.HasPrefix(got, want) {
				t.Errorf("outcome %s, want %s", got, want)
			}
			return err
		}
	}
	patch := *storetest.Request(t, "patch", "m1", storetest.Args{"user_id": id, "ops": storetest.Replace("/name", "second")})
	refused := *storetest.Request(t, "patch", "m2", storetest.Args{"user_id": 999, "ops": []any{}})
	applied, notFound := fmt.Sprint(id), "0 "+string(actor.NotFound)

	patchCached := patch
	patchCached.Cached = cached
	a.begin("write", commit(h.Store, patchCached, applied))
	a.endWaits(by, "SELECT name = 'second' FROM users WHERE id = $1", id)
	a.begin("refusal", commit(other, refused, notFound))
	a.endWaits(by, "SELECT count(*) = 3 FROM ident_log")
	claim := ownership.Claim{Partition: 2, By: storetest.Member("test")}
	a.begin("claim", func(ctx context.Context) error {
		events, err := h.Claim(ctx, []ownership.Claim{claim})
		if err == nil {
			if e, ok := events[0].(ownership.ClaimRefused); ok {
				claim.Depose = e.Row.Epoch // as the ownership core does with a lease of its own
				return actor.ErrFenced
			}
		}
		return err
	})
	a.endWaits(by, "SELECT NOT released FROM ident_partitions WHERE partition = 2")
	grant := ownership.HandOver{Lease: handedOver, To: storetest.Member("next")}
	a.begin("hand-over", func(ctx context.Context) error {
		results, err := h.HandOver(ctx, []ownership.HandOver{grant})
		if err == nil && results[0].To != grant.To {
			t.Errorf("handed over to %v", results[0].To)
		}
		return err
	})
	a.endWaits(by, "SELECT holder = 'next' FROM ident_partitions WHERE partition = 1")

	// All of these find what is committed in the primary alone.
	a.begin("replay", commit(other, patch, applied))
	a.begin("replay of a refusal", commit(h.Store, refused, notFound))
	granted := []partition.Lease{{Partition: 1, Epoch: handedOver.Epoch + 1, Holder: grant.To}}
	a.begin("take-over", func(ctx context.Context) error {
		held, _, err := storetest.TakeOver(ctx, other, grant.To, granted)
		if err == nil && !slices.Equal(held, granted) {
			t.Errorf("taken over: %+v", held)
		}
		return err
	})
	for range 3 {
		for a.names() == "" && h.Value("SELECT count(*) < 4 "+waitsForStandby) == true {
			h.Exec("SELECT pg_sleep(0.01)")
		}
		h.Exec("SELECT " + by + "(pid) " + waitsForStandby)
	}
	if names := a.names(); names != "" {
		t.Errorf("returned success while the standby was away: %s", names)
	}
	if u := h.User(id); u.Name != "second" {
		t.Errorf("a read finds %+v", u)
	}
	a.comeBack()
	if names := a.names(); names != "claim, hand-over, refusal, replay, replay of a refusal, take-over, write" {
		t.Errorf("returned success when the standby was back: %s", names)
	}
	if n := h.Value("SELECT count(*) FROM ident_log WHERE position IS NOT NULL"); n != int64(2) {
		t.Errorf("%v changes are on record, want 2", n)
	}
}
