package store_test

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/cluster/partition"
	"github.com/glotpod/ident/store"
	"github.com/glotpod/ident/store/internal/storetest"
)

// changes returns the changes in the log of the users, one in each line.
func changes(h *storetest.Harness) string {
	h.T.Helper()
	return h.Value(`SELECT coalesce(string_agg(concat_ws(' ', user_id, sequence, operation, change, traceparent), E'\n' ORDER BY partition, position), '')
		FROM ident_log WHERE position IS NOT NULL`).(string)
}

// both runs a test with writes that have their user cached, and with writes that do not.
func both(t *testing.T, test func(t *testing.T, h *storetest.Harness, do func(operation, messageID string, a storetest.Args) actor.Outcome)) {
	for _, known := range []bool{false, true} {
		t.Run(fmt.Sprintf("known=%t", known), func(t *testing.T) {
			h := storetest.Start(t)
			users := make(map[int64]*actor.User)
			test(t, h, func(operation, messageID string, a storetest.Args) actor.Outcome {
				t.Helper()
				w := storetest.Request(t, operation, messageID, a)
				w.TraceParent = "trace"
				if w.IsCreate() {
					var err error
					if w.UserID, err = storetest.DrawUserID(t.Context(), h.Store); err != nil {
						t.Fatal(err)
					}
				}
				if known {
					w.Cached = users[w.UserID]
				}
				o, err := storetest.Commit(t.Context(), h, h.Lease, w)
				if err != nil {
					t.Fatal(err)
				}
				if o.Applied {
					users[o.UserID] = o.After
				}
				return o
			})
		})
	}
}

func TestLog(t *testing.T) {
	t.Run("each_change_once_without_tokens", testLogEachChangeOnceWithoutTokens)
	t.Run("group_without_failed_writes", testLogGroupWithoutFailedWrites)
	t.Run("request_without_id", testLogRequestWithoutID)
	t.Run("request_id_computed_in_SQL", testLogRequestIDComputedInSQL)
	t.Run("positions_become_visible_in_order", testLogPositions)
}

func testLogEachChangeOnceWithoutTokens(t *testing.T) {
	both(t, func(t *testing.T, h *storetest.Harness, do func(operation, messageID string, a storetest.Args) actor.Outcome) {
		do("create", "m1", storetest.UserArgs(1))
		patch := func(messageID string, ops ...any) actor.Outcome {
			t.Helper()
			return do("patch", messageID, storetest.Args{"user_id": 1, "ops": ops})
		}
		account := storetest.Args{"id": 9, "access_token": "token-9"}
		for range 2 { // the second time, each request is a replay
			patch("m2", storetest.Replace("/name", "Eve")...)
			patch("m3", storetest.Args{"op": "replace", "path": "/github/access_token", "value": "token-8"}, storetest.Args{"op": "add", "path": "/facebook", "value": account})
			patch("m4", storetest.Args{"op": "test", "path": "/name", "value": "Eve"}) // changes nothing
			storetest.WantCode(t, patch("m5", storetest.Args{"op": "test", "path": "/name", "value": "other"}), actor.PatchFailed)
			storetest.WantCode(t, do("create", "m6", storetest.UserArgs(1)), actor.Conflict)
			storetest.WantCode(t, do("delete", "m7", storetest.Args{"user_id": 99}), actor.NotFound)
			patch("m8", storetest.Args{"op": "remove", "path": "/github"}, storetest.Args{"op": "replace", "path": "/facebook/id", "value": 10})
		}
		do("delete", "m9", storetest.Args{"user_id": 1})
		do("delete", "m9", storetest.Args{"user_id": 1})
		const want = `1 1 create {"email":"ada1@example.org","github":{"id":1},"id":1,"name":"Ada 1"} trace
1 2 patch [{"op":"replace","path":"/name","value":"Eve"}] trace
1 3 patch [{"op":"add","path":"/facebook","value":{"id":9}},{"op":"replace","path":"/github/access_token"}] trace
1 4 patch [] trace
1 5 patch [{"op":"remove","path":"/github"},{"op":"replace","path":"/facebook/id","value":10}] trace
1 6 delete trace`
		if got := changes(h); got != want {
			t.Errorf("got\n%s\nwant\n%s", got, want)
		}
		if all := h.Value("SELECT string_agg(l::text, '') FROM ident_log l").(string); strings.Contains(all, "token-") || strings.Contains(all, "gAAAA") {
			t.Errorf("the log contains a token: %s", all)
		}
		const requests = `SELECT string_agg(concat_ws(' ', m, user_id, code), ', ' ORDER BY m) FROM unnest(ARRAY['m1', 'm2', 'm3', 'm4', 'm5', 'm6', 'm7', 'm8', 'm9']) AS m
			JOIN ident_log ON request = ident_request(m)`
		if got := h.Value(requests); got != "m1 1, m2 1, m3 1, m4 1, m5 1 patch_failed, m6 0 conflict, m7 99 not_found, m8 1, m9 1" {
			t.Errorf("recorded: %v", got)
		}
	})
}

