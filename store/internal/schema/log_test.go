package schema_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/cluster/partition"
	"github.com/glotpod/ident/store"
	"github.com/glotpod/ident/store/internal/schema"
	"github.com/glotpod/ident/store/internal/storetest"
)

func TestMigrateToLog(t *testing.T) {
	t.Run("everything", testLogEverything)
	t.Run("empty", testLogEmpty)
	t.Run("no_audit", testLogNoAudit)
	t.Run("all_or_nothing", testLogAllOrNothing)
	t.Run("older_instances", testLogOlderInstances)
}

func testLogEverything(t *testing.T) {
	v := newVersion13(t)
	v.fill()
	var older *schema.Error
	if _, err := schema.Check(t.Context(), v.DB); !errors.As(err, &older) || older.Have != 13 {
		t.Errorf("before: %v", err)
	}
	v.migrate()
	if _, err := schema.Check(t.Context(), v.DB); err != nil {
		t.Errorf("after: %v", err)
	}
	t.Run("replays", func(t *testing.T) { v.T = t; v.checkReplays() })
	t.Run("history", func(t *testing.T) { v.T = t; v.checkHistory() })
	t.Run("changes", func(t *testing.T) { v.T = t; v.checkChanges() })
	t.Run("notifications", func(t *testing.T) { v.T = t; v.checkNotifications() })
	t.Run("sequences", func(t *testing.T) { v.T = t; v.checkSequences() })
}

func (v *version13) checkReplays() {
	for _, w := range []written{
		renames("yesterday", 1, "Eve", 0), renames("twice", 1, "second", 0), renames("rename-2", 2, "Eve 2", 0),
		renames("a", 3, "A", 0), renames("b", 3, "B", 0), renames("c", 3, "C", 0), renames("s2", 5, "S2", 0), renames("later", 5, "Later", 0),
		{operation: "patch", messageID: "nothing", args: patchOf(3), user: 3},
		{operation: "delete", messageID: "delete-2", args: storetest.Args{"user_id": 2}, user: 2},
	} {
		if o := v.Write(w.operation, w.messageID, w.args); o.Refusal != nil || o.Applied || o.UserID != w.user {
			v.T.Errorf("%s: %+v", w.messageID, o)
		}
		if o := v.Write("delete", w.messageID, storetest.Args{"user_id": 77}); o.Refusal != actor.RequestIDReused {
			v.T.Errorf("%s with other arguments: %+v", w.messageID, o)
		}
	}
	storetest.WantCode(v.T, v.Write("create", "refused", storetest.UserArgs(1)), actor.Conflict)
	storetest.WantCode(v.T, v.Write("delete", "reused", storetest.Args{"user_id": 99}), actor.NotFound)
	if n := v.Value("SELECT count(*) FROM ident_log WHERE at > (SELECT max(applied_at) FROM ident_migrations)"); n != int64(0) {
		v.T.Errorf("%v replays were carried out", n)
	}
}

