package reads_test

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/tinylib/msgp/msgp"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/store"
	"github.com/glotpod/ident/store/internal/reads"
	"github.com/glotpod/ident/store/internal/storetest"
)

// readChanges reads a page of changes.
func readChanges(h *storetest.Harness, after string, size int) actor.ChangePage {
	h.T.Helper()
	page, refusal, err := h.Changes(h.T.Context(), &actor.ChangesPage{After: after, Size: size})
	if refusal != nil || err != nil {
		h.T.Fatal(refusal, err)
	}
	return page
}

// fillLog adds n creates of a partition to the log of the day that is some days from today.
func fillLog(h *storetest.Harness, partition, first, n, days int, change string) {
	h.T.Helper()
	h.Exec("SELECT ident_log_day((now() AT TIME ZONE 'UTC')::date + $1::int)", days)
	h.Exec(`INSERT INTO ident_log (at, request, digest, user_id, sequence, position, partition, operation, change)
		SELECT now() + make_interval(days => $1), gen_random_uuid(), 0, n, 1, n, $2, 'create', $3 FROM generate_series($4::bigint, $4::bigint + $5 - 1) AS n`,
		days, partition, change, first, n)
}

func TestChanges(t *testing.T) {
	t.Run("page_size", testChangesPageSize)
	t.Run("page_in_bytes", testChangesPageInBytes)
	t.Run("each_partition_has_its_turn", testChangesTurns)
	t.Run("many_days", testChangesManyDays)
	t.Run("position_gone", testChangesPositionGone)
	t.Run("position_of_a_lost_epoch", testChangesPositionOfALostEpoch)
	t.Run("malformed_position", testChangesMalformedPosition)
	t.Run("position_of_an_old_change", testChangesPositionOfAnOldChange)
	t.Run("no_tokens_and_64_bits", testChangesNoTokens)
	t.Run("foreign_contents", testChangesForeignContents)
	t.Run("while_others_write", testChangesWhileOthersWrite)
	t.Run("dropped_day", testChangesDroppedDay)
	t.Run("plans", testChangesPlans)
}

func testChangesPageSize(t *testing.T) {
	h := storetest.Start(t)
	for p := range partitions {
		for day := range 4 {
			fillLog(h, p, 1+10*day, 3, day-3, "{}")
		}
	}
	all := 3 * 4 * partitions
	for _, size := range []int{1, 2, 3, 5, 11, 12, 13, all - 1, all, all + 1, actor.MaxPageSize} {
		seen, after := make(map[string]int), ""
		for pages := 1; ; pages++ {
			page := readChanges(h, after, size)
			if after = page.After; len(page.Changes) > size || pages > all+1 {
				t.Fatalf("page %d of %d has %d", pages, size, len(page.Changes))
			}
			for _, c := range page.Changes {
				seen[fmt.Sprint(c.UserID)]++
			}
			if !page.More {
				break
			}
			if len(page.Changes) != size {
				t.Errorf("page %d of %d has %d", pages, size, len(page.Changes))
			}
		}
		for user, n := range seen {
			if n != partitions {
				t.Errorf("pages of %d: user %s was found %d times", size, user, n)
			}
		}
		if len(seen) != 12 {
			t.Errorf("pages of %d: %d users were found", size, len(seen))
		}
		if page := readChanges(h, after, size); len(page.Changes) > 0 || page.More || page.After != after {
			t.Errorf("after the end: %+v", page)
		}
	}
}

// testChangesTurns: a partition that has more changes than a subscriber reads does not keep those
// of others from it.
func testChangesTurns(t *testing.T) {
	for _, size := range []int{1, 3} {
		h := storetest.Start(t)
		const hot = 1
		fillLog(h, hot, 1, 20, 0, "{}")
		found := make(map[int64]int64)
		after := readChanges(h, "", size).After
		for p := range int64(partitions) {
			if p != hot {
				fillLog(h, int(p), 1000+int(p), 1, 0, "{}")
			}
		}
		for range partitions {
			page := readChanges(h, after, size)
			for _, c := range page.Changes {
				found[c.UserID]++
			}
			after = page.After
		}
		for p := range int64(partitions) {
			if p != hot && found[1000+p] != 1 {
				t.Errorf("pages of %d: after a page for each partition, the change of partition %d was read %d times", size, p, found[1000+p])
			}
		}
	}
}

