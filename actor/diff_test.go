package actor_test

import (
	"strings"
	"testing"

	"github.com/glotpod/ident/actor"
)

func TestChangesNameWhatChangedAndHoldNoToken(t *testing.T) {
	picture := "p"
	full := func() *actor.User {
		return &actor.User{ID: 1, Name: "Ada", Email: "e", PictureURL: &picture,
			GitHub: &actor.Account{ID: 7, AccessToken: "s3cret-1"}, Facebook: &actor.Account{ID: 8, AccessToken: "s3cret-2"}}
	}
	change := func(f func(u *actor.User)) *actor.User {
		u := full()
		f(u)
		return u
	}
	for _, c := range []struct {
		before, after *actor.User
		want          string
	}{
		{nil, full(), `[{"op":"add","path":"","value":{"email":"e","facebook":{"id":8},"github":{"id":7},"id":1,"name":"Ada","picture_url":"p"}}]`},
		{full(), nil, `[{"op":"remove","path":""}]`},
		{full(), full(), ``},
		{nil, nil, ``},
		{full(), change(func(u *actor.User) { u.Name, u.Email, u.PictureURL = "", "f", nil }),
			`[{"op":"replace","path":"/name","value":""},{"op":"replace","path":"/email","value":"f"},{"op":"remove","path":"/picture_url"}]`},
		{full(), change(func(u *actor.User) { u.GitHub.AccessToken = "s3cret-3" }), `[{"op":"replace","path":"/github/access_token"}]`},
		{full(), change(func(u *actor.User) { u.GitHub, u.Facebook = nil, &actor.Account{ID: 9, AccessToken: "s3cret-4"} }),
			`[{"op":"remove","path":"/github"},{"op":"replace","path":"/facebook/id","value":9},{"op":"replace","path":"/facebook/access_token"}]`},
		{change(func(u *actor.User) { u.GitHub = nil }), full(), `[{"op":"add","path":"/github","value":{"id":7}}]`},
	} {
		got := string(actor.Changes(c.before, c.after))
		if got != c.want || strings.Contains(got, "s3cret") {
			t.Errorf("got  %s\nwant %s", got, c.want)
		}
	}
}