// checkHistory: the queries in store/DATA.md show each change once, at its time.
func (v *version13) checkHistory() {
	const history = `SELECT string_agg(concat_ws(' ', operation, change, traceparent, CASE request WHEN ident_request(traceparent) THEN 'by id' END), E'\n'
		ORDER BY date_trunc('minute', at), position) FROM ident_log WHERE user_id = $1 AND code IS NULL AND operation <> 'unknown'`
	for user, want := range map[int64]string{
		1: `create ` + createdOne + ` create-1 by id
patch [{"op":"replace","path":"/name","value":"first"}] twice
patch [{"op":"replace","path":"/name","value":"Eve"}] yesterday by id
patch [{"op":"replace","path":"/name","value":"used"}] reused
patch [{"op":"replace","path":"/name","value":"second"}] twice by id
patch [{"op":"replace","path":"/name","value":"without id"}]`,
		2: `patch [{"op":"replace","path":"/name","value":"Eve 2"}] rename-2 by id
delete delete-2 by id`,
		3: `patch [{"op":"replace","path":"/name","value":"B"}] b by id
patch [] nothing by id
patch [{"op":"replace","path":"/github/access_token"}] token by id
patch [{"op":"replace","path":"/name","value":"C"}] c by id
patch [{"op":"replace","path":"/name","value":"B"}] b2 by id
patch [{"op":"replace","path":"/name","value":"A"}] a by id`, // it has no position
		4: `patch [{"op":"replace","path":"/name","value":"Eve 4"}] pending-long by id
patch [{"op":"replace","path":"/name","value":"Sealed"},{"op":"replace","path":"/github/access_token"}] sealed by id
patch [] sealed-nothing by id`,
	} {
		if got := v.Value(history, user); got != want {
			v.T.Errorf("user %d has\n%v\nwant\n%s", user, got, want)
		}
	}
	if all := v.Value("SELECT string_agg(l::text, '') FROM ident_log l").(string); strings.Contains(all, "gAAAA") || strings.Contains(all, `"value":"s"`) {
		v.T.Errorf("the log contains a token: %s", all)
	}
	if n := v.Value("SELECT count(*) FROM ident_log WHERE operation = 'unknown' AND code IS NOT NULL"); n != int64(2) {
		v.T.Errorf("%v records without a change", n)
	}
}

// checkChanges: what was pending can be read by a subscriber, as far as it is known.
func (v *version13) checkChanges() {
	var got []string
	for after, more := "", true; more; {
		page, refusal, err := v.Changes(v.T.Context(), &actor.ChangesPage{After: after, Size: 3})
		if err != nil || refusal != nil {
			v.T.Fatal(err, refusal)
		}
		for _, c := range page.Changes {
			if c.Content == nil && c.Operation != "delete" {
				v.T.Errorf("%+v has no content", c)
			}
			got = append(got, fmt.Sprint(c.UserID, "/", c.Sequence, " ", c.Operation))
		}
		after, more = page.After, page.More
	}
	slices.Sort(got)
	// s1 and s2 of user 5 were changed in one transaction, and are encrypted.
	if want := "2/1 patch, 2/2 delete, 3/1 patch, 3/2 patch, 3/3 patch, 3/4 patch, 3/5 patch, 4/1 patch, 4/2 patch, 4/3 patch, 5/3 patch"; strings.Join(got, ", ") != want {
		v.T.Errorf("got  %s\nwant %s", strings.Join(got, ", "), want)
	}
}

// checkNotifications: the next owners find what was pending, in each user's order.
func (v *version13) checkNotifications() {
	leases := []partition.Lease{v.Lease, v.ClaimPartition(1, 0), v.ClaimPartition(2, 0), v.ClaimPartition(3, 0)}
	if _, backlog, err := storetest.TakeOver(v.T.Context(), v.Store, storetest.Member("test"), leases); err != nil || !slices.Equal(backlog, []int{0, 1, 2, 3}) {
		v.T.Fatal(backlog, err)
	}
	body := func(user int64, name string) string { _, body := renamed(user, name); return body }
	for number, want := range [][]string{
		{body(2, "Eve 2"), `{"user_id":2}`},
		{body(3, "B"), `{"ops":[],"user_id":3}`, `{"ops":[],"user_id":3}`, body(3, "C"), body(3, "B")},
		{sealedBody(1), sealedBody(2), body(5, "Later")},
		{body(4, "Eve 4"), `{"ops":[{"op":"replace","path":"/name","value":"Sealed"},{"op":"replace","path":"/github/access_token","value":"s"}],"user_id":4}`, `{"ops":[],"user_id":4}`},
	} {
		sequence := int64(0)
		var bodies []string
		for _, n := range storetest.StoredNotifications(v.T, v.Store, number) {
			if sequence++; n.Sequence != sequence {
				v.T.Errorf("partition %d: the sequence is %d, want %d", number, n.Sequence, sequence)
			}
			if long := strings.Contains(string(n.Body), "Eve 4"); long != (time.Since(n.CommittedAt) > 68*hour) || (n.TraceParent == "") != strings.Contains(string(n.Body), "sealed") {
				v.T.Errorf("%s: %v %q", n.Body, n.CommittedAt, n.TraceParent)
			}
			bodies = append(bodies, string(n.Body))
			storetest.Confirm(v.Store, n.Key())
		}
		if !slices.Equal(bodies, want) {
			v.T.Errorf("partition %d has\n%s\nwant\n%s", number, strings.Join(bodies, "\n"), strings.Join(want, "\n"))
		}
	}
	v.ReleaseLeases(leases...)
	if n := v.Value("SELECT (SELECT count(*) FROM ident_sealed) + (SELECT count(*) FROM ident_held_back)"); n != int64(0) {
		v.T.Errorf("%v rows are left of what was sent", n)
	}
	v.openStore()
	for i := range leases {
		leases[i] = v.ClaimPartition(i, 0)
	}
	v.Lease = leases[0]
	if _, backlog, err := storetest.TakeOver(v.T.Context(), v.Store, storetest.Member("test"), leases); err != nil || len(backlog) != 0 {
		v.T.Error(backlog, err)
	}
}

