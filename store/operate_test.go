package store_test

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/cluster/ownership"
	"github.com/glotpod/ident/cluster/partition"
	"github.com/glotpod/ident/deploy/localserver"
	"github.com/glotpod/ident/deploy/testservers"
	"github.com/glotpod/ident/store"
)

func TestPrepareConnections(t *testing.T) {
	t.Run("take_over_plans_nothing", testPrepareConnectionsTakeOverPlansNothing)
}

func testPrepareConnectionsTakeOverPlansNothing(t *testing.T) {
	h := start(t)
	id := h.create(1)
	h.release(h.lease)
	s := h.open()
	const content = `SELECT concat((SELECT array_agg(u) FROM users u), (SELECT array_agg(r) FROM ident_requests r), (SELECT array_agg(o) FROM ident_outbox o),
		(SELECT array_agg(a) FROM ident_audit a), (SELECT array_agg(p) FROM ident_partitions p))`
	was := h.one(content)
	s.PrepareConnections(t.Context())
	if is := h.one(content); is != was {
		t.Errorf("the preparation has changed the database:\n%v\n%v", was, is)
	}
	before, err := store.Planned(t.Context(), s)
	if err != nil || len(before) < 4 || slices.Min(before) < 20 {
		t.Fatalf("planned on each connection: %v, %v", before, err)
	}

	events, err := s.Claim(t.Context(), []ownership.Claim{{Partition: 0, By: member("next")}})
	if err != nil {
		t.Fatal(err)
	}
	lease := partition.Lease{Partition: 0, Epoch: events[0].(ownership.Claimed).Epoch}
	held, left, err := s.TakeOver(t.Context(), member("next"), []partition.Lease{lease}, 10)
	if err != nil || len(held) != 1 || len(left) != 1 {
		t.Fatalf("held: %v, left: %v, %v", held, left, err)
	}
	if more, err := s.PendingNotifications(t.Context(), []int{0}, left[0].ID, 0, 10); err != nil || len(more) > 0 {
		t.Fatalf("left: %v, %v", more, err)
	}
	s.ConfirmNotifications(left[0].ID)
	for _, message := range []string{"read", "cached"} {
		found, err := s.Find(t.Context(), &actor.Lookup{UserID: &id})
		if err != nil || found == nil {
			t.Fatalf("user %d: %v, %v", id, found, err)
		}
		w := request(t, "patch", message, args{"user_id": id, "ops": replace("/name", message)})
		if message == "cached" {
			w.Cached = found
		}
		if o, err := commit(t.Context(), s, lease, w); err != nil || !o.Applied {
			t.Fatalf("patch of a user %s: %+v, %v", message, o, err)
		}
	}
	for _, to := range []ownership.Member{member("third"), {}} {
		answers, err := s.HandOver(t.Context(), []ownership.HandOver{{Partition: 0, Epoch: lease.Epoch, To: to}})
		if err != nil || answers[0].To != to {
			t.Fatal(answers, err)
		}
		lease.Epoch++
	}
	after, err := store.Planned(t.Context(), s)
	if err != nil || !slices.Equal(slices.Sorted(slices.Values(after)), slices.Sorted(slices.Values(before))) {
		t.Errorf("planned on each connection: %v, %v; before: %v", after, err, before)
	}
}

// checkKeyring returns the log of CheckKeyring.
func (h *harness) checkKeyring(ctx context.Context, keys ...[32]byte) []observer.LoggedEntry {
	h.t.Helper()
	core, logs := observer.New(zap.DebugLevel)
	h.opts.Log = zap.New(core)
	h.with(keys...).CheckKeyring(ctx)
	return logs.All()
}

func TestCheckKeyring(t *testing.T) {
	t.Run("logs_lost_and_later_keys", testCheckKeyringLogsLostAndLaterKeys)
	t.Run("sample_is_small_with_both_ends", testCheckKeyringSampleIsSmallWithBothEnds)
	t.Run("blocked_check_gives_up", testCheckKeyringBlockedCheckGivesUp)
}

