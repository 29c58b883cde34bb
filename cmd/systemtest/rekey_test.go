package systemtest

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"testing"
)

// rekey runs the program's rekey until it ends.
func rekey(t *testing.T, s *site, keys settings, args ...string) (status int, stdout string) {
	t.Helper()
	status, stdout, stderr := runToEnd(t, s.settings.with(keys).environ(), append([]string{"rekey"}, args...)...)
	t.Logf("rekey %s ended with %d\n%s%s", strings.Join(args, " "), status, stdout, stderr)
	for _, secret := range marked {
		if strings.Contains(stdout, secret) {
			t.Errorf("rekey prints %s", secret)
		}
	}
	return status, stdout
}

// sealedBy says how many access tokens a key opens.
func sealedBy(t *testing.T, s *site, key string) (n int) {
	t.Helper()
	rows, err := s.db.Query(t.Context(), "SELECT access_token FROM services")
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var token []byte
		if err := rows.Scan(&token); err != nil {
			t.Fatal(err)
		}
		if unseal(t, key, token) != "" {
			n++
		}
	}
	return n
}

// A key is changed as the runbook says, while callers change their tokens all the
// time and are kept in memory.
func TestAKeyIsChangedWithoutACallerNoticing(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	oldKey, newKey := s.settings["database.encryption_key"], newKey()
	instances := []*service{s.serve(t), s.serve(t)}
	restart := func(keys ...string) {
		for i := range instances {
			instances[i].stop(t)
			instances[i] = s.serve(t, encryptionKeys(keys...))
		}
	}
	c := s.newCaller(t)
	users := make([]dict, 20)
	for i := range users {
		users[i] = c.create(t, newUser("github", "facebook"))
	}
	var over = make(chan struct{})
	var calling sync.WaitGroup
	for i, u := range users[:10] {
		calling.Go(func() {
			token := u["github"].(dict)["access_token"]
			for n := 0; ; n++ {
				select {
				case <-over:
					users[i] = changed(u, dict{"github": dict{"id": u["github"].(dict)["id"], "access_token": token}})
					return
				default:
				}
				next := fmt.Sprintf("s3cret-%d-%d", i, n)
				m := c.request("patch", patchOf(u, op("test", "/github/access_token", token), op("replace", "/github/access_token", next)))
				if err := c.publish(m); err != nil {
					t.Error(err)
					return
				}
				if a := <-c.answersTo(m.CorrelationId); a.code() != "" {
					t.Errorf("the patch that follows the token %v is answered %v", token, a.tree)
					return
				}
				token = next
			}
		})
	}
	restart(oldKey, newKey)
	restart(newKey, oldKey)
	if status, stdout := rekey(t, s, encryptionKeys(newKey, oldKey), "--rate", "0", "--batch", "7"); status != 0 || !strings.Contains(stdout, "can be removed") {
		t.Errorf("rekey ended with %d: %s", status, stdout)
	}
	close(over)
	calling.Wait()
	for _, u := range users[10:] { // whom nobody has changed since, right after
		u["name"] = "s3cret Eve"
		c.call(t, "patch", patchOf(u, op("replace", "/name", u["name"]))).result(t)
	}
	if n := sealedBy(t, s, newKey); n != 40 {
		t.Errorf("the new key opens %d of 40 tokens", n)
	}
	if status, _ := rekey(t, s, encryptionKeys(newKey), "--dry-run"); status != 0 {
		t.Errorf("with the new key alone, a dry run ended with %d", status)
	}
	restart(newKey)
	for _, u := range users {
		c.call(t, "get", dict{"user_id": u["id"]}).is(t, u)
	}
	for _, v := range instances {
		v.stop(t)
		if log := v.stderr.String(); strings.Contains(log, "access token") {
			t.Errorf("something is logged of tokens: %s", log)
		}
	}
}

