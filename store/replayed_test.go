package store_test

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/cluster/partition"
	"github.com/glotpod/ident/store"
	"github.com/glotpod/ident/store/internal/storetest"
)

// TestDays: each request is recorded once in the log, in the table of its day.
func TestDays(t *testing.T) {
	t.Run("replayed_for_a_day", testDaysReplayed)
	t.Run("wrong_day", testDaysWrong)
	t.Run("missing_table", testDaysMissingTable)
	t.Run("missing_table_for_many", testDaysMissingTableForMany)
	t.Run("midnight", testDaysMidnight)
	t.Run("clock_goes_back", testDaysClockGoesBack)
}

// at returns a time of a day.
func at(day int, hour time.Duration) time.Time {
	return time.Date(2030, 1, day, 0, 0, 0, 0, time.UTC).Add(hour)
}

// tables returns how many rows each table of the log has.
func tables(h *storetest.Harness) string {
	h.T.Helper()
	return h.Value(`SELECT coalesce(string_agg(format('%s: %s', name, n), ', ' ORDER BY name), '')
		FROM (SELECT right(tableoid::regclass::text, 8) AS name, count(*) AS n FROM ident_log GROUP BY 1) AS l`).(string)
}

func testDaysReplayed(t *testing.T) {
	h := storetest.Start(t)
	h.StartClock()
	h.Store = h.OpenStoreAt("store", at(1, 22*time.Hour+59*time.Minute))
	first := h.Write("create", "m1", storetest.UserArgs(1))
	refused := h.Write("delete", "m2", storetest.Args{"user_id": 99})
	for _, later := range []time.Time{at(1, 23*time.Hour), at(2, time.Minute), at(2, 12*time.Hour), at(2, 23*time.Hour), at(2, 24*time.Hour-time.Minute)} {
		h.SetClock("store", later)
		if err := h.MaintainLog(t.Context()); err != nil {
			t.Fatal(err)
		}
		for _, s := range []*store.Store{h.Store, h.OpenStoreAt("restarted", later)} { // h.Store has to notice that it is another day
			h.Store = s
			if again := h.Write("create", "m1", storetest.UserArgs(1)); !storetest.SameReply(again, first) {
				t.Errorf("at %v: %+v, first %+v", later, again, first)
			}
			if again := h.Write("delete", "m2", storetest.Args{"user_id": 99}); !storetest.SameReply(again, refused) {
				t.Errorf("at %v: %+v, first %+v", later, again, refused)
			}
		}
	}
	if got := tables(h); got != "20300101: 2" {
		t.Errorf("rows: %s", got)
	}
}

// testDaysWrong: a store that believes that it is yesterday or tomorrow commits all the same.
func testDaysWrong(t *testing.T) {
	for name, believed := range map[string]time.Time{"yesterday": at(1, 12*time.Hour), "tomorrow": at(3, 12*time.Hour), "last_week": at(2, -7*24*time.Hour)} {
		for _, cached := range []bool{false, true} {
			t.Run(fmt.Sprint(name, "/cached=", cached), func(t *testing.T) {
				h := storetest.Start(t)
				h.StartClock()
				h.Store = h.OpenStoreAt("store", believed)
				user := h.User(h.CreateUser(1))
				h.CreateUser(2)
				h.SetClock("store", at(2, 12*time.Hour))
				w := storetest.Request(t, "patch", "m", storetest.Args{"user_id": user.ID, "ops": storetest.Replace("/name", "Eve")})
				if cached {
					w.Cached = user
				}
				for _, applied := range []bool{true, false} {
					if o, err := storetest.Commit(t.Context(), h, h.Lease, w); err != nil || o.Refusal != nil || o.Applied != applied {
						t.Errorf("%+v, %v", o, err)
					}
				}
				if got := h.Value("SELECT string_agg(concat_ws(' ', tableoid::regclass, sequence), ', ' ORDER BY at) FROM ident_log WHERE operation = 'patch'"); got != "ident_log_20300102 2" {
					t.Errorf("the log has %v", got)
				}
				if n := h.Value("SELECT count(DISTINCT position) FROM ident_log"); n != int64(3) {
					t.Errorf("%v positions, want 3", n)
				}
			})
		}
	}
}