func testChangesPageInBytes(t *testing.T) {
	h := storetest.Start(t)
	large := func(n int) string { return `{"name": "` + strings.Repeat("x", n) + `"}` }
	fillLog(h, 0, 1, 10, -1, large(1_000_000))
	fillLog(h, 1, 1, 10, 0, large(1_000_000))
	fillLog(h, 1, 11, 1, 0, large(5_000_000))
	fillLog(h, 2, 12, 20, 0, large(10))
	seen, after, pages := 0, "", 0
	for more := true; more; pages++ {
		page := readChanges(h, after, 1000)
		bytes := 0
		for _, c := range page.Changes {
			bytes += len(c.Content)
		}
		if bytes > 4<<20 && len(page.Changes) > 1 || len(page.Changes) == 0 {
			t.Errorf("page %d has %d changes of %d bytes", pages, len(page.Changes), bytes)
		}
		seen, after, more = seen+len(page.Changes), page.After, page.More
	}
	if seen != 41 || pages > 8 {
		t.Errorf("%d changes were found on %d pages", seen, pages)
	}
}

// A page reads a limited number of days, and says that there are more.
func testChangesManyDays(t *testing.T) {
	h := storetest.Start(t)
	const days = 2*reads.MaxDaysPerPage + 10
	h.Exec("SELECT ident_log_day((now() AT TIME ZONE 'UTC')::date - n) FROM generate_series(0, $1::int) AS n", days)
	fillLog(h, 1, 7, 1, 0, "{}")
	trips := h.RoundTrips()
	page, pages := readChanges(h, "", 10), 1
	if n := h.RoundTrips() - trips; n > reads.MaxDaysPerPage+10 {
		t.Errorf("a page took %d round trips", n)
	}
	for ; page.More; pages++ {
		if len(page.Changes) > 0 {
			t.Errorf("page %d has %+v", pages, page.Changes)
		}
		page = readChanges(h, page.After, 10)
	}
	if len(page.Changes) != 1 || pages != 3 {
		t.Errorf("page %d is %+v", pages, page)
	}
	trips = h.RoundTrips()
	readChanges(h, page.After, 10)
	if n := h.RoundTrips() - trips; n > 2 {
		t.Errorf("the next page took %d round trips", n)
	}
}

func wantChangesRefused(h *storetest.Harness, after string, want *actor.Refusal) {
	h.T.Helper()
	page, refusal, err := h.Changes(h.T.Context(), &actor.ChangesPage{After: after, Size: 10})
	if refusal != want || err != nil || page.Changes != nil {
		h.T.Errorf("%.40q gives %+v, %v, %v, want %v", after, page, refusal, err, want)
	}
}

func testChangesPositionGone(t *testing.T) {
	h := storetest.Start(t)
	fillLog(h, 1, 5, 3, -3, "{}")
	fillLog(h, 2, 5, 3, 0, "{}")
	first := readChanges(h, "", 1)
	last := readChanges(h, first.After, 2)
	h.Exec("DROP TABLE " + h.Value("SELECT 'ident_log_' || to_char((now() AT TIME ZONE 'UTC')::date - 3, 'YYYYMMDD')").(string))
	h.Exec("UPDATE ident_partitions SET pruned = 7 WHERE partition = 1")
	wantChangesRefused(h, first.After, actor.ChangesMissing)
	if n := len(readChanges(h, last.After, 10).Changes); n != 3 {
		t.Errorf("%d changes come after the last one that was pruned", n)
	}
	if n := len(readChanges(h, "", 10).Changes); n != 3 {
		t.Errorf("%d changes are kept", n)
	}
	for _, n := range []int{0, partitions - 1, partitions + 1, 1024} {
		wantChangesRefused(h, reads.OtherPartitions(last.After, n), actor.ChangesMissing)
	}
	for _, otherVersion := range []string{"AQ", "AQAA", "AwAA"} {
		wantChangesRefused(h, otherVersion, actor.ChangesMissing)
	}
}

