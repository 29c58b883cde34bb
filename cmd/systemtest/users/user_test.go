package users

import (
	"encoding/hex"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/glotpod/ident/cmd/systemtest/harness"
)

// user runs the program's command user.
func user(t *testing.T, s *harness.Site, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	return harness.Run(t, s.Settings.Environ(), append([]string{"user"}, args...)...)
}

// tablesWith returns the tables that have a text, or its bytes, in some column.
func tablesWith(t *testing.T, s *harness.Site, text string) (found []string) {
	t.Helper()
	rows, err := s.DB.Query(t.Context(), "SELECT oid::regclass::text FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'")
	if err != nil {
		t.Fatal(err)
	}
	tables, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	for _, table := range tables {
		if s.Count(t, "SELECT count(*) FROM "+table+" AS r WHERE position($1 IN r::text) > 0 OR position($2 IN r::text) > 0", text, hex.EncodeToString([]byte(text))) > 0 {
			found = append(found, table)
		}
	}
	return found
}

func TestUser(t *testing.T) {
	t.Parallel()
	t.Run("commands", testUserCommands)
	t.Run("erased_under_load", testUserErasedUnderLoad)
}

func testUserCommands(t *testing.T) {
	t.Parallel()
	s := harness.NewSite(t)
	s.Serve(t)
	c := s.NewCaller(t)
	u := harness.NewUser("github", "facebook")
	u["picture_url"] = "https://secret.example/1.png"
	u["github"].(dict)["id"] = int64(7_654_321_098_765)
	u = c.Create(t, u)
	other := c.Create(t, harness.NewUser())
	id := fmt.Sprint(u["id"])
	c.Call(t, "patch", harness.Patch(u, op("replace", "/name", "s3cret \x1b[31m new"))).Result(t)
	u["name"] = "s3cret \x1b[31m new"
	c.Call(t, "patch", harness.Patch(u, op("test", "/name", "s3cret"))).IsError(t, "patch_failed")
	position := c.Call(t, "changes", dict{}).Result(t).(dict)["changes"].(list)
	known := []string{u["email"].(string), "secret.example/1.png", "7654321098765"}

	if status, stdout, _ := user(t, s, "show", id, "--json"); status != 0 || !reflect.DeepEqual(harness.FromJSON(t, []byte(stdout)), harness.AsListed(u)) {
		t.Errorf("show --json: %d, %s", status, stdout)
	}
	for _, args := range [][]string{{"show", id}, {"changes", id}, {"changes", "--json", id}} {
		status, stdout, _ := user(t, s, args...)
		if status != 0 || !strings.Contains(stdout, known[0]) || strings.ContainsRune(stdout, '\x1b') || strings.Contains(stdout, u["github"].(dict)["access_token"].(string)) {
			t.Errorf("%v: %d, %s", args, status, stdout)
		}
	}
	if _, stdout, _ := user(t, s, "changes", id); strings.Count(stdout, "\n") != 4 || !strings.Contains(stdout, "patch_failed") {
		t.Errorf("changes prints %s", stdout)
	}
	for _, args := range [][]string{{"show", "77"}, {"changes", "77"}, {"erase", "77", "--yes"}, {"erase", id}} {
		if status, stdout, stderr := user(t, s, args...); status != 1 || stderr == "" {
			t.Errorf("%v: %d, %s%s", args, status, stdout, stderr)
		}
	}
	for _, args := range [][]string{{}, {"show"}, {"drop", id}, {"show", "x"}, {"erase", "0"}} {
		if status, _, _ := user(t, s, args...); status != 2 {
			t.Errorf("%v: %d", args, status)
		}
	}
	c.Call(t, "get", dict{"user_id": u["id"]}).IsResult(t, u) // an erasure that was not confirmed does nothing

	if status, stdout, stderr := user(t, s, "erase", "--yes", id); status != 0 || !strings.Contains(stdout, "was deleted, and 2 rows of the log were erased\n3 rows keep") {
		t.Errorf("erase: %d, %s%s", status, stdout, stderr)
	}
	if status, stdout, _ := user(t, s, "erase", "--yes", id, "--json"); status != 0 ||
		!reflect.DeepEqual(harness.FromJSON(t, []byte(stdout)), harness.Normalize(dict{"id": u["id"], "deleted": false, "rows": 0, "left": 3})) {
		t.Errorf("erase --json: %d, %s", status, stdout)
	}
	c.Call(t, "get", dict{"user_id": u["id"]}).IsError(t, "not_found")
	for _, text := range known {
		if found := tablesWith(t, s, text); found != nil {
			t.Errorf("%v have %s", found, text)
		}
	}
	if found := tablesWith(t, s, other["email"].(string)); len(found) != 2 {
		t.Errorf("another user is in %v", found)
	}

	changes := c.Call(t, "changes", dict{}).Result(t).(dict)["changes"].(list)
	want := harness.Normalize(list{
		dict{"user_id": u["id"], "sequence": 1, "operation": "create", "user": dict{"id": u["id"], "name": "", "email": "erased-" + id + "@invalid"}},
		dict{"user_id": u["id"], "sequence": 2, "operation": "patch", "ops": list{}},
		dict{"user_id": u["id"], "sequence": 3, "operation": "delete"},
	})
	var got list
	for i, change := range changes {
		change := change.(dict)
		if i < len(position) && change["time"] != position[i].(dict)["time"] {
			t.Errorf("the time of %v was %v", change, position[i])
		}
		delete(change, "time")
		if change["user_id"] == u["id"] {
			got = append(got, change)
		}
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("changes has %v", got)
	}
	if status, stdout, _ := user(t, s, "changes", id); status != 0 || strings.Count(stdout, "\n") != 6 { // the second erasure was a refused delete
		t.Errorf("changes prints %s", stdout)
	}

	// A user that another program has deleted is erased too.
	s.Exec(t, "DELETE FROM services WHERE user_id = $1", other["id"])
	s.Exec(t, "DELETE FROM users WHERE id = $1", other["id"])
	if status, stdout, stderr := user(t, s, "erase", "--yes", fmt.Sprint(other["id"])); status != 0 || !strings.Contains(stdout, "before; 1 rows") {
		t.Errorf("%d, %s%s", status, stdout, stderr)
	}
	if found := tablesWith(t, s, other["email"].(string)); found != nil {
		t.Errorf("the other user is in %v", found)
	}
}

