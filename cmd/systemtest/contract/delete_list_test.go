package contract

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/glotpod/ident/cmd/systemtest/harness"
)

func TestDelete(t *testing.T) {
	t.Parallel()
	s := harness.NewSite(t)
	s.Serve(t)
	c := s.NewCaller(t)
	u, other := c.Create(t, harness.NewUser("github", "facebook")), c.Create(t, harness.NewUser())
	c.Call(t, "delete", dict{"user_id": u["id"]}).IsResult(t, dict{"user_id": u["id"]})
	for _, args := range []dict{{"user_id": u["id"]}, {"email": u["email"]}, {"github_id": u["github"].(dict)["id"]}} {
		c.Call(t, "get", args).IsError(t, "not_found")
	}
	c.Call(t, "delete", dict{"user_id": u["id"]}).IsError(t, "not_found")
	c.Call(t, "patch", harness.Patch(u)).IsError(t, "not_found")
	if n := s.Count(t, "SELECT (SELECT count(*) FROM users) + (SELECT count(*) FROM services)"); n != 2 {
		t.Errorf("%d rows are left, want the other user's 2", n)
	}
	c.Call(t, "get", dict{"user_id": other["id"]}).IsResult(t, other)
	again := c.Create(t, harness.Changed(u, dict{"id": nil}))
	if again["id"] == u["id"] {
		t.Error("the id was given to another user")
	}
}

func TestList(t *testing.T) {
	t.Parallel()
	t.Run("pages", testListPages)
	t.Run("name_filter", testListNameFilter)
}

func testListPages(t *testing.T) {
	t.Parallel()
	s := harness.NewSite(t)
	s.Serve(t)
	c := s.NewCaller(t)
	c.CheckListed(t, dict{}, list{})
	var users list
	for i := range 7 {
		u := harness.NewUser([][]string{{"github"}, {"facebook"}, {"github", "facebook"}}[i%3]...)
		if i%2 == 0 {
			u["picture_url"] = "https://secret.example/1.png"
		}
		users = append(users, harness.AsListed(c.Create(t, u)))
	}
	c.CheckListed(t, dict{}, users)
	c.CheckListed(t, dict{"after_id": nil, "page_size": nil, "name": nil}, users)
	for _, size := range []int{1, 2, 3, 6, 7, 8, 1000} {
		var got list
		for args := (dict{"page_size": size}); ; {
			page := c.List(t, args)
			there := page["users"].(list)
			got = append(got, there...)
			next, more := page["next_after_id"]
			if !more {
				break
			}
			if len(there) != size || next != there[size-1].(dict)["id"] {
				t.Fatalf("a page of %d, of %d users, leads on after %v", size, len(there), next)
			}
			args["after_id"] = next
		}
		if !reflect.DeepEqual(got, users) {
			t.Errorf("pages of %d: got %v", size, got)
		}
	}
	for _, after := range []any{7, 8, 1 << 31, int64(1) << 62, uint64(1) << 63} {
		c.CheckListed(t, dict{"after_id": after}, list{})
	}
	for _, after := range []any{0, -1} {
		c.CheckListed(t, dict{"after_id": after}, users)
	}

	s.Exec(t, `INSERT INTO users (name, email_address) SELECT 's3cret', 's3cret' || i || '@secret.example' FROM generate_series(1, 1100) i`)
	for size, args := range map[int]dict{100: {}, 1000: {"page_size": 1000}} {
		if page := c.List(t, args); len(page["users"].(list)) != size || page["next_after_id"] == nil {
			t.Errorf("a page of %v has %d users", args, len(page["users"].(list)))
		}
	}
}

