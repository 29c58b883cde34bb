package actor

import (
	"reflect"
	"testing"

	"pgregory.net/rapid"

	"github.com/glotpod/ident/actor/msgpack"
)

func TestUserReply(t *testing.T) {
	t.Run("parsed_by_ParseUser", testUserReplyParsed)
	t.Run("decoded", testUserReplyDecoded)
	t.Run("truncated_or_another_reply", testUserReplyNotDecoded)
}

func testUserReplyParsed(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		u := drawUser(t, "user")
		msg, err := msgpack.Decode(UserReply(u), testLimits)
		if err != nil {
			t.Fatal(err)
		}
		got, err := ParseUser(msg.Tree.(map[string]any)["result"])
		if u.GitHub == nil && u.Facebook == nil {
			if err == nil {
				t.Fatal("a user without a service is valid")
			}
			return
		}
		got.ID = u.ID // ParseUser ignores ids
		if err != nil || !reflect.DeepEqual(&got, u) {
			t.Fatalf("%+v, %v; want %+v", got, err, u)
		}
	})
}

func testUserReplyDecoded(t *testing.T) {
	account := rapid.Ptr(rapid.Custom(func(r *rapid.T) Account {
		return Account{ID: rapid.Int64().Draw(r, "account"), AccessToken: rapid.String().Draw(r, "token")}
	}), true)
	rapid.Check(t, func(r *rapid.T) {
		u := &User{
			ID:         rapid.Int64Range(1, MaxUserID).Draw(r, "id"),
			Name:       rapid.String().Draw(r, "name"),
			Email:      rapid.String().Draw(r, "email"),
			PictureURL: rapid.Ptr(rapid.String(), true).Draw(r, "picture"),
			GitHub:     account.Draw(r, "github"),
			Facebook:   account.Draw(r, "facebook"),
		}
		got, err := userInReply(UserReply(u))
		if err != nil || !reflect.DeepEqual(got, u) {
			r.Fatalf("%+v, %v, want %+v", got, err, u)
		}
	})
}

func testUserReplyNotDecoded(t *testing.T) {
	reply := UserReply(ada)
	for n := len(resultHead); n < len(reply); n++ {
		if u, err := userInReply(reply[:n]); err == nil {
			t.Fatalf("the first %d of %d bytes are %+v", n, len(reply), u)
		}
	}
	for _, reply := range [][]byte{PageReply(nil, 0), userIDReply(7)} {
		if u, err := userInReply(reply); err == nil {
			t.Errorf("%q is %+v", reply, u)
		}
	}
}

func drawUser(t *rapid.T, label string) *User {
	account := func(what string) *Account {
		if rapid.Bool().Draw(t, what) {
			return nil
		}
		return &Account{ID: rapid.Int64Range(1, 3).Draw(t, what+" id"), AccessToken: rapid.SampledFrom([]string{"", "s3cret-a", "s3cret-b"}).Draw(t, what+" token")}
	}
	u := &User{ID: 1, Name: rapid.SampledFrom([]string{"", "a", "b"}).Draw(t, label+" name"), Email: rapid.SampledFrom([]string{"x", "y"}).Draw(t, label+" email"),
		GitHub: account(label + " github"), Facebook: account(label + " facebook")}
	if rapid.Bool().Draw(t, label+" picture") {
		url := rapid.SampledFrom([]string{"", "p", "q"}).Draw(t, label+" url")
		u.PictureURL = &url
	}
	return u
}
