package contract

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/glotpod/ident/cmd/systemtest/harness"
)

// patchNote is the body of the notification of a patch.
func patchNote(u dict, ops ...any) dict {
	return dict{"user_id": u["id"], "ops": append(list{}, ops...)}
}

func TestNotification(t *testing.T) {
	t.Parallel()
	t.Run("each_change", testNotificationEachChange)
	t.Run("tokens", testNotificationTokens)
	t.Run("unreadable_until_the_key_is_there", testNotificationUnreadableUntilTheKeyIsThere)
	t.Run("unreadable_until_it_is_deleted", testNotificationUnreadableUntilItIsDeleted)
	t.Run("none_for_refused_and_replayed", testNotificationNoneForRefusedAndReplayed)
	t.Run("after_the_commit", testNotificationAfterTheCommit)
	t.Run("order", testNotificationOrder)
	t.Run("kept_by_the_log", testNotificationKeptByTheLog)
}

func testNotificationEachChange(t *testing.T) {
	t.Parallel()
	s := harness.NewSite(t)
	s.Serve(t)
	c := s.NewCaller(t)
	heard := s.Subscribe(t)

	u := c.Create(t, harness.Changed(harness.NewUser("github"), dict{"name": "s3cret <Ève> & \u2028🦊"}))
	created := heard.Expect(t, harness.CreateKey, harness.AsListed(u))
	if !strings.Contains(string(created.Body), u["name"].(string)) {
		t.Errorf("a character of the name is escaped: %s", created.Body)
	}
	if created.Sequence != 1 {
		t.Errorf("the create is change %d of the user", created.Sequence)
	}
	big := c.Create(t, harness.Changed(harness.NewUser("github", "facebook"), dict{"github": dict{"id": int64(1)<<62 + 1, "access_token": "s3cret"}, "picture_url": ""}))
	heard.Expect(t, harness.CreateKey, harness.AsListed(big))

	changes := []struct {
		ops  list
		told list
	}{
		{list{}, list{}},
		{list{op("test", "/name", u["name"])}, list{}},
		{list{op("replace", "/name", u["name"])}, list{}},
		{list{op("replace", "/id", 99)}, list{}},
		{list{op("replace", "/github/access_token", "s3cret-new")}, list{}},
		{list{op("test", "/name", u["name"]), op("replace", "/name", "s3cret B")}, list{op("replace", "/name", "s3cret B")}},
		{list{op("replace", "/name", "s3cret C"), op("replace", "/name", "")}, list{op("replace", "/name", "")}},
		{list{op("add", "/picture_url", "s3cret")}, list{op("add", "/picture_url", "s3cret")}},
		{list{op("add", "/picture_url", "s3cret-2")}, list{op("replace", "/picture_url", "s3cret-2")}},
		{list{op("remove", "/picture_url")}, list{op("remove", "/picture_url")}},
		{list{op("add", "/facebook", dict{"id": 5, "access_token": "s3cret"})}, list{op("add", "/facebook", dict{"id": 5})}},
		{list{op("replace", "/facebook", dict{"id": 6, "access_token": "s3cret-7"})}, list{op("replace", "/facebook/id", 6)}},
		{list{opFrom("move", "/facebook", "/github")}, nil}, // in more than one way
		{list{op("replace", "/email", "s3cret-new@secret.example")}, list{op("replace", "/email", "s3cret-new@secret.example")}},
	}
	last := created
	follows := func(n harness.Notification) {
		t.Helper()
		if n.Sequence != last.Sequence+1 || n.CommittedAt.Before(last.CommittedAt) || n.MessageID == last.MessageID {
			t.Errorf("change %d of %v has the id %s and follows %d of %v", n.Sequence, n.CommittedAt, n.MessageID, last.Sequence, last.CommittedAt)
		}
		last = n
	}
	for _, p := range changes {
		c.Call(t, "patch", harness.Patch(u, p.ops...)).Result(t)
		if p.told != nil {
			follows(heard.Expect(t, harness.PatchKey, patchNote(u, p.told...)))
			continue
		}
		n := heard.Next(t)
		follows(n)
		if n.Key != harness.PatchKey || n.Value.(dict)["user_id"] != u["id"] {
			t.Errorf("got the notification %s %s", n.Key, n.Body)
		}
	}
	c.Call(t, "delete", dict{"user_id": u["id"]}).Result(t)
	follows(heard.Expect(t, harness.DeleteKey, dict{"user_id": u["id"]}))
}

