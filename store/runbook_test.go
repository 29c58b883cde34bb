package store_test

import (
	"os"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/glotpod/ident/deploy/localserver"
	"github.com/glotpod/ident/deploy/testservers"
	"github.com/glotpod/ident/store"
)

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
