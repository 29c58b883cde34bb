package store_test

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/store/internal/storetest"
)

// setClock sets the clock that the database uses for slots.
func setClock(h *storetest.Harness, day int, hour time.Duration) {
	h.T.Helper()
	imagined := time.Date(2030, 1, day, 0, 0, 0, 0, time.UTC).Add(hour)
	h.Exec("CREATE TABLE IF NOT EXISTS clock (one boolean PRIMARY KEY DEFAULT true, ahead interval)")
	h.Exec("INSERT INTO clock (ahead) SELECT $1 - now() ON CONFLICT (one) DO UPDATE SET ahead = excluded.ahead", imagined)
	h.Exec(`CREATE OR REPLACE FUNCTION ident_slot(at timestamptz) RETURNS smallint LANGUAGE sql STABLE
		RETURN (floor(extract(epoch FROM at + (SELECT ahead FROM clock)) / 86400)::bigint % 3)::smallint`)
}

func emptySlot(h *storetest.Harness) {
	h.T.Helper()
	if err := h.EmptyNextSlot(h.T.Context()); err != nil {
		h.T.Fatal(err)
	}
}

// TestRequestSlots: each slot of ident_requests holds the requests of one day.
func TestRequestSlots(t *testing.T) {
	t.Run("function is inlined", testSlotInlined)
	t.Run("time zones", testSlotTimeZones)
	t.Run("kept for a day", testSlotEmptied)
	t.Run("midnight", testSlotMidnight)
	t.Run("emptied late", testSlotEmptiedLate)
}

// testSlotInlined: the planner inlines the function ident_slot. Otherwise each statement would
// parse and plan the function again.
func testSlotInlined(t *testing.T) {
	h := storetest.Start(t)
	rows, _ := h.DB.Query(t.Context(), "EXPLAIN VERBOSE SELECT ident_slot(now())")
	plan, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	if text := strings.Join(plan, "\n"); strings.Contains(text, "ident_slot") {
		t.Errorf("the function is called:\n%s", text)
	}
}

func testSlotTimeZones(t *testing.T) {
	h := storetest.Start(t)
	for _, zone := range []string{"UTC", "Europe/Berlin", "Pacific/Apia"} { // the last one has skipped a day
		h.Exec("SET timezone = '" + zone + "'")
		wrong := h.Value(`SELECT count(*) FROM generate_series(14000, 26000) AS day, LATERAL (SELECT 'epoch'::timestamptz + day * interval '24 hours') AS begins (at)
			WHERE ident_slot(at) <> day % 3 OR ident_slot(at - interval '1 microsecond') <> (day - 1) % 3`)
		if wrong != int64(0) {
			t.Errorf("%s: %v days begin or end in the slot of another day", zone, wrong)
		}
	}
}

func testSlotEmptied(t *testing.T) {
	h := storetest.Start(t)
	setClock(h, 1, 22*time.Hour+59*time.Minute)
	first := h.Write("create", "m1", storetest.UserArgs(1))
	for _, later := range []struct {
		day  int
		hour time.Duration
	}{{1, 23 * time.Hour}, {2, time.Minute}, {2, 12 * time.Hour}, {2, 23 * time.Hour}, {3, 30 * time.Minute}} {
		setClock(h, later.day, later.hour)
		emptySlot(h)
		if again := h.Write("create", "m1", storetest.UserArgs(1)); !storetest.SameReply(again, first) {
			t.Errorf("on day %d at %v: %+v, first %+v", later.day, later.hour, again, first)
		}
	}
	setClock(h, 3, 2*time.Hour)
	recorded := h.Write("delete", "m2", storetest.Args{"user_id": 99})
	emptySlot(h)
	storetest.WantCode(t, h.Write("create", "m1", storetest.UserArgs(1)), actor.Conflict)
	if again := h.Write("delete", "m2", storetest.Args{"user_id": 99}); again.Refusal.Code != recorded.Refusal.Code {
		t.Errorf("today's request: %+v", again)
	}
}

