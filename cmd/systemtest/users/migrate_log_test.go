package users

import (
	"fmt"
	"os"
	"reflect"
	"testing"

	"github.com/glotpod/ident/cmd/systemtest/harness"
)

// schema13Site makes a site with the database of testdata/schema-13.sql. Its last change was
// made a minute ago.
func schema13Site(t *testing.T) *harness.Site {
	t.Helper()
	s := harness.NewEmptySite(t)
	sql, err := os.ReadFile("testdata/schema-13.sql")
	if err != nil {
		t.Fatal(err)
	}
	s.Exec(t, string(sql))
	s.Exec(t, `DO $$
		DECLARE
			passed interval := now() - interval '1 minute' - (SELECT max(committed_at) FROM ident_outbox);
		BEGIN
			UPDATE ident_requests SET at = at + passed;
			UPDATE ident_audit SET committed_at = committed_at + passed;
			UPDATE ident_outbox SET committed_at = committed_at + passed;
		END
	$$`)
	s.Settings["database.encryption_key"] = "xYdIpq_oLFrjI_qhbP8qzCqgRRrnoQG6PfiwCq0y450="
	return s
}

// pendingChange is a change of that database of which no subscriber knows.
type pendingChange struct {
	operation string
	notified  dict // the notification
	known     dict // what changes adds to the user, the operation, the time and the sequence
}

// pendingChanges returns those of each user, in order. The instance of user 8 left access tokens
// out.
func pendingChanges() map[int64][]pendingChange {
	all := make(map[int64][]pendingChange)
	add := func(user int64, public list, more ...any) {
		all[user] = append(all[user], pendingChange{"patch", dict{"user_id": user, "ops": append(append(list{}, public...), more...)}, dict{"ops": public}})
	}
	for user := range int64(8) {
		user++
		for _, n := range []int{2, 3} {
			name := list{op("replace", "/name", fmt.Sprint("s3cret ", n))}
			if user == 8 {
				add(user, name)
			} else {
				add(user, name, op("replace", "/github/access_token", fmt.Sprint("s3cret-token-", n)))
			}
		}
		add(user, list{})
	}
	all[3] = append(all[3], pendingChange{"delete", dict{"user_id": 3}, dict{}})
	created := dict{"id": 10, "name": "s3cret Last", "email": "s3cret-9@secret.example", "facebook": dict{"id": 9, "access_token": "s3cret-9"}}
	all[10] = []pendingChange{{"create", created, dict{"user": harness.AsListed(created)}}}
	return all
}

// testMigrateSchema13: the instances of the log go on where those of the earlier version were
// stopped.
func testMigrateSchema13(t *testing.T) {
	t.Parallel()
	s := schema13Site(t)
	if status, _, stderr := harness.Run(t, s.Settings.Environ(), "migrate", "--check"); status != 78 {
		t.Errorf("before: status %d, %s", status, stderr)
	}
	s.Migrate(t)
	if status, _, stderr := harness.Run(t, s.Settings.Environ(), "migrate", "--check"); status != 0 {
		t.Errorf("after: status %d, %s", status, stderr)
	}
	heard := s.Subscribe(t)
	s.Serve(t)
	s.Serve(t)
	c := s.NewCaller(t)
	checkReplays(t, c)
	checkPendingChanges(t, c)
	u := c.Create(t, harness.NewUser())
	checkPendingNotified(t, heard, u["id"])

	const history = "SELECT count(*) FROM ident_log WHERE user_id = 1 AND code IS NULL AND operation <> 'unknown' AND request = ident_request($1)"
	for _, request := range []string{"create-1", "first-1", "patch-2-1", "patch-3-1", "empty-1"} {
		if s.Count(t, history, request) != 1 {
			t.Errorf("the log does not say what %s has changed", request)
		}
	}
	if n := s.Count(t, "SELECT count(*) FROM ident_log WHERE user_id = 1"); n != 5 {
		t.Errorf("user 1 has %d entries", n)
	}
	c.Call(t, "patch", dict{"user_id": 1, "ops": list{op("replace", "/name", "s3cret")}}).Result(t)
	if n := s.Count(t, "SELECT sequence::int FROM users WHERE id = 1"); n != 4 {
		t.Errorf("the sequence of user 1 is %d", n)
	}
}

