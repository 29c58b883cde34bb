package changelog_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/glotpod/ident/deploy/testservers"
	"github.com/glotpod/ident/store/internal/changelog"
	"github.com/glotpod/ident/store/internal/postgres"
	"github.com/glotpod/ident/store/internal/storetest"
)

func TestMain(m *testing.M) { testservers.Main(m) }

// A harness has a maintainer that the test runs.
type harness struct {
	*storetest.Harness
	*changelog.Maintainer
}

func start(t *testing.T) *harness {
	t.Helper()
	h := storetest.Start(t)
	return &harness{h, newMaintainer(h)}
}

func newMaintainer(h *storetest.Harness) *changelog.Maintainer {
	h.T.Helper()
	return changelog.NewMaintainer(h.OpenPool(), h.Options.AuditKeep, h.Options.Log)
}

// maintain repeats the maintenance of the log until a query selects true.
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
	t.Run("requests_are_kept_for_a_day", testMaintainRequestsKept)
	t.Run("delays_no_write", testMaintainDelaysNoWrite)
	t.Run("unnotified_kept", testMaintainUnnotifiedKept)
}

// addRow adds the row of a refused request on a day.
func (h *harness) addRow(day int) {
	h.T.Helper()
	h.Exec("SELECT ident_log_day((now() AT TIME ZONE 'UTC')::date + $1::int)", day)
	h.Exec("INSERT INTO ident_log (at, request, digest, user_id, operation) VALUES (now() + $1 * interval '1 day', gen_random_uuid(), 0, $2, 'patch')", day, 1000+day)
}

func testMaintainOldDroppedNewCreated(t *testing.T) {
	h := start(t)
	h.CreateUser(1)
	maintain(h, "SELECT "+storetest.LogDay+" IS NOT NULL", 7)
	for _, day := range []int{-400, -33, -28, -2, 12} {
		h.addRow(day)
	}
	maintain(h, "SELECT "+storetest.LogDay+" IS NULL", -33)
	if got := h.Value("SELECT string_agg(user_id::text, ' ' ORDER BY at) FROM ident_log"); got != "972 998 1 1012" {
		t.Errorf("rows left: %v", got)
	}
}

// testMaintainRequestsKept: however short the log is to be kept, requests are replayed for a day.
func testMaintainRequestsKept(t *testing.T) {
	h := start(t)
	m := changelog.NewMaintainer(h.OpenPool(), 0, h.Options.Log)
	for _, day := range []int{-3, -1, 0} {
		h.addRow(day)
	}
	if err := m.Maintain(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := h.Value("SELECT string_agg(user_id::text, ' ' ORDER BY at) FROM ident_log"); got != "999 1000" {
		t.Errorf("rows left: %v", got)
	}
}

func testMaintainSlowDayIsLeftForLater(t *testing.T) {
	h := start(t)
	h.Exec("DO $$ BEGIN EXECUTE (SELECT string_agg(format('DROP TABLE %I', relname), ';') FROM pg_class WHERE relname ~ '^ident_log_[0-9]{8}$'); END $$")
	h.Exec("CREATE OR REPLACE FUNCTION ident_log_day(day date) RETURNS void LANGUAGE sql AS 'SELECT pg_sleep(60)'")
	began := time.Now()
	err := h.Maintain(t.Context())
	if took := time.Since(began); took > postgres.AttemptTimeout+5*time.Second {
		t.Errorf("it took %v", took)
	}
	if err == nil || strings.Count(err.Error(), "creating") != 1 {
		t.Errorf("not exactly one day was tried: %v", err)
	}
}

func testMaintainDelaysNoWrite(t *testing.T) {
	h := start(t)
	maintain(h, "SELECT "+storetest.LogDay+" IS NOT NULL", 7)
	id := h.CreateUser(1)
	maintainers := []*changelog.Maintainer{h.Maintainer, newMaintainer(h.Harness), newMaintainer(h.Harness)}
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
		h.Exec("SELECT ident_log_day((now() AT TIME ZONE 'UTC')::date - 100 - $1::int)", n)
		h.Write("patch", "", storetest.Args{"user_id": id, "ops": storetest.Replace("/name", fmt.Sprint(n))})
	}
	h.WaitUntil("SELECT count(*) = 0 FROM pg_class WHERE relname ~ '^ident_log_[0-9]{8}$' AND right(relname, 8)::date < now() - interval '50 days'")
	stop()
	wg.Wait()
	if n := h.Value("SELECT count(*) FROM ident_log"); n != int64(41) {
		t.Errorf("%v rows", n)
	}
}

// testMaintainUnnotifiedKept: an old day is kept as long as one of its changes was not notified,
// and not because of partitions without changes, or of users without changes on that day.
func testMaintainUnnotifiedKept(t *testing.T) {
	h := start(t)
	m := changelog.NewMaintainer(h.OpenPool(), 0, h.Options.Log)
	change := func(day, partition, user, position int) {
		t.Helper()
		h.Exec("SELECT ident_log_day((now() AT TIME ZONE 'UTC')::date + $1::int)", day)
		h.Exec(`INSERT INTO ident_log (at, request, digest, user_id, sequence, position, partition, operation)
			VALUES (now() + $1 * interval '1 day', gen_random_uuid(), 0, $2, 1, $3, $4, 'delete')`, day, user, position, partition)
	}
	change(-9, 0, 1, 1)
	change(-8, 0, 2, 2) // user 2 is held back
	change(-7, 0, 1, 3)
	change(-7, 2, 2, 1) // of another partition, so its position tells nothing
	change(-6, 2, 3, 2)
	change(-6, 0, 1, 4)
	change(-5, 0, 1, 5)
	h.Exec("UPDATE ident_partitions SET notified = CASE partition WHEN 0 THEN 4 WHEN 2 THEN 1 ELSE 0 END, notified_on = notified_on - 9")
	h.Exec("INSERT INTO ident_held_back SELECT 0, 2, 2, now() - interval '9 days'")
	left := func() (days string) {
		t.Helper()
		if err := m.Maintain(t.Context()); err != nil {
			t.Fatal(err)
		}
		return h.Value("SELECT coalesce(string_agg(((at AT TIME ZONE 'UTC')::date - (now() AT TIME ZONE 'UTC')::date)::text, ' ' ORDER BY at, partition), '') FROM ident_log").(string)
	}
	if got := left(); got != "-8 -6 -6 -5" {
		t.Errorf("left are changes of the days %s", got)
	}
	h.Exec("DELETE FROM ident_held_back")
	h.Exec("UPDATE ident_partitions SET notified = 2 WHERE partition = 2")
	if got := left(); got != "-5" {
		t.Errorf("after some were notified, left are changes of the days %s", got)
	}
	h.Exec("UPDATE ident_partitions SET notified = 5 WHERE partition = 0")
	if got := left(); got != "" {
		t.Errorf("after all were notified, left are changes of the days %s", got)
	}
	if got := h.Value("SELECT string_agg(pruned::text, ' ' ORDER BY partition) FROM ident_partitions"); got != "5 0 2 0" {
		t.Errorf("pruned up to %v", got)
	}
}
