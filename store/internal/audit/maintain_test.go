package audit_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/glotpod/ident/deploy/testservers"
	"github.com/glotpod/ident/store/internal/audit"
	"github.com/glotpod/ident/store/internal/storetest"
)

func TestMain(m *testing.M) { testservers.Main(m) }

// A harness has a maintainer that the test runs.
type harness struct {
	*storetest.Harness
	*audit.Maintainer
}

func start(t *testing.T) *harness {
	t.Helper()
	h := storetest.Start(t)
	return &harness{h, newMaintainer(h)}
}

func newMaintainer(h *storetest.Harness) *audit.Maintainer {
	h.T.Helper()
	return audit.NewMaintainer(h.OpenPool(), h.Options.AuditKeep, h.Options.Log)
}

// maintain repeats the maintenance of the audit table until a query selects true.
func maintain(h *harness, until string, a ...any) {
	h.T.Helper()
	for deadline := time.Now().Add(time.Minute); h.Value(until, a...) != true; {
		if time.Now().After(deadline) {
			h.T.Fatalf("never true: %s", until)
		}
		if err := h.Maintain(h.T.Context()); err != nil {
			h.T.Log(err)
		}
	}
}

func TestMaintain(t *testing.T) {
	t.Run("old_dropped_new_created", testMaintainOldDroppedNewCreated)
	t.Run("slow_day_is_left_for_later", testMaintainSlowDayIsLeftForLater)
	t.Run("writes_across_midnight", testMaintainWritesAcrossMidnight)
	t.Run("delays_no_write", testMaintainDelaysNoWrite)
}

func testMaintainOldDroppedNewCreated(t *testing.T) {
	h := start(t)
	h.CreateUser(1)
	maintain(h, "SELECT "+storetest.AuditDay+" IS NOT NULL", 7)
	for _, day := range []int{-400, -33, -28, -2, 12} {
		h.Exec("SELECT ident_audit_day((now() AT TIME ZONE 'UTC')::date + $1::int)", day)
		h.Exec("INSERT INTO ident_audit VALUES (now() + $1 * interval '1 day', $2, 'patch', NULL, NULL, '[]')", day, 1000+day)
	}
	for _, day := range []int{-100, -10} { // no store creates partitions for these
		h.Exec("INSERT INTO ident_audit VALUES (now() + $1 * interval '1 day', $2, 'patch', NULL, NULL, '[]')", day, 1000+day)
	}
	maintain(h, "SELECT "+storetest.AuditDay+" IS NULL", -33)
	maintain(h, "SELECT NOT EXISTS (SELECT FROM ident_audit WHERE user_id = 900)")
	maintain(h, "SELECT EXISTS (SELECT FROM pg_index WHERE indrelid = "+storetest.AuditDay+")", -2)
	if got := h.Value("SELECT string_agg(user_id::text, ' ' ORDER BY committed_at) FROM ident_audit"); got != "972 990 998 1 1012" {
		t.Errorf("rows left: %v", got)
	}
	// Days that rows are still written to have no index.
	for day, want := range map[int]bool{-400: false, -33: false, -28: true, -2: true, 0: false, 1: false, 7: false} {
		if got := h.Value("SELECT EXISTS (SELECT FROM pg_index WHERE indrelid = "+storetest.AuditDay+")", day); got != want {
			t.Errorf("day %d has an index: %v", day, got)
		}
	}
}

// A day takes long if the database has to read all of ident_audit_rest. Writers to that
// table wait meanwhile.
func testMaintainSlowDayIsLeftForLater(t *testing.T) {
	h := start(t)
	h.Exec("DO $$ BEGIN EXECUTE (SELECT string_agg(format('DROP TABLE %I', relname), ';') FROM pg_class WHERE relname ~ '^ident_audit_[0-9]{8}$'); END $$")
	h.Exec("CREATE OR REPLACE FUNCTION ident_audit_day(day date) RETURNS void LANGUAGE sql AS 'SELECT pg_sleep(60)'")
	began := time.Now()
	err := h.Maintain(t.Context())
	if took := time.Since(began); took > 4*time.Second {
		t.Errorf("it took %v", took)
	}
	if err == nil || strings.Count(err.Error(), "ident_audit_day") != 1 {
		t.Errorf("not exactly one day was tried: %v", err)
	}
}