func testNotificationTokens(t *testing.T) {
	t.Parallel()
	for _, include := range []string{"false", "true"} {
		s := harness.NewSite(t)
		s.Serve(t, harness.Settings{"notifications.include_access_tokens": include})
		c := s.NewCaller(t)
		heard := s.Subscribe(t)
		// as returns the part of the user that the notification contains.
		as := func(u dict) any {
			if include == "true" {
				return u
			}
			return harness.AsListed(u)
		}
		u := c.Create(t, harness.NewUser("github", "facebook"))
		heard.Expect(t, harness.CreateKey, as(u))
		fresh := harness.NewAccount()
		c.Call(t, "patch", harness.Patch(u, op("remove", "/facebook"))).Result(t)
		heard.Expect(t, harness.PatchKey, patchNote(u, op("remove", "/facebook")))
		c.Call(t, "patch", harness.Patch(u, op("add", "/facebook", fresh))).Result(t)
		heard.Expect(t, harness.PatchKey, patchNote(u, op("add", "/facebook", as(dict{"github": fresh}).(dict)["github"])))
		c.Call(t, "patch", harness.Patch(u, op("replace", "/github/access_token", "s3cret-new"))).Result(t)
		want := list{}
		if include == "true" {
			want = list{op("replace", "/github/access_token", "s3cret-new")}
		}
		last := heard.Expect(t, harness.PatchKey, patchNote(u, want...))
		if include == "false" && strings.Contains(string(last.Body), "token") {
			t.Errorf("the notification %s speaks of tokens", last.Body)
		}
	}
}

func testNotificationUnreadableUntilTheKeyIsThere(t *testing.T) {
	t.Parallel()
	s := harness.NewSite(t)
	key, lost := s.Settings["database.encryption_key"], harness.NewKey()
	const unread = "notification cannot be read, so those of its user are held back"
	v := s.Serve(t)
	c := s.NewCaller(t)
	first, second := c.Create(t, harness.NewUser()), c.Create(t, harness.NewUser())
	v.Stop(t)
	// As an instance leaves them that ends.
	left := func(u dict, name string, key string) {
		leaveChange(t, s, u, op("replace", "/name", name))
		if key != "" {
			sealNotification(t, s, u, key, name)
		}
	}
	left(first, "s3cret 1", lost)
	left(first, "s3cret 2", "")
	left(second, "s3cret 3", key)

	heard := s.Subscribe(t)
	v = s.Serve(t, harness.Settings{"notifications.include_access_tokens": "true"})
	hears := func(u dict, name string) {
		t.Helper()
		heard.Expect(t, harness.PatchKey, patchNote(u, op("replace", "/name", name)))
	}
	patch := func(u dict, name string) {
		c.Call(t, "patch", harness.Patch(u, op("replace", "/name", name))).Result(t)
	}
	hears(second, "s3cret 3")
	patch(first, "s3cret 4")
	patch(second, "s3cret 5")
	hears(second, "s3cret 5")
	// One that becomes unreadable later is found when what is held back is tried again.
	patch(first, "s3cret 6")
	sealNotification(t, s, first, lost, "s3cret 6")
	harness.Eventually(t, "it is read", func() bool { return v.Stderr.Count(unread) == 2 })
	v.Stop(t)
	if n := v.Stderr.Count(unread); n != 2 {
		t.Errorf("of 2 notifications it is logged %d times", n)
	}
	if n := s.Unnotified(t); n != 4 {
		t.Errorf("%d notifications are kept", n)
	}
	s.Serve(t, harness.EncryptionKeys(key, lost))
	patch(first, "s3cret 7")
	for _, n := range []string{"1", "2", "4", "6", "7"} {
		hears(first, "s3cret "+n)
	}
}

// leaveChange adds a patch of the user to the log, as an instance leaves it that dies before it
// has notified it. No instance may be running.
func leaveChange(t *testing.T, s *harness.Site, u dict, ops ...any) {
	t.Helper()
	change, err := json.Marshal(ops)
	if err != nil {
		t.Fatal(err)
	}
	s.Exec(t, `WITH u AS (UPDATE users SET sequence = sequence + 1 WHERE id = $1 RETURNING sequence)
		INSERT INTO ident_log (request, digest, user_id, sequence, position, partition, operation, change)
		SELECT gen_random_uuid(), 0, $1, u.sequence, max(l.position) + 1, l.partition, 'patch', $2
		FROM u, ident_log AS l WHERE l.partition = (SELECT max(partition) FROM ident_log WHERE user_id = $1) GROUP BY u.sequence, l.partition`,
		u["id"], string(change))
}

