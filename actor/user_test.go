package actor

import (
	"reflect"
	"testing"

	"pgregory.net/rapid"
)

func TestAUserIsReadFromTheAnswerAsItWasWorded(t *testing.T) {
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

func TestAUserIsReadFromNothingElse(t *testing.T) {
	answer := UserReply(ada)
	for n := len(resultHead); n < len(answer); n++ {
		if u, err := userInReply(answer[:n]); err == nil {
			t.Fatalf("the first %d of %d bytes are %+v", n, len(answer), u)
		}
	}
	for _, answer := range [][]byte{PageReply(nil, 0), userIDReply(7)} {
		if u, err := userInReply(answer); err == nil {
			t.Errorf("%q is %+v", answer, u)
		}
	}
}