// The position of a database that has gone back, or of another one, must not hide changes.
func testChangesPositionOfALostEpoch(t *testing.T) {
	h := storetest.Start(t)
	after := readChanges(h, "", 1).After
	for p := range partitions {
		epoch := h.Value("SELECT epoch FROM ident_partitions WHERE partition = $1", p).(int64)
		if page := readChanges(h, reads.AtEpoch(after, p, epoch), 10); len(page.Changes) > 0 {
			t.Errorf("%+v", page)
		}
		for _, later := range []int64{1, 2, 1 << 20} {
			wantChangesRefused(h, reads.AtEpoch(after, p, epoch+later), actor.ChangesMissing)
		}
	}
}

func testChangesMalformedPosition(t *testing.T) {
	h := storetest.Start(t)
	for _, after := range []string{"-", "yesterday", "AgAA", strings.Repeat("A", 1<<20), readChanges(h, "", 1).After + "A"} {
		wantChangesRefused(h, after, actor.NoPosition)
	}
	for _, days := range []int{-20000, 1, 1000} { // well-formed, although no store has returned them
		after := reads.ShiftPosition(readChanges(h, "", 1).After, days)
		if page := readChanges(h, after, 10); len(page.Changes) > 0 || page.More {
			t.Errorf("%d days from today: %+v", days, page)
		}
	}
}

func testChangesNoTokens(t *testing.T) {
	h := storetest.Start(t, func(o *store.Options) { o.TokensInNotifications = true })
	h.SetNotificationSink(nil)
	const id, account = math.MaxInt64, math.MaxInt64 - 1
	args := storetest.Args{"name": "Ada", "email": "ada@example.org", "github": storetest.Args{"id": account, "access_token": "s3cret-1"}}
	create := storetest.Request(t, "create", rand.Text(), args)
	create.UserID = id
	if o, err := storetest.Commit(t.Context(), h.Store, h.Lease, create); !o.Applied || err != nil {
		t.Fatal(o, err)
	}
	for _, ops := range [][]any{
		storetest.Replace("/github/access_token", "s3cret-2"),
		{storetest.Args{"op": "add", "path": "/facebook", "value": storetest.Args{"id": account, "access_token": "s3cret-3"}}},
		append(storetest.Replace("/name", "Ada L."), storetest.Replace("/facebook/access_token", "s3cret-4")...),
		{storetest.Args{"op": "remove", "path": "/facebook"}},
	} {
		h.Write("patch", "", storetest.Args{"user_id": id, "ops": ops})
	}
	h.Write("delete", "", storetest.Args{"user_id": id})
	page := readChanges(h, "", 10)
	reply := actor.ChangesReply(&page)
	if bytes.Contains(reply, []byte("s3cret")) || bytes.Contains(reply, []byte("token")) {
		t.Errorf("the reply has a token: %q", reply)
	}
	decoded, _, err := msgp.ReadMapStrIntfBytes(reply, nil)
	if err != nil {
		t.Fatal(err)
	}
	result := decoded["result"].(map[string]any)
	if result["after"] != page.After || result["more"] != false {
		t.Errorf("the reply is %v", result)
	}
	change := func(sequence int, operation string, more ...any) storetest.Args {
		c := storetest.Args{"user_id": int64(id), "sequence": int64(sequence), "operation": operation}
		if more != nil {
			c[more[0].(string)] = more[1]
		}
		return c
	}
	want := []any{
		change(1, "create", "user", storetest.Args{"id": int64(id), "name": "Ada", "email": "ada@example.org", "github": storetest.Args{"id": int64(account)}}),
		change(2, "patch", "ops", []any{}),
		change(3, "patch", "ops", []any{storetest.Args{"op": "add", "path": "/facebook", "value": storetest.Args{"id": int64(account)}}}),
		change(4, "patch", "ops", storetest.Replace("/name", "Ada L.")),
		change(5, "patch", "ops", []any{storetest.Args{"op": "remove", "path": "/facebook"}}),
		change(6, "delete"),
	}
	got := result["changes"].([]any)
	for i := range got {
		c := got[i].(map[string]any)
		at, err := time.Parse("2006-01-02T15:04:05.000000Z", c["time"].(string))
		if err != nil || time.Since(at).Abs() > time.Hour || !at.Equal(page.Changes[i].CommittedAt) {
			t.Errorf("the time is %v, %v", c["time"], err)
		}
		delete(c, "time")
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("the changes are %v, want %v", got, want)
	}
}