// checkReplays repeats requests that the earlier version has decided.
func checkReplays(t *testing.T, c *harness.Caller) {
	t.Helper()
	again := func(messageID, operation string, args dict) harness.Reply {
		t.Helper()
		m := c.NewRequest(operation, args)
		m.MessageId = messageID
		return c.Ask(t, m)
	}
	user := func(n int, name string) dict {
		return dict{"name": name, "email": fmt.Sprintf("s3cret-%d@secret.example", n), "github": dict{"id": n, "access_token": fmt.Sprint("s3cret-", n)}}
	}
	for i, id := range []int{1, 2, 4, 3, 6, 5, 8, 7} { // two instances have made them
		n := i + 1
		again(fmt.Sprint("create-", n), "create", user(n, fmt.Sprint("s3cret Ada ", n))).IsResult(t, dict{"user_id": id})
		for id, ops := range map[string]list{
			"first":   {op("replace", "/name", "s3cret first")},
			"patch-3": {op("replace", "/name", "s3cret 3"), op("replace", "/github/access_token", "s3cret-token-3")},
			"empty":   {},
		} {
			again(fmt.Sprint(id, "-", n), "patch", dict{"user_id": n, "ops": ops}).IsResult(t, ops)
		}
	}
	again("delete-3", "delete", dict{"user_id": 3}).IsResult(t, dict{"user_id": 3})
	again("delete-3", "delete", dict{"user_id": 4}).IsError(t, "bad_request")
	again("not-found", "delete", dict{"user_id": 99}).IsError(t, "not_found")
	conflict := user(99, "s3cret")
	conflict["email"], conflict["github"].(dict)["access_token"] = "s3cret-1@secret.example", "s3cret"
	again("conflict", "create", conflict).IsError(t, "conflict")
	again("conflict", "delete", dict{"user_id": 4}).IsError(t, "bad_request")
}

// checkPendingChanges reads the changes from the oldest that is kept.
func checkPendingChanges(t *testing.T, c *harness.Caller) {
	t.Helper()
	pending := pendingChanges()
	seen := make(map[int64]int)
	for after, more := any(nil), true; more; {
		page := c.Call(t, "changes", dict{"after": after, "page_size": 7}).Result(t).(dict)
		after, more = page["after"], page["more"].(bool)
		for _, v := range page["changes"].(list) {
			change := v.(dict)
			user := change["user_id"].(int64)
			if seen[user] == len(pending[user]) {
				t.Fatalf("another change is %v", change)
			}
			want := pending[user][seen[user]]
			seen[user]++
			known := dict{"user_id": user, "sequence": seen[user], "operation": want.operation, "time": change["time"]}
			for key, value := range want.known {
				known[key] = value
			}
			if !reflect.DeepEqual(change, harness.Normalize(known)) {
				t.Errorf("got  %v\nwant %v", change, known)
			}
		}
	}
	for user, all := range pending {
		if seen[user] != len(all) {
			t.Errorf("%d changes of user %d, want %d", seen[user], user, len(all))
		}
	}
}

// checkPendingNotified receives what was pending, and the create of a last user.
func checkPendingNotified(t *testing.T, heard *harness.Subscriber, last any) {
	t.Helper()
	pending := pendingChanges()
	seen := make(map[int64]int)
	left := 1
	for _, all := range pending {
		left += len(all)
	}
	for ; left > 0; left-- {
		n := heard.Next(t)
		value := n.Value.(dict)
		user, isPatchOrDelete := value["user_id"].(int64)
		if !isPatchOrDelete {
			user = value["id"].(int64)
		}
		if user == last {
			continue
		}
		if seen[user] == len(pending[user]) {
			t.Fatalf("another notification is %s", n.Body)
		}
		want := pending[user][seen[user]]
		seen[user]++
		if n.Key != "notifications.user."+want.operation || !reflect.DeepEqual(n.Value, harness.Normalize(want.notified)) || n.Sequence != int64(seen[user]) {
			t.Errorf("heard of %s %s as change %d, want %v", n.Key, n.Body, n.Sequence, want)
		}
	}
}