func TestRekeyIsInterruptedAndGoesOn(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	oldKey, newKey := s.settings["database.encryption_key"], newKey()
	const all = 30
	for range all {
		s.insertUser(t, newUser())
	}
	keys := encryptionKeys(newKey, oldKey)
	p := launch(t, s.settings.with(keys).environ(), "rekey", "--rate", "4")
	eventually(t, "some are re-sealed", func() bool { return sealedBy(t, s, newKey) > 0 })
	p.terminate(t)
	if status := p.await(t, patience); status != 1 || !strings.Contains(p.stdout.String(), "Interrupted in pass 1") {
		t.Errorf("interrupted, rekey ended with %d: %s %s", status, p.stdout.String(), p.stderr.String())
	}
	done := sealedBy(t, s, newKey)
	status, stdout := rekey(t, s, keys, "--json")
	var report struct {
		AccessTokens struct{ Read, Resealed int } `json:"access_tokens"`
	}
	if err := json.Unmarshal([]byte(stdout), &report); err != nil || status != 0 || report.AccessTokens.Resealed != all-done || done == all {
		t.Errorf("then it ended with %d and %+v, after %d: %v", status, report, done, err)
	}
	if n := sealedBy(t, s, newKey); n != all {
		t.Errorf("the new key opens %d of %d", n, all)
	}
}

func TestRekeyListsWhatNoKeyOpensAndLeavesIt(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	oldKey, newKey := s.settings["database.encryption_key"], newKey()
	for range 3 {
		s.insertUser(t, newUser("github", "facebook"))
	}
	s.exec(t, "UPDATE services SET access_token = $1 WHERE user_id = 2 AND sv_name = 'fb'", seal(t, "s3cret"+strings.Repeat("B", 37)+"=", "s3cret"))
	before := s.contents(t)
	keys := encryptionKeys(newKey, oldKey)
	const line = "user 2, the access token of facebook"
	if status, stdout := rekey(t, s, keys, "--dry-run"); status != 1 || !strings.Contains(stdout, line) {
		t.Errorf("a dry run ended with %d: %s", status, stdout)
	}
	if s.contents(t) != before {
		t.Error("a dry run changes something")
	}
	if status, stdout := rekey(t, s, keys); status != 1 || !strings.Contains(stdout, line) {
		t.Errorf("rekey ended with %d: %s", status, stdout)
	}
	status, stdout := rekey(t, s, keys, "--json")
	count := func(read, unreadable int) dict {
		return dict{"read": read, "resealed": 0, "stale": 0, "unreadable": unreadable}
	}
	want := normal(dict{"dry_run": false, "done": true, "passes": 1, "access_tokens": normal(count(6, 1)), "notifications": normal(count(0, 0)),
		"unreadable": list{normal(dict{"user_id": 2, "service": "facebook"})}})
	if got := fromJSON(t, []byte(stdout)); status != 1 || !reflect.DeepEqual(got, want) {
		t.Errorf("again, it ended with %d and %v, want %v", status, got, want)
	}
	if n := sealedBy(t, s, newKey); n != 5 {
		t.Errorf("the new key opens %d", n)
	}
	s.settings = s.settings.with(keys)
	v := s.serve(t)
	const lost = "no key opens some access tokens: their users cannot be read"
	eventually(t, "the instance says so", func() bool { return v.stderr.count(lost) == 1 })
	if !strings.Contains(v.stderr.String(), `"unreadable":1,"sampled":6,"user_ids":[2]`) {
		t.Errorf("it does not say whose: %s", v.stderr.String())
	}
	s.exec(t, "DELETE FROM services WHERE user_id = 2 AND sv_name = 'fb'")
	if status, _ := rekey(t, s, keys); status != 0 {
		t.Errorf("in the end rekey ended with %d", status)
	}
}

func TestRekeyNeedsTheSchema(t *testing.T) {
	t.Parallel()
	if status, _ := rekey(t, emptySite(t), nil); status != 78 {
		t.Errorf("ended with %d", status)
	}
}