func testCheckKeyringLogsLostAndLaterKeys(t *testing.T) {
	h, ids := startStale(t, 12)
	for name, c := range map[string]struct {
		keys [][32]byte
		want string
	}{
		"all keys are there":       {[][32]byte{oldKey, newKey}, ""},
		"one is not the first":     {[][32]byte{newKey, oldKey}, "info map[sampled:24 stale:24]"},
		"one is lost":              {[][32]byte{newKey}, fmt.Sprintf("error map[sampled:24 unreadable:24 user_ids:%v]", ids[:10])},
		"one is lost, one is late": {[][32]byte{lostKey, newKey}, fmt.Sprintf("error map[sampled:24 unreadable:24 user_ids:%v]", ids[:10])},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, entry := range h.checkKeyring(t.Context(), c.keys...) {
				got = append(got, fmt.Sprint(entry.Level, " ", entry.ContextMap()))
			}
			if strings.Join(got, "\n") != c.want {
				t.Errorf("logged %q, want %q", got, c.want)
			}
		})
	}
	h.rekey(store.RekeyOptions{})
	if logged := h.checkKeyring(t.Context(), newKey); len(logged) != 0 {
		t.Errorf("after rekey, logged %v", logged)
	}
}

func testCheckKeyringSampleIsSmallWithBothEnds(t *testing.T) {
	h := start(t)
	h.exec("INSERT INTO users (id, name, email_address) SELECT n, '', n FROM generate_series(1, 20000) AS n")
	// One service has few accounts. The ids of the other one are in two clusters.
	h.exec("INSERT INTO services (user_id, sv_id, sv_name, access_token) SELECT n, n, 'gh', 'none' FROM generate_series(1, 20000) AS n WHERE n NOT BETWEEN 5000 AND 19000")
	h.exec("INSERT INTO services (user_id, sv_id, sv_name, access_token) SELECT n, n, 'fb', 'none' FROM generate_series(15000, 15001) AS n")
	h.exec("INSERT INTO services (user_id, sv_id, sv_name, access_token) VALUES (15002, 15002, 'fb', convert_to(repeat('large', 10000), 'utf8'))")
	before := h.one(seqScans)
	logged := h.checkKeyring(t.Context(), newKey)
	if len(logged) != 1 {
		t.Fatalf("logged %v", logged)
	}
	fields := logged[0].ContextMap()
	if n := fields["sampled"].(int64); n != fields["unreadable"] || n < 67 || n > 200 {
		t.Errorf("sampled %v", fields)
	}
	if after := h.one(seqScans); after != before {
		t.Error("a whole table was read")
	}
	sampled, err := store.SampledTokens(t.Context(), h.Store)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"gh 1", "gh 20000", "fb 15000", "fb 15001"} {
		if !slices.Contains(sampled, want) {
			t.Errorf("%s is not in the sample", want)
		}
	}
	if slices.Contains(sampled, "fb 15002") {
		t.Error("a large token was read")
	}
}