// sealNotification encrypts the notification of the last change of the user, a new name, with
// a key.
func sealNotification(t *testing.T, s *harness.Site, u dict, key, name string) {
	t.Helper()
	note, err := json.Marshal(patchNote(u, op("replace", "/name", name)))
	if err != nil {
		t.Fatal(err)
	}
	s.Exec(t, `INSERT INTO ident_sealed (partition, position, user_id, body)
		SELECT partition, position, user_id, $2 FROM ident_log WHERE user_id = $1 ORDER BY position DESC NULLS LAST LIMIT 1
		ON CONFLICT (partition, position) DO UPDATE SET body = excluded.body`, u["id"], harness.Seal(t, key, string(note)))
}

// Without its encrypted copy, a notification is sent as the log has it: without access tokens.
func testNotificationUnreadableUntilItIsDeleted(t *testing.T) {
	t.Parallel()
	s := harness.NewSite(t)
	v := s.Serve(t)
	c := s.NewCaller(t)
	u := c.Create(t, harness.NewUser())
	v.Stop(t)
	leaveChange(t, s, u, op("replace", "/name", "s3cret 0"), dict{"op": "replace", "path": "/github/access_token"})
	s.Exec(t, "INSERT INTO ident_sealed (partition, position, user_id, body) SELECT partition, position, user_id, 'no token' FROM ident_log WHERE operation = 'patch'")
	s.Serve(t)
	heard := s.Subscribe(t)
	c.Call(t, "patch", harness.Patch(u, op("replace", "/name", "s3cret 1"))).Result(t)
	if n := s.Unnotified(t); n != 2 {
		t.Errorf("%d notifications are kept", n)
	}
	s.Exec(t, "DELETE FROM ident_sealed WHERE body = 'no token'")
	heard.Expect(t, harness.PatchKey, patchNote(u, op("replace", "/name", "s3cret 0")))
	heard.Expect(t, harness.PatchKey, patchNote(u, op("replace", "/name", "s3cret 1")))
}

func testNotificationNoneForRefusedAndReplayed(t *testing.T) {
	t.Parallel()
	s := harness.NewSite(t)
	s.Serve(t)
	c := s.NewCaller(t)
	u := c.Create(t, harness.NewUser())
	heard := s.Subscribe(t)
	c.Call(t, "create", harness.NewUserLike(u)).IsError(t, "conflict")
	c.Call(t, "create", dict{}).IsError(t, "bad_request")
	c.Call(t, "patch", harness.Patch(u, op("remove", "/name"))).IsError(t, "invalid_patch_result")
	c.Call(t, "patch", harness.Patch(u, op("test", "/name", 7))).IsError(t, "patch_failed")
	c.Call(t, "patch", dict{"user_id": 99, "ops": list{}}).IsError(t, "not_found")
	c.Call(t, "delete", dict{"user_id": 99}).IsError(t, "not_found")
	c.Call(t, "get", dict{"user_id": u["id"]}).Result(t)
	c.Call(t, "list", dict{}).Result(t)
	patch := c.NewRequest("patch", harness.Patch(u))
	c.Ask(t, patch).Result(t)
	c.Ask(t, patch).Result(t)
	c.Call(t, "delete", dict{"user_id": u["id"]}).Result(t)
	heard.Expect(t, harness.PatchKey, patchNote(u))
	heard.Expect(t, harness.DeleteKey, dict{"user_id": u["id"]})
}

// A subscriber that gets a notification can read the change.
func testNotificationAfterTheCommit(t *testing.T) {
	t.Parallel()
	s := harness.NewSite(t)
	s.Serve(t)
	c := s.NewCaller(t)
	heard := s.Subscribe(t)
	u := c.Create(t, harness.NewUser())
	heard.Next(t)
	for i := range 50 {
		name := fmt.Sprintf("s3cret %d", i)
		patch := c.NewRequest("patch", harness.Patch(u, op("replace", "/name", name)))
		c.Send(t, patch)
		heard.Expect(t, harness.PatchKey, patchNote(u, op("replace", "/name", name)))
		if n := s.Count(t, "SELECT count(*) FROM users WHERE name = $1", name); n != 1 {
			t.Errorf("change %d was told and not made", i)
		}
		c.AwaitReply(t, patch).Result(t)
	}
}

