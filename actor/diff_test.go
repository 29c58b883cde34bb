package actor

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/glotpod/ident/actor/jsonpatch"
)

func TestChanges(t *testing.T) {
	picture := "p"
	full := func() *User {
		return &User{ID: 1, Name: "Ada", Email: "e", PictureURL: &picture,
			GitHub: &Account{ID: 7, AccessToken: "s3cret-1"}, Facebook: &Account{ID: 8, AccessToken: "s3cret-2"}}
	}
	change := func(f func(u *User)) *User {
		u := full()
		f(u)
		return u
	}
	for _, c := range []struct {
		before, after *User
		want          string
	}{
		{nil, full(), `[{"op":"add","path":"","value":{"email":"e","facebook":{"id":8},"github":{"id":7},"id":1,"name":"Ada","picture_url":"p"}}]`},
		{full(), nil, `[{"op":"remove","path":""}]`},
		{full(), full(), ``},
		{nil, nil, ``},
		{full(), change(func(u *User) { u.Name, u.Email, u.PictureURL = "", "f", nil }),
			`[{"op":"replace","path":"/name","value":""},{"op":"replace","path":"/email","value":"f"},{"op":"remove","path":"/picture_url"}]`},
		{full(), change(func(u *User) { u.GitHub.AccessToken = "s3cret-3" }), `[{"op":"replace","path":"/github/access_token"}]`},
		{full(), change(func(u *User) { u.GitHub, u.Facebook = nil, &Account{ID: 9, AccessToken: "s3cret-4"} }),
			`[{"op":"remove","path":"/github"},{"op":"replace","path":"/facebook/id","value":9},{"op":"replace","path":"/facebook/access_token"}]`},
		{change(func(u *User) { u.GitHub = nil }), full(), `[{"op":"add","path":"/github","value":{"id":7}}]`},
	} {
		got := string(Changes(c.before, c.after))
		if got != c.want || strings.Contains(got, "s3cret") {
			t.Errorf("got  %s\nwant %s", got, c.want)
		}
	}
}

func TestPatchNotification(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		before, after := drawUser(t, "before"), drawUser(t, "after")
		tokens := rapid.Bool().Draw(t, "tokens")
		n := patchNotification(before, after, tokens)
		if !tokens && strings.Contains(string(n.Body), "s3cret") {
			t.Fatalf("a token in %s", n.Body)
		}
		var body struct {
			UserID int64 `json:"user_id"`
			Ops    []any `json:"ops"`
		}
		if err := json.Unmarshal(n.Body, &body); err != nil || body.UserID != 1 || body.Ops == nil {
			t.Fatalf("%s: %v", n.Body, err)
		}
		patch, err := jsonpatch.Parse(body.Ops)
		if err != nil {
			t.Fatal(err)
		}
		got, err := patch.Apply(viaJSON(t, before.tree(tokens)), jsonpatch.DefaultLimit)
		if want := viaJSON(t, after.tree(tokens)); err != nil || !reflect.DeepEqual(got, want) {
			t.Fatalf("%s makes %v, want %v: %v", n.Body, got, want, err)
		}
	})
}

func viaJSON(t *rapid.T, v any) (tree any) {
	b, err := json.Marshal(v)
	if err == nil {
		err = json.Unmarshal(b, &tree)
	}
	if err != nil {
		t.Fatal(err)
	}
	return tree
}