func testCheckKeyringBlockedCheckGivesUp(t *testing.T) {
	h, _ := startStale(t, 1)
	foreign := begin(t, connect(t, h.db.Config().ConnString()))
	if _, err := foreign.Exec(t.Context(), "LOCK TABLE services"); err != nil {
		t.Fatal(err)
	}
	if logged := h.checkKeyring(t.Context(), newKey); len(logged) != 1 || logged[0].Level != zap.WarnLevel {
		t.Errorf("logged %v", logged)
	}
	ended, end := context.WithCancel(t.Context())
	end()
	if logged := h.checkKeyring(ended, newKey); len(logged) != 0 {
		t.Errorf("a cancelled check logs %v", logged)
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
	t.Run("ownership_and_audit_rest", testRunbookOwnershipAndAuditRest)
}

func testRunbookOwnershipAndAuditRest(t *testing.T) {
	server := testservers.OwnPostgres(t, localserver.PostgresOptions{})
	sql := runbookSQL(t, "IdentAuditUntended")
	if len(sql) != 2 {
		t.Fatalf("the runbook has %q", sql)
	}
	root := &harness{t: t, db: connect(t, server.URL("postgres"))}
	root.exec("CREATE ROLE migrating LOGIN PASSWORD 'migrating'")
	root.exec(`CREATE ROLE "glotpod.ident" LOGIN PASSWORD 'instances'`)
	for name, migrating := range map[string]string{"another": "migrating", "the server's first": server.User} {
		t.Run(name, func(t *testing.T) { testRunbookGivesTheTables(t, server, migrating, sql[0], sql[1]) })
	}
}

func testRunbookGivesTheTables(t *testing.T, server *localserver.Postgres, migrating, give, setAside string) {
	database := "of " + migrating
	root := &harness{t: t, db: connect(t, server.URL("postgres"))}
	root.exec(`CREATE DATABASE "` + database + `"`)
	h := &harness{t: t, db: connect(t, server.URL(database))}
	h.exec("GRANT CREATE ON SCHEMA public TO migrating")
	h.exec("SET ROLE " + migrating)
	migrate(t, h.db)
	h.exec("SELECT ident_audit_day((now() AT TIME ZONE 'UTC')::date - 400)")
	h.exec("CREATE TABLE ident_of_others ()")
	h.exec("CREATE FUNCTION ident_of_others() RETURNS int LANGUAGE sql RETURN 1")
	h.exec(`GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO "glotpod.ident"`)
	h.exec(`GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO "glotpod.ident"`)
	h.exec("RESET ROLE")

	h.opts = options(t, &testservers.Database{Host: server.Host, Port: server.Port, User: "glotpod.ident", Password: "instances", Name: database})
	h.Store = h.open()
	h.agree(4)
	h.lease = h.claim(0, 0)
	if err := h.MaintainAudit(t.Context()); err == nil {
		t.Fatal("a user that does not own the tables can maintain them")
	}
	h.exec(give)
	if got := h.one(`SELECT string_agg(kind || ' ' || name, ', ' ORDER BY kind) FROM (
			SELECT 'relation', relname, relowner FROM pg_class WHERE relnamespace = 'public'::regnamespace
			UNION ALL SELECT 'routine', proname, proowner FROM pg_proc WHERE pronamespace = 'public'::regnamespace
			UNION ALL SELECT 'type', typname, typowner FROM pg_type WHERE typnamespace = 'public'::regnamespace AND typtype = 'e'
		) AS has (kind, name, owner) WHERE owner <> '"glotpod.ident"'::regrole`); got != "relation ident_of_others, routine ident_of_others" {
		t.Errorf("not given to the user: %v", got)
	}
	if err := h.MaintainAudit(t.Context()); err != nil {
		t.Error(err)
	}
	if h.one("SELECT "+hasDay+" IS NULL", -400) != true {
		t.Error("the old day is still there")
	}

	config, err := store.PoolConfig(h.opts)
	if err != nil {
		t.Fatal(err)
	}
	instances, err := pgx.ConnectConfig(t.Context(), config.ConnConfig)
	if err != nil {
		t.Fatal(err)
	}
	defer instances.Close(t.Context())
	migrate(t, instances)
	for range 2 {
		h.exec("INSERT INTO ident_audit VALUES (now() - interval '10 days', 1, 'patch', NULL, NULL, '[]')")
		if _, err := instances.Exec(t.Context(), setAside); err != nil {
			t.Fatal(err)
		}
		if n := h.one("SELECT count(*) FROM ident_audit"); n != int64(0) {
			t.Errorf("%v rows were not set aside", n)
		}
	}
	if n := h.one("SELECT count(*) FROM pg_class WHERE relname LIKE 'audit\\_set\\_aside%'"); n != int64(2) {
		t.Errorf("%v tables were set aside", n)
	}
	h.exec("INSERT INTO ident_audit VALUES (now() - interval '100 days', 1, 'patch', NULL, NULL, '[]')")
	if err := h.MaintainAudit(t.Context()); err != nil {
		t.Error(err)
	}
	h.create(1)
	if n := h.one("SELECT count(*) FROM ident_audit"); n != int64(1) {
		t.Errorf("%v rows, want the one of today", n)
	}
}
