package users

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/glotpod/ident/cmd/systemtest/harness"
)

// rekey runs the program's rekey until it ends.
func rekey(t *testing.T, s *harness.Site, keys harness.Settings, args ...string) (status int, stdout string) {
	t.Helper()
	status, stdout, stderr := harness.Run(t, s.Settings.With(keys).Environ(), append([]string{"rekey"}, args...)...)
	t.Logf("rekey %s ended with %d\n%s%s", strings.Join(args, " "), status, stdout, stderr)
	for _, secret := range harness.Secrets {
		if strings.Contains(stdout, secret) {
			t.Errorf("rekey prints %s", secret)
		}
	}
	return status, stdout
}

// sealedBy says how many access tokens a key decrypts.
func sealedBy(t *testing.T, s *harness.Site, key string) (n int) {
	t.Helper()
	rows, err := s.DB.Query(t.Context(), "SELECT access_token FROM services")
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var token []byte
		if err := rows.Scan(&token); err != nil {
			t.Fatal(err)
		}
		if harness.Unseal(t, key, token) != "" {
			n++
		}
	}
	return n
}

func TestRekey(t *testing.T) {
	t.Parallel()
	t.Run("under_load", testRekeyUnderLoad)
	t.Run("interrupted", testRekeyInterrupted)
	t.Run("unreadable_tokens", testRekeyUnreadableTokens)
	t.Run("no_schema", testRekeyNoSchema)
}

// fullQueue declares a queue that refuses each notification of a patch until it is unbound.
func fullQueue(t *testing.T, s *harness.Site) (unbind func()) {
	t.Helper()
	conn, err := amqp.Dial(s.AMQPURL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.CloseDeadline(time.Now().Add(harness.Timeout)) })
	channel, err := conn.Channel()
	if err != nil {
		t.Fatal(err)
	}
	const key = "notifications.user.patch"
	q, err := channel.QueueDeclare("", false, true, true, false, amqp.Table{"x-max-length": 0, "x-overflow": "reject-publish"})
	if err != nil {
		t.Fatal(err)
	}
	if err := channel.QueueBind(q.Name, key, "amq.topic", false, nil); err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := channel.QueueUnbind(q.Name, key, "amq.topic", nil); err != nil {
			t.Error(err)
		}
	}
}

// A tokenChanger changes the token of each of some users all the time.
type tokenChanger struct {
	over    chan struct{}
	calling sync.WaitGroup
	tokens  [][]string // those that each user had in turn
}

// changeTokens starts a tokenChanger. Each patch tests that the token is the last one.
func changeTokens(t *testing.T, c *harness.Caller, users []dict) *tokenChanger {
	ch := &tokenChanger{over: make(chan struct{}), tokens: make([][]string, len(users))}
	for i, u := range users {
		ch.calling.Go(func() {
			token := u["github"].(dict)["access_token"].(string)
			for n := 0; ; n++ {
				select {
				case <-ch.over:
					users[i] = harness.Changed(u, dict{"github": dict{"id": u["github"].(dict)["id"], "access_token": token}})
					return
				default:
				}
				next := fmt.Sprintf("s3cret-%d-%d", i, n)
				m := c.NewRequest("patch", harness.Patch(u, op("test", "/github/access_token", token), op("replace", "/github/access_token", next)))
				if err := c.Publish(m); err != nil {
					t.Error(err)
					return
				}
				if a := <-c.Replies(m.CorrelationId); a.ErrorCode() != "" {
					t.Errorf("the patch that follows the token %v is answered %v", token, a.Value)
					return
				}
				token = next
				ch.tokens[i] = append(ch.tokens[i], token)
			}
		})
	}
	return ch
}

// stop returns the tokens that each user had in turn. The users have the last ones.
func (ch *tokenChanger) stop() [][]string {
	close(ch.over)
	ch.calling.Wait()
	return ch.tokens
}

// A key is changed as the runbook says, while callers change their tokens all the
// time and are kept in memory. Notifications with access tokens cannot be sent meanwhile.
func testRekeyUnderLoad(t *testing.T) {
	t.Parallel()
	s := harness.NewSite(t)
	s.Settings["notifications.include_access_tokens"] = "true"
	oldKey, newKey := s.Settings["database.encryption_key"], harness.NewKey()
	instances := []*harness.Instance{s.Serve(t), s.Serve(t)}
	restart := func(keys ...string) {
		for i := range instances {
			instances[i].Stop(t)
			instances[i] = s.Serve(t, harness.EncryptionKeys(keys...))
		}
	}
	c := s.NewCaller(t)
	users := make([]dict, 20)
	for i := range users {
		users[i] = c.Create(t, harness.NewUser("github", "facebook"))
	}
	harness.Eventually(t, "the creates are notified", func() bool { return s.Unnotified(t) == 0 })
	unbind, heard := fullQueue(t, s), s.Subscribe(t)
	changing := changeTokens(t, c, users[:10])
	restart(oldKey, newKey)
	restart(newKey, oldKey)
	if status, stdout := rekey(t, s, harness.EncryptionKeys(newKey, oldKey), "--rate", "0", "--batch", "7"); status != 0 || !strings.Contains(stdout, "can be removed") {
		t.Errorf("rekey ended with %d: %s", status, stdout)
	}
	tokens := changing.stop()
	for _, u := range users[10:] { // these users were not changed since
		u["name"] = "s3cret Eve"
		c.Call(t, "patch", harness.Patch(u, op("replace", "/name", u["name"]))).Result(t)
	}
	if n := sealedBy(t, s, newKey); n != 40 {
		t.Errorf("the new key decrypts %d of 40 tokens", n)
	}
	if status, _ := rekey(t, s, harness.EncryptionKeys(newKey), "--dry-run"); status != 0 {
		t.Errorf("with the new key alone, a dry run ended with %d", status)
	}
	stored := s.Count(t, "SELECT count(*) FROM ident_sealed")
	restart(newKey)
	unbind()
	checkTokensNotified(t, heard, users[:10], tokens)
	harness.Eventually(t, "nothing is left to be notified", func() bool {
		return s.Unnotified(t) == 0 && s.Count(t, "SELECT count(*) FROM ident_sealed") == 0
	})
	if want := len(slices.Concat(tokens...)) + 10; stored != want { // and the patches of names
		t.Errorf("%d encrypted notifications were stored, want %d", stored, want)
	}
	for _, u := range users {
		c.Call(t, "get", dict{"user_id": u["id"]}).IsResult(t, u)
	}
	for _, v := range instances {
		v.Stop(t)
		if log := v.Stderr.String(); strings.Contains(log, "access token") {
			t.Errorf("something is logged of tokens: %s", log)
		}
	}
}

