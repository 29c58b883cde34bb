package client

import (
	"errors"
	"reflect"
	"testing"
)

func TestApply(t *testing.T) {
	github := &Account{ID: 7}
	old := User{ID: 1, Name: "Ada", Email: "a@b", PictureURL: "p", GitHub: github}
	for _, x := range []struct {
		name string
		ops  []Op
		want User
	}{
		{"nothing", nil, old},
		{"texts", []Op{Replace("/name", "B"), Replace("/email", "b@b"), Remove("/picture_url")}, User{ID: 1, Name: "B", Email: "b@b", GitHub: github}},
		{"accounts", []Op{Add("/facebook", map[string]any{"id": int64(1) << 60, "later": true}), Remove("/github")},
			User{ID: 1, Name: "Ada", Email: "a@b", PictureURL: "p", Facebook: &Account{ID: 1 << 60}}},
		{"members_of_accounts", []Op{Replace("/github/id", int64(8)), Add("/facebook/id", int64(9)), Replace("/facebook/access_token", "t")},
			User{ID: 1, Name: "Ada", Email: "a@b", PictureURL: "p", GitHub: &Account{ID: 8}, Facebook: &Account{ID: 9, AccessToken: "t"}}},
		{"members_of_a_later_version", []Op{Add("/later", []any{}), Add("/github/later", "x"), Replace("/name", "B")},
			User{ID: 1, Name: "B", Email: "a@b", PictureURL: "p", GitHub: github}},
	} {
		t.Run(x.name, func(t *testing.T) {
			u := old
			for range 2 { // the second time changes nothing
				if err := u.Apply(x.ops); err != nil || !reflect.DeepEqual(u, x.want) {
					t.Errorf("got %+v, %v", u, err)
				}
			}
			if *github != (Account{ID: 7}) {
				t.Fatalf("the account of a copy is %+v", *github)
			}
		})
	}
	for name, op := range map[string]Op{
		"name": Replace("/name", int64(1)), "account": Add("/github", "x"), "member": Add("/github", map[string]any{"id": "x"}),
		"id": Replace("/github/id", 1.5), "test": Test("/name", "Ada"), "move": Move("/name", "/email"),
	} {
		t.Run("wrong_"+name, func(t *testing.T) {
			u := old
			if err := u.Apply([]Op{Replace("/email", "new"), op}); !errors.Is(err, ErrMalformed) || !reflect.DeepEqual(u, old) {
				t.Errorf("got %+v, %v", u, err)
			}
		})
	}
}