// checkSequences: the next change of a user has the next number and a later position.
func (v *version13) checkSequences() {
	for user, want := range map[int64]int64{1: 1, 3: 6, 4: 4, 5: 4} {
		if err := v.RenameUser(v.Store, v.Lease, user, "afterwards"); err != nil {
			v.T.Fatal(err)
		}
		if n := v.Value("SELECT max(sequence) FROM ident_log WHERE user_id = $1", user); n != want || v.Value("SELECT sequence FROM users WHERE id = $1", user) != want {
			v.T.Errorf("the change of user %d has the number %v, want %d", user, n, want)
		}
	}
	for number := range 4 {
		if all := storetest.StoredNotifications(v.T, v.Store, number); len(all) != map[int]int{0: 4}[number] {
			v.T.Errorf("partition %d has %+v", number, all)
		}
	}
	if id := v.CreateUser(9); id <= 5 {
		v.T.Errorf("the next user has the id %d", id)
	}
}

func testLogEmpty(t *testing.T) {
	v := newVersion13(t)
	v.formCluster()
	v.migrate()
	id := v.CreateUser(1)
	if n := v.Value("SELECT count(*) FROM ident_log WHERE user_id = $1 AND sequence = 1", id); n != int64(1) {
		t.Errorf("%v rows", n)
	}
}

// testLogNoAudit: with audit.keep = 0s, version 13 has recorded no changes.
func testLogNoAudit(t *testing.T) {
	v := newVersion13(t)
	v.insertUser(1)
	v.formCluster()
	w := written{operation: "create", messageID: "m1", args: storetest.UserArgs(1), user: 1}
	v.ago(20*hour, w.sealedAs(`{"created":true}`))
	v.ago(19*hour, renames("m2", 1, "Eve", 0).notAudited())
	v.ago(18*hour, renames("m3", 1, "Sealed", 0).notAudited().sealedAs(sealedBody(3)))
	v.ago(60*hour, renames("m4", 3, "Old", 2).notAudited().sealedAs(sealedBody(4)))
	v.migrate()
	listed, err := v.List(t.Context(), &actor.Page{Size: 10, First: true})
	if err != nil {
		t.Fatal(err)
	}
	if page, refusal, err := v.Changes(t.Context(), &actor.ChangesPage{After: listed.After, Size: 10}); len(page.Changes) != 0 || refusal != nil || err != nil {
		t.Errorf("after a snapshot: %+v %v %v", page, refusal, err)
	}
	page, refusal, err := v.Changes(t.Context(), &actor.ChangesPage{Size: 10})
	if len(page.Changes) != 0 || page.More || refusal != nil || err != nil {
		t.Errorf("%+v %v %v", page, refusal, err)
	}
	if n := v.Value("SELECT count(*) FROM ident_log"); n != int64(4) {
		t.Errorf("%v rows", n)
	}
	if o := v.Write("create", "m1", storetest.UserArgs(1)); o.UserID != 1 || o.Refusal != nil || o.Applied {
		t.Errorf("%+v", o)
	}
	bodies := func() (all []string) {
		for _, n := range v.StoredNotifications() {
			all = append(all, string(n.Body))
		}
		return all
	}
	_, eve := renamed(1, "Eve")
	if got := bodies(); !slices.Equal(got, []string{`{"created":true}`, eve, sealedBody(3)}) {
		t.Errorf("%q", got)
	}
	// As the runbook says if the key is lost.
	v.Exec("DELETE FROM ident_sealed")
	for _, body := range bodies() {
		if !json.Valid([]byte(body)) {
			t.Errorf("%q", body)
		}
	}
}