func TestGetMany(t *testing.T) {
	t.Parallel()
	s := harness.NewSite(t)
	s.Serve(t)
	c := s.NewCaller(t)
	var users list
	for i := range 4 {
		u := c.Create(t, harness.NewUser([][]string{{"github"}, {"facebook"}, {"github", "facebook"}}[i%3]...))
		users = append(users, harness.AsListed(u))
	}
	id := func(i int) any { return users[i].(dict)["id"] }
	c.Call(t, "delete", dict{"user_id": id(1)}).Result(t)
	last := harness.Changed(users[3].(dict), dict{"name": "s3cret new"})
	for _, direct := range []bool{false, true} { // a read after the reply to a write shows it, by each way
		c.Call(t, "patch", harness.Patch(last, op("replace", "/name", last["name"]))).Result(t)
		m := c.NewRequest("get_many", dict{"user_ids": list{id(3), id(0), id(1), 1 << 40, -1, uint64(1) << 63, id(3)}})
		if direct {
			m.Exchange, m.Key, m.Type = "glotpod.ident", fmt.Sprint(id(3)), m.Key
		}
		c.Ask(t, m).IsResult(t, dict{"users": list{users[0], last}})
		last["name"] = "s3cret newer"
	}
	for _, ids := range []list{{}, {0, -1, id(1)}, {1 << 40}} {
		c.Call(t, "get_many", dict{"user_ids": ids}).IsResult(t, dict{"users": list{}})
	}
	c.Call(t, "get_many", dict{"user_ids": slices.Repeat(list{id(0)}, 1000)}).IsResult(t, dict{"users": list{users[0]}})
	s.Exec(t, `INSERT INTO users (name, email_address) SELECT 's3cret', 's3cret' || i || '@secret.example' FROM generate_series(1, 1100) i`)
	var ids list
	for i := range 1000 {
		ids = append(ids, 1000-i)
	}
	page := c.Call(t, "get_many", dict{"user_ids": ids}).Result(t).(dict)
	if _, more := page["next_after_id"]; len(page["users"].(list)) != 999 || more {
		t.Errorf("%d users, and more: %t", len(page["users"].(list)), more)
	}
}

// manyWords returns n words, no two the same.
func manyWords(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "a%d ", i)
	}
	return b.String()
}

func testListNameFilter(t *testing.T) {
	t.Parallel()
	s := harness.NewSite(t)
	s.Serve(t)
	c := s.NewCaller(t)
	names := []string{"Ada Lovelace", "ada MAVIS", "Adam Ant", "Éloïse d'Avignon", "Jean-Luc Picard", "李 小龍", "O'Brien, Miles (Chief)", "Grace B. Hopper", "", "a.b@c/d"}
	for _, name := range names {
		c.Create(t, harness.Changed(harness.NewUser(), dict{"name": name}))
	}
	for filter, want := range map[string][]string{
		"ada":                                   {"Ada Lovelace", "ada MAVIS", "Adam Ant"},
		"ADA":                                   {"Ada Lovelace", "ada MAVIS", "Adam Ant"},
		"a":                                     {"Ada Lovelace", "ada MAVIS", "Adam Ant", "Éloïse d'Avignon", "a.b@c/d"},
		"lov ada":                               {"Ada Lovelace"},
		"ada  l":                                {"Ada Lovelace"},
		"da":                                    nil,
		"ada lovelacy":                          nil,
		"éLOÏ":                                  {"Éloïse d'Avignon"},
		"avi":                                   {"Éloïse d'Avignon"},
		"d'avi":                                 {"Éloïse d'Avignon"},
		"luc":                                   {"Jean-Luc Picard"},
		"jean-luc":                              {"Jean-Luc Picard"},
		"pic jean":                              {"Jean-Luc Picard"},
		"小":                                     {"李 小龍"},
		"o'br":                                  {"O'Brien, Miles (Chief)"},
		"chief miles":                           {"O'Brien, Miles (Chief)"},
		"hopper b":                              {"Grace B. Hopper"},
		"nobody":                                nil,
		"ada & !adam":                           {"Adam Ant"},
		"a:*b":                                  {"a.b@c/d"},
		"ada\\":                                 {"Ada Lovelace", "ada MAVIS", "Adam Ant"},
		"%":                                     names,
		"":                                      names,
		"  ":                                    names,
		strings.Repeat("a", 10_000):             nil,
		strings.Repeat("漢", 2_000):              nil,
		manyWords(100_000):                      nil,
		strings.Repeat("lov ", 100_000) + "ada": {"Ada Lovelace"},
	} {
		t.Run(filter[:min(len(filter), 20)], func(t *testing.T) {
			page := c.List(t, dict{"name": filter})
			var got []string
			for _, u := range page["users"].(list) {
				got = append(got, u.(dict)["name"].(string))
			}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("got %q, want %q", got, want)
			}
		})
	}
	page := c.Call(t, "list", dict{"name": "ada", "page_size": 1, "after_id": 1}).Result(t).(dict)
	if u := page["users"].(list)[0].(dict); u["name"] != "ada MAVIS" || page["next_after_id"] != u["id"] {
		t.Errorf("got the page %v", page)
	}
}