func testMaintainWritesAcrossMidnight(t *testing.T) {
	h := start(t)
	maintain(h, "SELECT "+storetest.AuditDay+" IS NOT NULL", 7)
	h.Exec("SELECT ident_audit_day('2031-01-01'), ident_audit_day('2031-01-02')")
	id := h.CreateUser(1)
	at := func(clock, partition string) {
		t.Helper()
		h.Exec("ALTER TABLE ident_audit ALTER committed_at SET DEFAULT '" + clock + "'")
		h.Exec("TRUNCATE ident_audit")
		for _, name := range []string{clock, "again"} { // one reads the user first, one has it cached
			if o := h.Write("patch", "", storetest.Args{"user_id": id, "ops": storetest.Replace("/name", name)}); o.Refusal != nil {
				t.Error(o.Refusal)
			}
		}
		if got := h.Value("SELECT string_agg(tableoid::regclass::text, ' ') FROM ident_audit"); got != partition+" "+partition {
			t.Errorf("at %s: %v", clock, got)
		}
	}
	at("2031-01-01 23:59:59.999+00", "ident_audit_20310101")
	at("2031-01-02 00:00:00+00", "ident_audit_20310102")
	at("2031-01-03 00:00:00+00", "ident_audit_rest")
	h.Exec("DROP TABLE ident_audit_20310101")
	at("2031-01-01 12:00:00+00", "ident_audit_rest")

	// The partition of today is missing, and rows prevent the creation of another one. The
	// future days get their partitions nevertheless.
	h.Exec("ALTER TABLE ident_audit ALTER committed_at SET DEFAULT now()")
	h.Exec("DO $$ BEGIN EXECUTE (SELECT string_agg(format('DROP TABLE %I', relname), ';') FROM pg_class WHERE relname ~ '^ident_audit_[0-9]{8}$'); END $$")
	h.Write("patch", "", storetest.Args{"user_id": id, "ops": storetest.Replace("/name", "last")})
	if got := h.Value("SELECT count(*) FROM ident_audit_rest WHERE committed_at > now() - interval '1 day' AND committed_at <= now()"); got != int64(1) {
		t.Errorf("%v rows", got)
	}
	for _, day := range []int{1, 7} {
		maintain(h, "SELECT "+storetest.AuditDay+" IS NOT NULL", day)
	}
}

func testMaintainDelaysNoWrite(t *testing.T) {
	h := start(t)
	maintain(h, "SELECT "+storetest.AuditDay+" IS NOT NULL", 7)
	id := h.CreateUser(1)
	maintainers := []*audit.Maintainer{h.Maintainer, newMaintainer(h.Harness), newMaintainer(h.Harness)}
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for _, m := range maintainers {
		wg.Go(func() {
			for ctx.Err() == nil {
				if err := m.Maintain(t.Context()); err != nil {
					t.Log(err) // a lock was not available at once
				}
			}
		})
	}
	for n := range 40 {
		h.Exec("SELECT ident_audit_day((now() AT TIME ZONE 'UTC')::date - 100 - $1::int)", n)
		h.Write("patch", "", storetest.Args{"user_id": id, "ops": storetest.Replace("/name", fmt.Sprint(n))})
	}
	h.WaitUntil("SELECT count(*) = 0 FROM pg_class WHERE relname ~ '^ident_audit_[0-9]{8}$' AND right(relname, 8)::date < now() - interval '50 days'")
	stop()
	wg.Wait()
	if n := h.Value("SELECT count(*) FROM ident_audit"); n != int64(41) {
		t.Errorf("%v rows", n)
	}
}