// testDaysMissingTable: the first write of a day makes the table of the day if nothing else has.
func testDaysMissingTable(t *testing.T) {
	const drop = `DO $$ BEGIN EXECUTE (SELECT string_agg(format('DROP TABLE %I', relname), ';') FROM pg_class WHERE relname ~ '^ident_log_[0-9]{8}$'); END $$`
	h := storetest.Start(t)
	h.Exec(drop)
	id := h.CreateUser(1)
	for n := range 2 { // one reads the user first, one has it cached
		h.Exec(drop)
		if o := h.Write("patch", "", storetest.Args{"user_id": id, "ops": storetest.Replace("/name", fmt.Sprint(n))}); !o.Applied {
			t.Errorf("%+v", o)
		}
		if n := h.Value("SELECT count(*) FROM ident_log"); n != int64(1) {
			t.Errorf("%v rows, want 1", n)
		}
	}
	h.Exec(drop)
	if all := h.StoredNotifications(); len(all) != 0 {
		t.Errorf("pending are %+v", all)
	}
	h.Exec(drop)
	if held, _, err := storetest.TakeOver(t.Context(), h.Store, storetest.Member("test"), []partition.Lease{h.Lease}); err != nil || len(held) != 1 {
		t.Errorf("taken over: %v, %v", held, err)
	}
	h.Exec(drop)
	if _, _, err := h.NewUserID(t.Context(), storetest.Request(t, "create", "m", storetest.UserArgs(2))); err != nil {
		t.Error(err)
	}
}

// testDaysMissingTableForMany: sessions that make the table of a day at the same time all find it.
func testDaysMissingTableForMany(t *testing.T) {
	h := storetest.Start(t)
	for day := range 10 {
		var making sync.WaitGroup
		for range 4 {
			conn := h.Connect(t) // which does not know what there is
			making.Go(func() {
				if _, err := conn.Exec(t.Context(), "SELECT ident_log_day('2030-01-01'::date + $1::int)", day); err != nil {
					t.Errorf("day %d: %v", day, err)
				}
			})
		}
		making.Wait()
	}
}

// testDaysClockGoesBack: a request that was decided on a day is not carried out again, and a
// change that was made then is notified, when the clock of the database goes back to the day
// before.
func testDaysClockGoesBack(t *testing.T) {
	h := storetest.Start(t)
	h.StartClock()
	h.Store = h.OpenStoreAt("store", at(2, 30*time.Minute))
	id := h.CreateUser(1)
	rename := func(s *store.Store, lease partition.Lease, messageID string) actor.Outcome {
		t.Helper()
		o, err := storetest.Commit(t.Context(), s, lease, storetest.Request(t, "patch", messageID, storetest.Args{"user_id": id, "ops": storetest.Replace("/name", messageID)}))
		if err != nil || o.Refusal != nil {
			t.Fatalf("%s: %+v, %v", messageID, o, err)
		}
		return o
	}
	rename(h.Store, h.Lease, "before")
	h.SetClock("store", at(1, 22*time.Hour))
	rename(h.Store, h.Lease, "after") // which finds that it is another day
	next := h.OpenStoreAt("next", at(1, 22*time.Hour+time.Minute))
	lease := h.ClaimPartition(0, h.Lease.Epoch)
	if _, backlog, err := storetest.TakeOver(t.Context(), next, lease.Holder, []partition.Lease{lease}); len(backlog) != 1 || err != nil {
		t.Errorf("taken over: notifications of %v are left, %v", backlog, err)
	}
	for _, messageID := range []string{"before", "after"} {
		if rename(next, lease, messageID).Applied {
			t.Errorf("%q is applied twice", messageID)
		}
	}
	var positions []int64
	for _, n := range storetest.StoredNotifications(t, next, 0) {
		positions = append(positions, n.Position)
	}
	if first := positions[0]; !slices.Equal(positions, []int64{first, first + 1, first + 2}) {
		t.Errorf("found are the notifications %v", positions)
	}
	if got := tables(h); got != "20300101: 1, 20300102: 2" {
		t.Errorf("rows: %s", got)
	}
}

// testDaysMidnight: of two requests with one id in different partitions, one is applied, even
// if their transactions are of different days.
func testDaysMidnight(t *testing.T) {
	h := storetest.Start(t)
	h.StartClock()
	sides := []struct {
		s     *store.Store
		lease partition.Lease
	}{
		{h.OpenStoreAt("before", at(1, 24*time.Hour-time.Minute)), h.Lease},
		{h.OpenStoreAt("after", at(2, time.Minute)), h.ClaimPartition(1, 0)},
	}
	var users []*actor.User
	for i, side := range sides {
		w := storetest.Request(t, "create", fmt.Sprint("create ", i), storetest.UserArgs(i))
		w.UserID = int64(i + 1)
		o, err := storetest.Commit(t.Context(), side.s, side.lease, w)
		if err != nil || !o.Applied {
			t.Fatalf("%+v, %v", o, err)
		}
		users = append(users, o.After)
	}
	for round := range 40 {
		var applied atomic.Int64
		var committing sync.WaitGroup
		for i, side := range sides {
			w := storetest.Request(t, "patch", fmt.Sprint("m", round), storetest.Args{"user_id": users[i].ID, "ops": storetest.Replace("/name", fmt.Sprint(i, round))})
			if round%2 == 0 {
				w.Cached = users[i]
			}
			committing.Go(func() {
				o, err := storetest.Commit(t.Context(), side.s, side.lease, w)
				if err != nil || !o.Applied && o.Refusal != actor.RequestIDReused {
					t.Errorf("%+v, %v", o, err)
				}
				if o.Applied {
					applied.Add(1)
					users[i] = o.After
				}
			})
		}
		committing.Wait()
		if n := applied.Load(); n != 1 {
			t.Fatalf("round %d: %d requests were applied", round, n)
		}
	}
	t.Log(tables(h))
}