// testUserErasedUnderLoad erases a user that callers change, while its partition is handed over and
// its notifications are held back.
func testUserErasedUnderLoad(t *testing.T) {
	t.Parallel()
	s := harness.NewSite(t)
	s.Settings["notifications.include_access_tokens"] = "true"
	first := s.Serve(t)
	c := s.NewCaller(t)
	heard := s.Subscribe(t)
	unbind := fullQueue(t, s)
	u := c.Create(t, harness.NewUser())
	const mark = "s3cret-of-the-erased"
	var writing sync.WaitGroup
	var gone sync.Once
	erase := make(chan struct{})
	for i := range 4 {
		caller := s.NewCaller(t)
		writing.Go(func() {
			for n := 0; ; n++ {
				if n == 50 {
					gone.Do(func() { close(erase) })
				}
				args := harness.Patch(u, op("replace", "/name", fmt.Sprint(mark, i, n)), op("replace", "/email", fmt.Sprint(mark, i, "-", n)))
				if code := caller.Call(t, "patch", args).ErrorCode(); code == "not_found" {
					return
				} else if code != "" {
					t.Errorf("a patch got %s", code)
					return
				}
			}
		})
	}
	<-erase
	writing.Go(func() { first.Stop(t) })
	s.Serve(t)
	if status, stdout, stderr := user(t, s, "erase", "--yes", fmt.Sprint(u["id"])); status != 0 {
		t.Errorf("%d, %s%s", status, stdout, stderr)
	}
	writing.Wait()
	for _, text := range []string{mark, u["email"].(string)} {
		if found := tablesWith(t, s, text); found != nil {
			t.Errorf("%v have %s", found, text)
		}
	}
	if n := s.Count(t, "SELECT count(*) FROM ident_sealed WHERE user_id = $1", u["id"]); n != 0 {
		t.Errorf("%d notifications with its content are left", n)
	}
	unbind()
	last := int64(0)
	for key := ""; key != harness.DeleteKey; {
		n := heard.Next(t)
		if n.Sequence > last+1 {
			t.Errorf("the change %d follows %d", n.Sequence, last)
		}
		last, key = max(last, n.Sequence), n.Key
	}
	if want := int64(s.Count(t, "SELECT max(sequence) FROM ident_log WHERE user_id = $1", u["id"])); last != want {
		t.Errorf("the last notification was of the change %d of %d", last, want)
	}
}
