package store_test

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/cluster/ownership"
	"github.com/glotpod/ident/cluster/partition"
	"github.com/glotpod/ident/deploy/localserver"
	"github.com/glotpod/ident/deploy/testservers"
	"github.com/glotpod/ident/store"
	"github.com/glotpod/ident/store/internal/storetest"
)

func TestPrepareConnections(t *testing.T) {
	t.Run("take_over_plans_nothing", testPrepareConnectionsTakeOverPlansNothing)
}

func testPrepareConnectionsTakeOverPlansNothing(t *testing.T) {
	h := storetest.Start(t)
	id := h.CreateUser(1)
	h.ReleaseLeases(h.Lease)
	s := h.OpenStore()
	const content = `SELECT concat((SELECT array_agg(u) FROM users u), (SELECT array_agg(l) FROM ident_log l), (SELECT array_agg(b) FROM ident_held_back b),
		(SELECT array_agg(s) FROM ident_sealed s), (SELECT array_agg(p) FROM ident_partitions p))`
	was := h.Value(content)
	s.PrepareConnections(t.Context())
	if is := h.Value(content); is != was {
		t.Errorf("the preparation has changed the database:\n%v\n%v", was, is)
	}
	before, err := store.Planned(t.Context(), s)
	if err != nil || len(before) < 4 || slices.Min(before) < 20 {
		t.Fatalf("planned on each connection: %v, %v", before, err)
	}

	events, err := s.Claim(t.Context(), []ownership.Claim{{Partition: 0, By: storetest.Member("next")}})
	if err != nil {
		t.Fatal(err)
	}
	lease := partition.Lease{Partition: 0, Epoch: events[0].(ownership.Claimed).Epoch, Holder: storetest.Member("next")}
	held, backlog, err := storetest.TakeOver(t.Context(), s, storetest.Member("next"), []partition.Lease{lease})
	if err != nil || len(held) != 1 || len(backlog) != 1 {
		t.Fatalf("held: %v, left: %v, %v", held, backlog, err)
	}
	left := storetest.StoredNotifications(t, s, 0)
	if len(left) != 1 {
		t.Fatalf("left: %v", left)
	}
	storetest.Confirm(s, left[0].Key())
	for _, message := range []string{"read", "cached"} {
		found, err := s.Find(t.Context(), &actor.Lookup{UserID: &id})
		if err != nil || found == nil {
			t.Fatalf("user %d: %v, %v", id, found, err)
		}
		w := storetest.Request(t, "patch", message, storetest.Args{"user_id": id, "ops": storetest.Replace("/name", message)})
		if message == "cached" {
			w.Cached = found
		}
		if o, err := storetest.Commit(t.Context(), s, lease, w); err != nil || !o.Applied {
			t.Fatalf("patch of a user %s: %+v, %v", message, o, err)
		}
	}
	for _, to := range []ownership.Member{storetest.Member("third"), {}} {
		answers, err := s.HandOver(t.Context(), []ownership.HandOver{{Lease: lease, To: to}})
		if err != nil || answers[0].To != to {
			t.Fatal(answers, err)
		}
		lease.Epoch, lease.Holder = lease.Epoch+1, to
	}
	after, err := store.Planned(t.Context(), s)
	if err != nil || !slices.Equal(slices.Sorted(slices.Values(after)), slices.Sorted(slices.Values(before))) {
		t.Errorf("planned on each connection: %v, %v; before: %v", after, err, before)
	}
}