// TestReusedRequestID: a request id that callers use again identifies a request only for
// some minutes.
func TestReusedRequestID(t *testing.T) {
	h := storetest.Start(t)
	user := h.CreateUser(1)
	age := func(minutes int) {
		h.Exec("UPDATE ident_log SET at = now() - make_interval(mins => $1)", minutes)
	}
	names := 0
	rename := func(user int64, requestID string, received time.Time) *actor.Write {
		names++
		w := storetest.Request(t, "patch", requestID, storetest.Args{"user_id": user, "ops": storetest.Replace("/name", fmt.Sprint("name ", names))})
		w.FirstReceived = received
		return w
	}
	commit := func(w *actor.Write) actor.Outcome {
		t.Helper()
		o, err := storetest.Commit(t.Context(), h.Store, h.Lease, w)
		if err != nil {
			t.Fatal(err)
		}
		return o
	}
	now := time.Now()
	for name, c := range map[string]struct {
		age      int // of the record in minutes
		received time.Time
		applied  bool
	}{
		"old_enough":         {11, now, true},
		"of_yesterday":       {24 * 60, now, true},
		"too_young":          {9, now, false},
		"received_long_ago":  {11, now.Add(-5 * time.Minute), false},
		"received_later":     {11, now.Add(time.Hour), true}, // by a clock that is ahead
		"received_sometime":  {11, time.Time{}, false},
		"of_another_day":     {24*60 - 1, time.Time{}, false},
		"received_yesterday": {24*60 - 1, now.Add(-12 * time.Hour), true},
	} {
		for _, cached := range []bool{false, true} {
			t.Run(fmt.Sprint(name, "/cached=", cached), func(t *testing.T) {
				first := rename(user, name, now)
				if o := commit(first); !o.Applied && o.Refusal != actor.RequestIDReused {
					t.Fatalf("the first request: %+v", o)
				}
				age(c.age)
				second := rename(user, name, c.received)
				if cached {
					second.Cached = h.User(user)
				}
				o := commit(second)
				if o.Applied != c.applied || !o.Applied && o.Refusal != actor.RequestIDReused {
					t.Errorf("another request with the id: %+v", o)
				}
				if o := commit(second); o.Applied || c.applied && o.Refusal != nil {
					t.Errorf("the same request again: %+v", o)
				}
			})
		}
	}

	t.Run("refused_before", func(t *testing.T) {
		refused := storetest.Request(t, "delete", "refused", storetest.Args{"user_id": 1 << 30})
		storetest.WantCode(t, commit(refused), actor.NotFound)
		age(11)
		if o := commit(rename(user, "refused", now)); !o.Applied {
			t.Errorf("another request with the id: %+v", o)
		}
	})

	t.Run("among_others", func(t *testing.T) {
		old := commit(rename(user, "old", now))
		age(11)
		replayed := rename(user, "young", now)
		commit(replayed)
		writes := []*actor.Write{rename(user, "old", now), rename(user, "new", now), replayed, rename(user, "young", now)}
		writes[0].Cached = old.After
		var applied []bool
		for len(writes) > 0 {
			outcomes, err := h.Commit(t.Context(), h.Lease, writes)
			if err != nil {
				t.Fatal(err)
			}
			for _, o := range outcomes {
				applied = append(applied, o.Applied)
			}
			writes = writes[len(outcomes):]
		}
		if !slices.Equal(applied, []bool{true, true, false, false}) {
			t.Errorf("applied were %v", applied)
		}
	})

	t.Run("by_two_requests_at_once", func(t *testing.T) {
		other := h.CreateUser(2)
		for round := range 20 {
			id := fmt.Sprint("twice ", round)
			commit(rename(user, id, now))
			age(11)
			writes := []*actor.Write{rename(user, id, now), rename(other, id, now)}
			var applied atomic.Int64
			var committing sync.WaitGroup
			for _, w := range writes {
				s := h.OpenStore()
				defer s.Close()
				committing.Go(func() {
					o, err := storetest.Commit(t.Context(), s, h.Lease, w)
					if err != nil || !o.Applied && o.Refusal != actor.RequestIDReused {
						t.Errorf("%+v, %v", o, err)
					}
					if o.Applied {
						applied.Add(1)
					}
				})
			}
			committing.Wait()
			if n := applied.Load(); n != 1 {
				t.Fatalf("%d requests were applied", n)
			}
		}
	})
}
