package systemtest

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

// patchNote is the body of the notification of a patch.
func patchNote(u dict, ops ...any) dict {
	return dict{"user_id": u["id"], "ops": append(list{}, ops...)}
}

func TestSubscribersHearOfEachChange(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.serve(t)
	c := s.newCaller(t)
	heard := s.subscribe(t)

	u := c.create(t, changed(newUser("github"), dict{"name": "s3cret <Ève> & \u2028🦊"}))
	heard.hears(t, createKey, shown(u))
	big := c.create(t, changed(newUser("github", "facebook"), dict{"github": dict{"id": int64(1)<<62 + 1, "access_token": "s3cret"}, "picture_url": ""}))
	heard.hears(t, createKey, shown(big))

	for _, p := range []struct {
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
	} {
		c.call(t, "patch", patchOf(u, p.ops...)).result(t)
		if p.told != nil {
			heard.hears(t, patchKey, patchNote(u, p.told...))
			continue
		}
		if n := heard.next(t); n.key != patchKey || n.tree.(dict)["user_id"] != u["id"] {
			t.Errorf("got the notification %s %s", n.key, n.body)
		}
	}
	c.call(t, "delete", dict{"user_id": u["id"]}).result(t)
	heard.hears(t, deleteKey, dict{"user_id": u["id"]})
}

func TestTokensAreInNotificationsOnlyWhereTheSettingsSaySo(t *testing.T) {
	t.Parallel()
	for _, include := range []string{"false", "true"} {
		s := newSite(t)
		s.serve(t, settings{"notifications.include_access_tokens": include})
		c := s.newCaller(t)
		heard := s.subscribe(t)
		// as returns the user, or the part of one, that is told.
		as := func(u dict) any {
			if include == "true" {
				return u
			}
			return shown(u)
		}
		u := c.create(t, newUser("github", "facebook"))
		heard.hears(t, createKey, as(u))
		fresh := newAccount()
		c.call(t, "patch", patchOf(u, op("remove", "/facebook"))).result(t)
		heard.hears(t, patchKey, patchNote(u, op("remove", "/facebook")))
		c.call(t, "patch", patchOf(u, op("add", "/facebook", fresh))).result(t)
		heard.hears(t, patchKey, patchNote(u, op("add", "/facebook", as(dict{"github": fresh}).(dict)["github"])))
		c.call(t, "patch", patchOf(u, op("replace", "/github/access_token", "s3cret-new"))).result(t)
		want := list{}
		if include == "true" {
			want = list{op("replace", "/github/access_token", "s3cret-new")}
		}
		last := heard.hears(t, patchKey, patchNote(u, want...))
		if include == "false" && strings.Contains(string(last.body), "token") {
			t.Errorf("the notification %s speaks of tokens", last.body)
		}
	}
}

func TestANotificationThatNoKeyOpensIsSentInOrderOnceTheKeyIsThere(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	key, lost := s.settings["database.encryption_key"], newKey()
	const unread = "notification cannot be read, so those of its user are held back"
	v := s.serve(t)
	c := s.newCaller(t)
	first, second := c.create(t, newUser()), c.create(t, newUser())
	v.stop(t)
	// As an instance leaves them that ends.
	left := func(u dict, name string, key string) {
		note, err := json.Marshal(patchNote(u, op("replace", "/name", name)))
		if err != nil {
			t.Fatal(err)
		}
		if key != "" {
			note = seal(t, key, string(note))
		}
		s.exec(t, "INSERT INTO ident_outbox (user_id, message_id, routing_key, body, sealed) VALUES ($1, gen_random_uuid(), $2, $3, $4)",
			u["id"], patchKey, note, key != "")
	}
	left(first, "s3cret 1", lost)
	left(first, "s3cret 2", "")
	left(second, "s3cret 3", key)

	heard := s.subscribe(t)
	v = s.serve(t)
	hears := func(u dict, name string) {
		t.Helper()
		heard.hears(t, patchKey, patchNote(u, op("replace", "/name", name)))
	}
	patch := func(u dict, name string) { c.call(t, "patch", patchOf(u, op("replace", "/name", name))).result(t) }
	hears(second, "s3cret 3")
	patch(first, "s3cret 4")
	patch(second, "s3cret 5")
	hears(second, "s3cret 5")
	// One that comes to be there later is found when what is held back is tried again.
	left(first, "s3cret 6", lost)
	eventually(t, "it is read", func() bool { return v.stderr.count(unread) == 2 })
	v.stop(t)
	if n := v.stderr.count(unread); n != 2 {
		t.Errorf("of 2 notifications it is logged %d times", n)
	}
	if n := s.count(t, "SELECT count(*) FROM ident_outbox"); n != 4 {
		t.Errorf("%d notifications are kept", n)
	}
	s.serve(t, encryptionKeys(key, lost))
	patch(first, "s3cret 7")
	for _, n := range []string{"1", "2", "4", "6", "7"} {
		hears(first, "s3cret "+n)
	}
}