// runbookSQL returns the blocks of SQL in the lists under a heading of the runbook.
func runbookSQL(t *testing.T, heading string) (blocks []string) {
	t.Helper()
	text, err := os.ReadFile("../deploy/guide/runbook.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(text), "\n### "+heading+"\n")
	section, _, _ = strings.Cut(section, "\n### ")
	within := false
	for line := range strings.Lines(section) {
		sql, is := strings.CutPrefix(line, "      ")
		switch {
		case is && within:
			blocks[len(blocks)-1] += sql
		case is:
			blocks = append(blocks, sql)
		}
		within = is
	}
	return blocks
}

func TestRunbook(t *testing.T) {
	t.Run("ownership", testRunbookOwnership)
}

func testRunbookOwnership(t *testing.T) {
	server := testservers.OwnPostgres(t, localserver.PostgresOptions{})
	sql := runbookSQL(t, "IdentLogUntended")
	if len(sql) != 1 {
		t.Fatalf("the runbook has %q", sql)
	}
	root := &storetest.Harness{T: t, DB: storetest.Connect(t, server.URL("postgres"))}
	root.Exec("CREATE ROLE migrating LOGIN PASSWORD 'migrating'")
	root.Exec(`CREATE ROLE "glotpod.ident" LOGIN PASSWORD 'instances'`)
	for name, migrating := range map[string]string{"another": "migrating", "the server's first": server.User} {
		t.Run(name, func(t *testing.T) { testRunbookGivesTheTables(t, server, migrating, sql[0]) })
	}
}

func testRunbookGivesTheTables(t *testing.T, server *localserver.Postgres, migrating, give string) {
	database := "of " + migrating
	root := &storetest.Harness{T: t, DB: storetest.Connect(t, server.URL("postgres"))}
	root.Exec(`CREATE DATABASE "` + database + `"`)
	h := &storetest.Harness{T: t, DB: storetest.Connect(t, server.URL(database))}
	h.Exec("GRANT CREATE ON SCHEMA public TO migrating")
	h.Exec("SET ROLE " + migrating)
	storetest.Migrate(t, h.DB)
	h.Exec("SELECT ident_log_day((now() AT TIME ZONE 'UTC')::date - 400)")
	h.Exec("CREATE TABLE ident_of_others ()")
	h.Exec("CREATE FUNCTION ident_of_others() RETURNS int LANGUAGE sql RETURN 1")
	h.Exec(`GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO "glotpod.ident"`)
	h.Exec(`GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO "glotpod.ident"`)
	h.Exec("RESET ROLE")

	h.Options = storetest.Options(t, &testservers.Database{Host: server.Host, Port: server.Port, User: "glotpod.ident", Password: "instances", Name: database})
	h.Store = h.OpenStore()
	h.Agree(4)
	h.Lease = h.ClaimPartition(0, 0)
	if err := h.MaintainLog(t.Context()); err == nil {
		t.Fatal("a user that does not own the tables can maintain them")
	}
	h.Exec(give)
	if got := h.Value(`SELECT string_agg(kind || ' ' || name, ', ' ORDER BY kind) FROM (
			SELECT 'relation', relname, relowner FROM pg_class WHERE relnamespace = 'public'::regnamespace
			UNION ALL SELECT 'routine', proname, proowner FROM pg_proc WHERE pronamespace = 'public'::regnamespace
			UNION ALL SELECT 'type', typname, typowner FROM pg_type WHERE typnamespace = 'public'::regnamespace AND typtype = 'e'
		) AS has (kind, name, owner) WHERE owner <> '"glotpod.ident"'::regrole`); got != "relation ident_of_others, routine ident_of_others" {
		t.Errorf("not given to the user: %v", got)
	}
	if err := h.MaintainLog(t.Context()); err != nil {
		t.Error(err)
	}
	if h.Value("SELECT "+storetest.LogDay+" IS NULL", -400) != true {
		t.Error("the old day is still there")
	}

	instances, err := store.Connect(t.Context(), h.Options)
	if err != nil {
		t.Fatal(err)
	}
	defer instances.Close(t.Context())
	storetest.Migrate(t, instances)
	h.CreateUser(1)
	if n := h.Value("SELECT count(*) FROM ident_log"); n != int64(1) {
		t.Errorf("%v rows, want the one of today", n)
	}
}