// The order is that of the requests, also where most of them find no room in a
// mailbox.
func testNotificationOrder(t *testing.T) {
	t.Parallel()
	s := harness.NewSite(t)
	s.Settings["actor.mailbox"] = "10"
	s.Serve(t)
	c := s.NewCaller(t)
	const rounds = 200
	users := []dict{c.Create(t, harness.NewUser()), c.Create(t, harness.NewUser()), c.Create(t, harness.NewUser())}
	heard := s.Subscribe(t)
	var sent []*harness.Request
	for i := range rounds {
		for _, u := range users {
			// Each patch applies only after the one before.
			m := c.NewRequest("patch", harness.Patch(u, op("test", "/name", u["name"]), op("replace", "/name", fmt.Sprintf("s3cret %d", i))))
			u["name"] = fmt.Sprintf("s3cret %d", i)
			c.Send(t, m)
			sent = append(sent, m)
		}
	}
	for _, m := range sent {
		c.AwaitReply(t, m).Result(t)
	}
	next, ids := make(map[any]int), make(map[string]bool)
	for range rounds * len(users) {
		n := heard.Next(t)
		body := n.Value.(dict)
		user := body["user_id"]
		want := fmt.Sprintf("s3cret %d", next[user])
		if got := body["ops"].(list)[0].(dict)["value"]; got != want {
			t.Fatalf("user %v: heard of %q, want %q", user, got, want)
		}
		next[user]++
		if ids[n.MessageID] {
			t.Errorf("the message id %s comes twice", n.MessageID)
		}
		ids[n.MessageID] = true
	}
}

// Each commit is notified, also if the process dies between the commit and the
// notification.
func testNotificationKeptByTheLog(t *testing.T) {
	t.Parallel()
	t.Run("without_tokens", func(t *testing.T) { testNotificationsAfterCrash(t, "false") })
	t.Run("with_tokens", func(t *testing.T) { testNotificationsAfterCrash(t, "true") })
}

func testNotificationsAfterCrash(t *testing.T, tokens string) {
	t.Parallel()
	s := harness.NewSite(t)
	settings := harness.Settings{"notifications.include_access_tokens": tokens}
	v := s.Serve(t, settings)
	c := s.NewCaller(t)
	u := c.Create(t, harness.NewUser("github"))
	harness.Eventually(t, "the create is known to be notified", func() bool { return s.Unnotified(t) == 0 })
	heard := s.Subscribe(t)
	const patches = 300
	ops := func(i int) (asked, told list) {
		name, token := op("replace", "/name", fmt.Sprintf("s3cret %d", i)), op("replace", "/github/access_token", fmt.Sprintf("s3cret token %d", i))
		if tokens == "false" {
			return list{name, token}, list{name}
		}
		return list{name, token}, list{name, token}
	}
	var sent []*harness.Request
	for i := range patches {
		asked, _ := ops(i)
		m := c.NewRequest("patch", harness.Patch(u, asked...))
		c.Send(t, m)
		sent = append(sent, m)
	}
	c.AwaitReply(t, sent[0]).Result(t)
	v.Kill(t)
	s.Serve(t, settings)
	for _, m := range sent[1:] {
		c.AwaitReply(t, m).Result(t)
	}
	// At least once and in order. A repeated notification is the same.
	seen := make(map[string]harness.Notification)
	for next := 0; next < patches; {
		n := heard.Next(t)
		if first, repeated := seen[n.MessageID]; repeated {
			if !bytes.Equal(n.Body, first.Body) || n.Key != first.Key || n.Sequence != first.Sequence || !n.CommittedAt.Equal(first.CommittedAt) {
				t.Errorf("the notification %+v is repeated as %+v", first, n)
			}
			continue
		}
		seen[n.MessageID] = n
		_, told := ops(next)
		if want := harness.Normalize(patchNote(u, told...)); !reflect.DeepEqual(n.Value, want) || n.Sequence != int64(next+2) {
			t.Fatalf("heard of %v as change %d, want %v", n.Value, n.Sequence, want)
		}
		if s.Count(t, "SELECT count(*) FROM ident_log WHERE user_id = $1 AND sequence = $2 AND at = $3", u["id"], n.Sequence, n.CommittedAt) != 1 {
			t.Errorf("the log has change %d at another time than %v", n.Sequence, n.CommittedAt)
		}
		next++
	}
	harness.Eventually(t, "all changes are notified", func() bool { return s.Unnotified(t) == 0 })
	harness.Eventually(t, "no encrypted notification is left", func() bool { return s.Count(t, "SELECT count(*) FROM ident_sealed") == 0 })
	if name := c.Get(t, u["id"])["name"]; name != fmt.Sprintf("s3cret %d", patches-1) {
		t.Errorf("the user's name is %q", name)
	}
}