// The migration keeps pending notifications with access tokens apart.
func testChangesForeignContents(t *testing.T) {
	h := storetest.Start(t)
	fillLog(h, 0, 1, 1, 0, `{"id": 1e400}`)
	if page, refusal, err := h.Changes(t.Context(), &actor.ChangesPage{Size: 10}); err == nil || refusal != nil || page.Changes != nil {
		t.Errorf("%+v, %v, %v", page, refusal, err)
	}
}

// A page reads not many more rows than it has, however large the log is and whatever the planner
// believes about it.
func testChangesPlans(t *testing.T) {
	const size, rows = 10, 3000
	for name, belief := range map[string]string{
		"never_analyzed":           "SELECT 1",
		"believed_to_have_one_row": "UPDATE pg_class SET reltuples = 1, relpages = 1 WHERE relname LIKE 'ident_log%' AND relkind IN ('r', 'i')",
		"believed_to_be_large":     "UPDATE pg_class SET reltuples = 1e8, relpages = 1e6 WHERE relname LIKE 'ident_log%' AND relkind IN ('r', 'i')",
		"analyzed":                 "ANALYZE",
	} {
		t.Run(name, func(t *testing.T) {
			h := storetest.Start(t)
			for day := -4; day <= 0; day++ {
				for p := range partitions {
					fillLog(h, p, 1+(day+4)*rows, rows, day, "{}")
				}
			}
			h.Exec(belief)
			s, plans := h.OpenExplained()
			h.Store = s
			listed, err := h.List(t.Context(), &actor.Page{Size: 1, First: true})
			if err != nil {
				t.Fatal(err)
			}
			first := readChanges(h, "", size).After
			middle := readChanges(h, readChanges(h, first, actor.MaxPageSize).After, size).After
			for _, after := range []string{first, middle, listed.After} {
				plans.Take()
				page := readChanges(h, after, size)
				read := 0.0
				for _, plan := range plans.Take() {
					plan.Root.Walk(func(n *storetest.PlanNode) {
						if strings.HasPrefix(n.Relation, "ident_log") || strings.Contains(n.Type, "Bitmap Index") {
							read += n.Rows*n.Loops + n.Filtered*n.Loops
						}
					})
				}
				if most := 3*float64(len(page.Changes)) + 6*partitions; read > most || read < float64(len(page.Changes)) {
					t.Errorf("%.0f rows were read for %d", read, len(page.Changes))
				}
			}
		})
	}
}

// testChangesPositionOfAnOldChange: a list after which nothing has changed for days is followed by
// each later change once, whether or not the old changes were notified.
func testChangesPositionOfAnOldChange(t *testing.T) {
	for _, notified := range []int{0, 2, 3} {
		h := storetest.Start(t)
		for p := range partitions {
			fillLog(h, p, 1, 2, -6, "{}")
			fillLog(h, p, 3, 1, -5, "{}")
		}
		h.Exec("UPDATE ident_partitions SET notified = $1, notified_on = notified_on - 5", notified)
		listed, err := h.List(t.Context(), &actor.Page{Size: 1, First: true})
		if err != nil {
			t.Fatal(err)
		}
		if page := readChanges(h, listed.After, 100); len(page.Changes) > 0 {
			t.Errorf("notified up to %d: changes that are in the list: %+v", notified, page.Changes)
		}
		for p := range partitions {
			fillLog(h, p, 4, 1, 0, "{}")
		}
		if page := readChanges(h, listed.After, 100); len(page.Changes) != partitions || page.More {
			t.Errorf("notified up to %d: changes %+v, more: %t", notified, page.Changes, page.More)
		}
	}
}