func TestWhatIsHeldBackIsToldOnceTheNotificationBeforeItIsDeleted(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	v := s.serve(t)
	c := s.newCaller(t)
	u := c.create(t, newUser())
	v.stop(t)
	s.exec(t, "INSERT INTO ident_outbox (user_id, message_id, routing_key, body, sealed) VALUES ($1, gen_random_uuid(), $2, 'no token', true)", u["id"], patchKey)
	v = s.serve(t)
	heard := s.subscribe(t)
	c.call(t, "patch", patchOf(u, op("replace", "/name", "s3cret 1"))).result(t)
	if n := s.count(t, "SELECT count(*) FROM ident_outbox"); n != 2 {
		t.Errorf("%d notifications are kept", n)
	}
	s.exec(t, "DELETE FROM ident_outbox WHERE body = 'no token'")
	heard.hears(t, patchKey, patchNote(u, op("replace", "/name", "s3cret 1")))
}

func TestRefusedRequestsAndRepeatsTellNobody(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.serve(t)
	c := s.newCaller(t)
	u := c.create(t, newUser())
	heard := s.subscribe(t)
	c.call(t, "create", newUserOf(u)).refused(t, "conflict")
	c.call(t, "create", dict{}).refused(t, "bad_request")
	c.call(t, "patch", patchOf(u, op("remove", "/name"))).refused(t, "invalid_patch_result")
	c.call(t, "patch", patchOf(u, op("test", "/name", 7))).refused(t, "patch_failed")
	c.call(t, "patch", dict{"user_id": 99, "ops": list{}}).refused(t, "not_found")
	c.call(t, "delete", dict{"user_id": 99}).refused(t, "not_found")
	c.call(t, "get", dict{"user_id": u["id"]}).result(t)
	c.call(t, "list", dict{}).result(t)
	patch := c.request("patch", patchOf(u))
	c.ask(t, patch).result(t)
	c.ask(t, patch).result(t)
	c.call(t, "delete", dict{"user_id": u["id"]}).result(t)
	heard.hears(t, patchKey, patchNote(u))
	heard.hears(t, deleteKey, dict{"user_id": u["id"]})
}

// Whoever hears of a change finds it made.
func TestNotificationsFollowTheCommit(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.serve(t)
	c := s.newCaller(t)
	heard := s.subscribe(t)
	u := c.create(t, newUser())
	heard.next(t)
	for i := range 50 {
		name := fmt.Sprintf("s3cret %d", i)
		patch := c.request("patch", patchOf(u, op("replace", "/name", name)))
		c.send(t, patch)
		heard.hears(t, patchKey, patchNote(u, op("replace", "/name", name)))
		if n := s.count(t, "SELECT count(*) FROM users WHERE name = $1", name); n != 1 {
			t.Errorf("change %d was told and not made", i)
		}
		c.await(t, patch).result(t)
	}
}

// The order is that of the requests, also where most of them find no room in a
// mailbox.
func TestNotificationsComeInEachUsersOrder(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.settings["actor.mailbox"] = "10"
	s.serve(t)
	c := s.newCaller(t)
	const rounds = 200
	users := []dict{c.create(t, newUser()), c.create(t, newUser()), c.create(t, newUser())}
	heard := s.subscribe(t)
	var sent []*message
	for i := range rounds {
		for _, u := range users {
			// Each patch applies only after the one before.
			m := c.request("patch", patchOf(u, op("test", "/name", u["name"]), op("replace", "/name", fmt.Sprintf("s3cret %d", i))))
			u["name"] = fmt.Sprintf("s3cret %d", i)
			c.send(t, m)
			sent = append(sent, m)
		}
	}
	for _, m := range sent {
		c.await(t, m).result(t)
	}
	next, ids := make(map[any]int), make(map[string]bool)
	for range rounds * len(users) {
		n := heard.next(t)
		body := n.tree.(dict)
		user := body["user_id"]
		want := fmt.Sprintf("s3cret %d", next[user])
		if got := body["ops"].(list)[0].(dict)["value"]; got != want {
			t.Fatalf("user %v: heard of %q, want %q", user, got, want)
		}
		next[user]++
		if ids[n.messageID] {
			t.Errorf("the message id %s comes twice", n.messageID)
		}
		ids[n.messageID] = true
	}
}

// What was committed is told, also when nobody was there to tell it: here a
// commit whose process died before it could.
func TestNotificationsOutliveTheProcess(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	v := s.serve(t)
	c := s.newCaller(t)
	u := c.create(t, newUser())
	heard := s.subscribe(t)
	const patches = 300
	var sent []*message
	for i := range patches {
		m := c.request("patch", patchOf(u, op("replace", "/name", fmt.Sprintf("s3cret %d", i))))
		c.send(t, m)
		sent = append(sent, m)
	}
	c.await(t, sent[0]).result(t)
	v.kill(t)
	s.serve(t)
	for _, m := range sent[1:] {
		c.await(t, m).result(t)
	}
	// At least once, and in order, where a repeat is told by its id.
	seen, next := make(map[string]bool), 0
	for next < patches {
		n := heard.next(t)
		if seen[n.messageID] {
			continue
		}
		seen[n.messageID] = true
		want := fmt.Sprintf("s3cret %d", next)
		if got := n.tree.(dict)["ops"].(list)[0].(dict)["value"]; got != want {
			t.Fatalf("heard of %q, want %q", got, want)
		}
		next++
	}
	eventually(t, "the outbox is empty", func() bool { return s.count(t, "SELECT count(*) FROM ident_outbox") == 0 })
	if name := c.get(t, u["id"])["name"]; name != fmt.Sprintf("s3cret %d", patches-1) {
		t.Errorf("the user's name is %q", name)
	}
}
