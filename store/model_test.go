package store_test

import (
	"crypto/rand"
	"flag"
	"fmt"
	"reflect"
	"testing"

	"pgregory.net/rapid"

	"github.com/glotpod/ident/actor"
)

// A model is what the store promises of writes that come one after another.
type model struct {
	users map[int64]actor.User
}

func (m *model) taken(u *actor.User) bool {
	same := func(a, b *actor.Account) bool { return a != nil && b != nil && a.ID == b.ID }
	for id, other := range m.users {
		if id != u.ID && (other.Email == u.Email || same(other.GitHub, u.GitHub) || same(other.Facebook, u.Facebook)) {
			return true
		}
	}
	return false
}

func TestTheStoreDoesWhatItsModelDoes(t *testing.T) {
	h := start(t)
	// Each check takes tens of round trips: -rapid.checks asks for more.
	if f := flag.Lookup("rapid.checks"); f.Value.String() == f.DefValue {
		f.Value.Set("25")
		defer f.Value.Set(f.DefValue)
	}
	rapid.Check(t, func(r *rapid.T) {
		h.exec("TRUNCATE users, services, ident_outbox")
		m := model{users: map[int64]actor.User{}}
		account := rapid.Custom(func(r *rapid.T) args {
			return args{"id": rapid.IntRange(1, 3).Draw(r, "account"), "access_token": rapid.StringN(0, 3, -1).Filter(noNUL).Draw(r, "token")}
		})
		user := rapid.Custom(func(r *rapid.T) args {
			u := args{"name": rapid.StringN(0, 5, -1).Filter(noNUL).Draw(r, "name"), "email": rapid.SampledFrom([]string{"a", "b", "c"}).Draw(r, "email")}
			services := rapid.IntRange(1, 3).Draw(r, "services")
			if services&1 != 0 {
				u["github"] = account.Draw(r, "github")
			}
			if services&2 != 0 {
				u["facebook"] = account.Draw(r, "facebook")
			}
			if rapid.Bool().Draw(r, "with picture") {
				u["picture_url"] = rapid.SampledFrom([]string{"", "p"}).Draw(r, "picture")
			}
			return u
		})
		someone := func(r *rapid.T) int64 {
			ids := []int64{1 << 30} // who does not exist
			for id := range m.users {
				ids = append(ids, id)
			}
			return ids[rapid.IntRange(0, len(ids)-1).Draw(r, "who")]
		}
		write := func(operation string, id int64, a args, next *actor.User) {
			var want actor.Code
			_, exists := m.users[id]
			switch {
			case operation != "create" && !exists:
				want = actor.NotFound
			case next != nil && m.taken(next):
				want = actor.Conflict
			}
			w := request(t, operation, rand.Text(), a)
			w.UserID = id
			o, err := h.Commit(t.Context(), h.lease, w)
			if err != nil {
				r.Fatal(err)
			}
			var got actor.Code
			if o.Refusal != nil {
				got = o.Refusal.Code
			}
			if got != want {
				r.Fatalf("%s %v: %q, want %q", operation, a, got, want)
			}
			switch {
			case want != "":
			case next == nil:
				delete(m.users, id)
			default:
				m.users[id] = *next
			}
		}
		parsed := func(a args, id int64) *actor.User {
			tree := args{}
			for k, v := range a {
				tree[k] = v
			}
			for _, service := range []string{"github", "facebook"} {
				if acc, ok := a[service].(args); ok {
					tree[service] = args{"id": int64(acc["id"].(int)), "access_token": acc["access_token"]}
				}
			}
			u, err := actor.ParseUser(map[string]any(tree))
			if err != nil {
				r.Fatal(err)
			}
			u.ID = id
			return &u
		}
		r.Repeat(map[string]func(*rapid.T){
			"create": func(r *rapid.T) {
				a := user.Draw(r, "user")
				id, err := h.NewUserID(t.Context())
				if err != nil {
					r.Fatal(err)
				}
				write("create", id, a, parsed(a, id))
			},
			"replace": func(r *rapid.T) {
				id, a := someone(r), user.Draw(r, "user")
				write("patch", id, args{"user_id": id, "ops": replace("", a)}, parsed(a, id))
			},
			"delete": func(r *rapid.T) {
				id := someone(r)
				write("delete", id, args{"user_id": id}, nil)
			},
			"": func(r *rapid.T) {
				for id, want := range m.users {
					if got := h.get(id); got == nil || !reflect.DeepEqual(*got, want) {
						r.Fatalf("user %d is %+v, want %+v", id, got, want)
					}
				}
				counts := fmt.Sprint(h.one("SELECT count(*) FROM users"), h.one("SELECT count(*) FROM services s WHERE NOT EXISTS (SELECT FROM users u WHERE u.id = s.user_id)"))
				if counts != fmt.Sprint(len(m.users), 0) {
					r.Fatalf("users and stray services: %s, want %d", counts, len(m.users))
				}
			},
		})
	})
}

func noNUL(s string) bool {
	for _, r := range s {
		if r == 0 {
			return false
		}
	}
	return true
}