func testLogGroupWithoutFailedWrites(t *testing.T) {
	h := storetest.Start(t)
	const users = 60
	known := make([]*actor.User, users)
	for i := range known {
		known[i] = h.User(h.CreateUser(i))
	}
	over := partition.Lease{Partition: 1, Epoch: 1}
	h.Exec("TRUNCATE ident_log")
	var wg sync.WaitGroup
	for i, u := range known {
		w := storetest.Request(t, "patch", fmt.Sprint("m", i), storetest.Args{"user_id": u.ID, "ops": storetest.Replace("/name", fmt.Sprint("name ", i))})
		if i%2 == 0 {
			w.Cached = u
		}
		lease := h.Lease
		if i%3 == 0 {
			lease = over
		}
		wg.Go(func() {
			if _, err := storetest.Commit(t.Context(), h, lease, w); (err != nil) != (lease == over) {
				t.Errorf("patch %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	const wrong = `SELECT count(*) FROM ident_log l FULL JOIN (SELECT id FROM users WHERE name LIKE 'name %') u ON l.user_id = u.id
		WHERE l.user_id IS NULL OR u.id IS NULL OR change->0->>'value' <> (SELECT name FROM users WHERE id = user_id)`
	if n := h.Value("SELECT count(*) FROM ident_log"); n != int64(users*2/3) || h.Value(wrong) != int64(0) {
		t.Errorf("%v rows, %v are wrong:\n%s", n, h.Value(wrong), changes(h))
	}
}

func testLogRequestWithoutID(t *testing.T) {
	h := storetest.Start(t)
	w := storetest.Request(t, "create", "", storetest.UserArgs(1))
	w.UserID, w.RequestID = 1, actor.RequestID{}
	if _, err := storetest.Commit(t.Context(), h, h.Lease, w); err != nil {
		t.Fatal(err)
	}
	if n := h.Value("SELECT count(*) FROM ident_log WHERE traceparent IS NULL AND position IS NOT NULL"); n != int64(1) {
		t.Error(changes(h))
	}
	refused := storetest.Request(t, "delete", "", storetest.Args{"user_id": 99})
	refused.RequestID = actor.RequestID{}
	if o, err := storetest.Commit(t.Context(), h, h.Lease, refused); o.Refusal == nil || err != nil {
		t.Fatalf("%+v, %v", o, err)
	}
	if n := h.Value("SELECT count(*) FROM ident_log"); n != int64(1) {
		t.Errorf("%v rows, though nobody can repeat the refused request", n)
	}
}

func testLogRequestIDComputedInSQL(t *testing.T) {
	h := storetest.Start(t)
	long := strings.Repeat("é", 300)
	for _, messageID := range []string{"m", "é", long} {
		if got := h.Value("SELECT ident_request($1::text)::text", messageID); got != uuid.UUID(actor.RequestIDOf(messageID, "", "")).String() {
			t.Errorf("%.20q: %v", messageID, got)
		}
	}
	for _, c := range [][2]string{{"reply", "c"}, {long, "é"}, {strings.Repeat("r", 255), "c"}} {
		if got := h.Value("SELECT ident_request($1, $2)::text", c[0], c[1]); got != uuid.UUID(actor.RequestIDOf("", c[0], c[1])).String() {
			t.Errorf("%.20q: %v", c, got)
		}
	}
}

func TestLogDays(t *testing.T) {
	t.Run("only_with_Maintain", testLogDaysOnlyWithMaintain)
	t.Run("failures_are_independent_and_measured", testLogDaysFailuresAreIndependentAndMeasured)
}

func testLogDaysOnlyWithMaintain(t *testing.T) {
	h := storetest.Start(t, func(o *store.Options) { o.AuditKeep = time.Hour })
	for _, day := range []int{-400, -10} {
		h.Exec("SELECT ident_log_day((now() AT TIME ZONE 'UTC')::date + $1::int)", day)
	}
	h.OpenStore() // like glotpod-ident rekey
	h.Options.Maintain, h.Options.AuditKeep = true, 30*24*time.Hour
	h.OpenStore()
	h.WaitUntil("SELECT "+storetest.LogDay+" IS NULL", -400)
	if h.Value("SELECT "+storetest.LogDay+" IS NULL", -10) == true {
		t.Error("a store without Maintain has dropped a day")
	}
}

// gatherDays returns the metrics of future days that have their table, and of overdue days.
func gatherDays(h *storetest.Harness) (ahead, overdue float64) {
	h.T.Helper()
	r := prometheus.NewPedanticRegistry()
	r.MustRegister(h.Store)
	all, err := r.Gather()
	if err != nil {
		h.T.Fatal(err)
	}
	for _, m := range all {
		switch m.GetName() {
		case "glotpod_ident_log_days_ahead":
			ahead = m.Metric[0].GetGauge().GetValue()
		case "glotpod_ident_log_days_overdue":
			overdue = m.Metric[0].GetGauge().GetValue()
		}
	}
	return ahead, overdue
}

func testLogDaysFailuresAreIndependentAndMeasured(t *testing.T) {
	h := storetest.Start(t)
	if ahead, overdue := gatherDays(h); !math.IsNaN(ahead) || !math.IsNaN(overdue) {
		t.Errorf("%v days are ahead, %v overdue, before they are counted", ahead, overdue)
	}
	h.Exec("SELECT ident_log_day((now() AT TIME ZONE 'UTC')::date - 400)")
	h.Exec("DO $$ BEGIN EXECUTE (SELECT format('DROP TABLE %I', max(relname)) FROM pg_class WHERE relname ~ '^ident_log_[0-9]{8}$'); END $$")
	h.Exec("CREATE OR REPLACE FUNCTION ident_log_day(day date) RETURNS void LANGUAGE plpgsql AS $$ BEGIN RAISE 'sour'; END $$")
	if err := h.MaintainLog(t.Context()); err == nil || !strings.Contains(err.Error(), "sour") {
		t.Errorf("the failure is not reported: %v", err)
	}
	if h.Value("SELECT "+storetest.LogDay+" IS NULL", -400) != true {
		t.Error("the old day is still there")
	}
	if ahead, overdue := gatherDays(h); ahead != 6 || overdue != 0 {
		t.Errorf("%v days are ahead, %v overdue", ahead, overdue)
	}
	// A view on the old day prevents its drop.
	h.Exec("CREATE TABLE ident_log_20200101 PARTITION OF ident_log FOR VALUES FROM ('2020-01-01 00:00+00') TO ('2020-01-02 00:00+00')")
	h.Exec("CREATE VIEW looking AS SELECT * FROM ident_log_20200101")
	if err := h.MaintainLog(t.Context()); err == nil {
		t.Error("the failure is not reported")
	}
	if ahead, overdue := gatherDays(h); ahead != 6 || overdue != 1 {
		t.Errorf("%v days are ahead, %v overdue", ahead, overdue)
	}
}

// testLogPositions: a subscriber that reads the positions of a partition in order misses none,
// although connections are lost, and another store goes on under the same lease and under the
// next one.
func testLogPositions(t *testing.T) {
	h := storetest.Start(t)
	const users, rounds = 8, 15
	var ids []int64
	for i := range users {
		ids = append(ids, h.CreateUser(i))
	}
	s, proxy := h.OpenThroughProxy()
	other := h.OpenStore()
	const later = "SELECT coalesce(array_agg(position ORDER BY position), '{}') FROM ident_log WHERE partition = 0 AND position > $1"
	reader := h.Connect(t)
	var seen []int64
	read := func() {
		var page []int64
		last := int64(0)
		if len(seen) > 0 {
			last = seen[len(seen)-1]
		}
		if err := reader.QueryRow(t.Context(), later, last).Scan(&page); err != nil {
			t.Error(err)
		}
		seen = append(seen, page...)
	}
	lease := h.Lease
	for phase, by := range []*store.Store{s, other, s} {
		if phase == 2 {
			lease = h.ClaimPartition(0, lease.Epoch)
		}
		written := make(chan struct{})
		var writing sync.WaitGroup
		for _, id := range ids {
			writing.Go(func() {
				for n := range rounds {
					if err := h.RenameUser(by, lease, id, fmt.Sprint(phase, n)); err != nil {
						t.Error(err)
					}
				}
			})
		}
		go func() { writing.Wait(); close(written) }()
		for n, under := 0, true; under; n++ {
			if read(); n%400 == 100 {
				proxy.LoseReply(n % 3)
			}
			select {
			case <-written:
				under = false
			default:
			}
		}
	}
	read()
	var all []int64
	if err := reader.QueryRow(t.Context(), later, 0).Scan(&all); err != nil || !slices.Equal(seen, all) {
		t.Errorf("the reader has seen %d positions of %d, %v", len(seen), len(all), err)
	}
	if want := users * (1 + 3*rounds); len(all) != want {
		t.Errorf("%d changes, want %d", len(all), want)
	}
	if n := h.Value("SELECT count(*) FROM (SELECT count(*), max(l.sequence) AS last, u.sequence FROM ident_log l JOIN users u ON u.id = l.user_id GROUP BY u.id, u.sequence) AS c WHERE count <> last OR count <> sequence"); n != int64(0) {
		t.Errorf("the sequences of %v users have gaps", n)
	}
}