// checkTokensNotified waits until the subscriber has heard of all tokens that each user had, in
// this order. A repeated notification is ignored.
func checkTokensNotified(t *testing.T, heard *harness.Subscriber, users []dict, tokens [][]string) {
	t.Helper()
	next := make(map[any]int64)
	for left := len(users); left > 0; {
		n := heard.Next(t)
		value := n.Value.(dict)
		i := slices.IndexFunc(users, func(u dict) bool { return u["id"] == value["user_id"] })
		if i < 0 || n.Sequence < next[i]+2 { // the create has the number 1
			continue
		}
		want := harness.Normalize(list{op("replace", "/github/access_token", tokens[i][next[i]])})
		if next[i]++; n.Sequence != next[i]+1 || !reflect.DeepEqual(value["ops"], want) {
			t.Fatalf("heard of %v as change %d of user %v, want %v", value["ops"], n.Sequence, users[i]["id"], want)
		}
		if next[i] == int64(len(tokens[i])) {
			left--
		}
	}
}

func testRekeyInterrupted(t *testing.T) {
	t.Parallel()
	s := harness.NewSite(t)
	oldKey, newKey := s.Settings["database.encryption_key"], harness.NewKey()
	const all = 30
	for range all {
		s.InsertUser(t, harness.NewUser())
	}
	keys := harness.EncryptionKeys(newKey, oldKey)
	p := harness.Launch(t, s.Settings.With(keys).Environ(), "rekey", "--rate", "4")
	harness.Eventually(t, "some are re-sealed", func() bool { return sealedBy(t, s, newKey) > 0 })
	p.Terminate(t)
	if status := p.AwaitExit(t, harness.Timeout); status != 1 || !strings.Contains(p.Stdout.String(), "Interrupted in pass 1") {
		t.Errorf("interrupted, rekey ended with %d: %s %s", status, p.Stdout.String(), p.Stderr.String())
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
		t.Errorf("the new key decrypts %d of %d", n, all)
	}
}

func testRekeyUnreadableTokens(t *testing.T) {
	t.Parallel()
	s := harness.NewSite(t)
	oldKey, newKey := s.Settings["database.encryption_key"], harness.NewKey()
	for range 3 {
		s.InsertUser(t, harness.NewUser("github", "facebook"))
	}
	s.Exec(t, "UPDATE services SET access_token = $1 WHERE user_id = 2 AND sv_name = 'fb'", harness.Seal(t, "s3cret"+strings.Repeat("B", 37)+"=", "s3cret"))
	before := s.Contents(t)
	keys := harness.EncryptionKeys(newKey, oldKey)
	const line = "user 2, the access token of facebook"
	if status, stdout := rekey(t, s, keys, "--dry-run"); status != 1 || !strings.Contains(stdout, line) {
		t.Errorf("a dry run ended with %d: %s", status, stdout)
	}
	if s.Contents(t) != before {
		t.Error("a dry run changes something")
	}
	if status, stdout := rekey(t, s, keys); status != 1 || !strings.Contains(stdout, line) {
		t.Errorf("rekey ended with %d: %s", status, stdout)
	}
	status, stdout := rekey(t, s, keys, "--json")
	count := func(read, unreadable int) dict {
		return dict{"read": read, "resealed": 0, "stale": 0, "unreadable": unreadable}
	}
	want := harness.Normalize(dict{"dry_run": false, "done": true, "passes": 1, "access_tokens": harness.Normalize(count(6, 1)), "notifications": harness.Normalize(count(0, 0)),
		"unreadable": list{harness.Normalize(dict{"user_id": 2, "service": "facebook"})}})
	if got := harness.FromJSON(t, []byte(stdout)); status != 1 || !reflect.DeepEqual(got, want) {
		t.Errorf("again, it ended with %d and %v, want %v", status, got, want)
	}
	if n := sealedBy(t, s, newKey); n != 5 {
		t.Errorf("the new key decrypts %d", n)
	}
	s.Settings = s.Settings.With(keys)
	v := s.Serve(t)
	const lost = "no key decrypts some access tokens: their users cannot be read"
	harness.Eventually(t, "the instance says so", func() bool { return v.Stderr.Count(lost) == 1 })
	if !strings.Contains(v.Stderr.String(), `"unreadable":1,"sampled":6,"user_ids":[2]`) {
		t.Errorf("it does not say whose: %s", v.Stderr.String())
	}
	s.Exec(t, "DELETE FROM services WHERE user_id = 2 AND sv_name = 'fb'")
	if status, _ := rekey(t, s, keys); status != 0 {
		t.Errorf("in the end rekey ended with %d", status)
	}
}

func testRekeyNoSchema(t *testing.T) {
	t.Parallel()
	if status, _ := rekey(t, harness.NewEmptySite(t), nil); status != 78 {
		t.Errorf("ended with %d", status)
	}
}