// testLogAllOrNothing: a migration that fails leaves version 13 as it was.
func testLogAllOrNothing(t *testing.T) {
	v := newVersion13(t)
	v.fill()
	v.Exec("UPDATE ident_outbox SET partition = NULL WHERE user_id = 5")
	contents := func() any {
		return v.Value(`SELECT (SELECT string_agg(r::text, E'\n' ORDER BY r::text) FROM ident_requests r) || (SELECT string_agg(o::text, E'\n' ORDER BY id) FROM ident_outbox o)
			|| (SELECT string_agg(a::text, E'\n' ORDER BY a::text) FROM ident_audit a) || (SELECT string_agg(p::text, E'\n' ORDER BY partition) FROM ident_partitions p)
			|| (SELECT string_agg(u::text, E'\n' ORDER BY id) FROM users u) || (SELECT max(version) FROM ident_migrations)`)
	}
	before := contents()
	_, err := store.Migrate(t.Context(), v.Connect(t), func(int, string) {})
	var refused *pgconn.PgError
	if !errors.As(err, &refused) || !strings.Contains(refused.Message, "3 notifications") || !strings.Contains(refused.Hint, "Start an instance") {
		t.Errorf("%v", err)
	}
	if after := contents(); after != before {
		t.Errorf("before\n%s\nafter\n%s", before, after)
	}
	v.ago(0, renames("goes-on", 1, "goes on", 0))
	v.Exec("UPDATE ident_outbox SET partition = 2 WHERE user_id = 5")
	v.migrate()
	if all := storetest.StoredNotifications(t, v.Store, 2); len(all) != 3 {
		t.Errorf("%+v", all)
	}
}

// testLogOlderInstances: an instance of version 13 that is under way is waited for, and its later
// writes fail as a whole.
func testLogOlderInstances(t *testing.T) {
	v := newVersion13(t)
	v.insertUser(1)
	v.formCluster()
	write := func(tx pgx.Tx) error {
		batch := new(pgx.Batch)
		batch.Queue("UPDATE users SET name = name || '+' WHERE id = 1")
		batch.Queue("INSERT INTO ident_outbox (user_id, message_id, routing_key, body, sealed, partition) VALUES (1, gen_random_uuid(), 'notifications.user.patch', $1, false, 0)",
			[]byte(`{"ops":[],"user_id":1}`))
		return tx.SendBatch(t.Context(), batch).Close()
	}
	conn := v.Connect(t)
	tx := storetest.Begin(t, conn)
	if err := write(tx); err != nil {
		t.Fatal(err)
	}
	migrated := make(chan error, 1)
	other := v.Connect(t)
	go func() {
		_, err := store.Migrate(t.Context(), other, func(int, string) {})
		migrated <- err
	}()
	v.WaitUntil("SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock')")
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-migrated; err != nil {
		t.Fatal(err)
	}
	v.migrate()
	if all := v.StoredNotifications(); len(all) != 1 {
		t.Errorf("%+v", all)
	}
	if err := pgx.BeginFunc(t.Context(), conn, write); err == nil {
		t.Error("a write of version 13 goes on")
	}
	if name := v.Value("SELECT name FROM users WHERE id = 1"); name != "Ada 1+" {
		t.Errorf("the name is %v", name)
	}
}