// testSlotMidnight: a request is recorded once even if two transactions see different days.
func testSlotMidnight(t *testing.T) {
	h := storetest.Start(t)
	setClock(h, 1, 23*time.Hour+59*time.Minute)
	h.Write("create", "m1", storetest.UserArgs(1))
	// A transaction does this that began before it could see the first request.
	setClock(h, 2, time.Minute)
	_, err := h.DB.Exec(t.Context(), `INSERT INTO ident_requests (identity, slot, digest, user_id)
		SELECT identity, ident_slot(now() - interval '10 minutes'), 0, 0 FROM ident_requests`)
	if err == nil {
		t.Error("one request was recorded twice")
	}
	second := h.Write("create", "m2", storetest.UserArgs(2))
	if n := h.Value("SELECT count(*) FROM ident_requests WHERE user_id = $1", second.UserID); n != int64(2) {
		t.Errorf("after midnight a request is recorded in %v slots, want yesterday's and today's", n)
	}
	setClock(h, 2, 11*time.Minute)
	third := h.Write("create", "m3", storetest.UserArgs(3))
	if n := h.Value("SELECT count(*) FROM ident_requests WHERE user_id = $1", third.UserID); n != int64(1) {
		t.Errorf("later, a request is recorded in %v slots", n)
	}
}

// TestReusedRequestID: a request id that callers use again identifies a request only for
// some minutes.
func TestReusedRequestID(t *testing.T) {
	h := storetest.Start(t)
	user := h.CreateUser(1)
	age := func(minutes int) {
		h.Exec("UPDATE ident_requests SET at = now() - make_interval(mins => $1)", minutes)
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
		"of_another_day":     {47 * 60, time.Time{}, false},
		"received_yesterday": {47 * 60, now.Add(-24 * time.Hour), true},
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

	t.Run("recorded_twice_at_midnight", func(t *testing.T) {
		setClock(h, 2, time.Minute)
		commit(rename(user, "midnight", now))
		age(11)
		second := rename(user, "midnight", now)
		if o := commit(second); !o.Applied {
			t.Errorf("another request with the id: %+v", o)
		}
		if o := commit(second); o.Applied || o.Refusal != nil {
			t.Errorf("the same request again: %+v", o)
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

// testSlotEmptiedLate: a slot is not emptied if it has become that of today when it can be
// locked.
func testSlotEmptiedLate(t *testing.T) {
	h := storetest.Start(t)
	writer := h.Connect(t)
	setClock(h, 5, 12*time.Hour)
	slot := h.Value("SELECT ident_slot(now())") // of day 2, and of day 5
	const record = "INSERT INTO ident_requests (identity, slot, digest, user_id) VALUES (gen_random_uuid(), $1, 0, 0)"
	for delayed := false; !delayed; {
		h.Exec("TRUNCATE ident_requests")
		h.Exec(record, slot) // of day 2
		tx := storetest.Begin(t, writer)
		if _, err := tx.Exec(t.Context(), record, slot); err != nil {
			t.Fatal(err)
		}
		setClock(h, 4, 12*time.Hour)
		emptied := make(chan error, 1)
		go func() { emptied <- h.EmptyNextSlot(t.Context()) }()
		for len(emptied) == 0 && h.Value("SELECT NOT EXISTS (SELECT FROM pg_locks WHERE relation::regclass::text LIKE 'ident_requests_%' AND NOT granted)") == true {
		}
		setClock(h, 5, 12*time.Hour)
		if err := tx.Commit(t.Context()); err != nil {
			t.Fatal(err)
		}
		delayed = <-emptied == nil // otherwise the lock came too late
	}
	if n := h.Value("SELECT count(*) FROM ident_requests WHERE slot = $1", slot); n != int64(2) {
		t.Errorf("%v of 2 records are left", n)
	}
}
