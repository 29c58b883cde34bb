package contract

import (
	"math"
	"testing"

	"github.com/glotpod/ident/cmd/systemtest/harness"
)

func TestGet(t *testing.T) {
	t.Parallel()
	x := serve(t) // integer_widths needs the user with id 1
	x.run(t, "integer_widths", testGetIntegerWidths)
	x.run(t, "all_arguments_must_match", testGetAllArgumentsMustMatch)
	x.run(t, "wrong_arguments", testGetWrongArguments)
}

func testGetAllArgumentsMustMatch(t *testing.T, x *served) {
	c := x.caller
	ada := c.Create(t, harness.NewUser("github"))
	bob := c.Create(t, harness.NewUser("facebook"))
	eve := c.Create(t, harness.Changed(harness.NewUser("github", "facebook"), dict{"picture_url": "https://secret.example/eve.png", "name": "s3cret Ève 🦊"}))
	id := func(user dict, service string) any { return user[service].(dict)["id"] }

	for _, found := range []struct {
		args dict
		user dict
	}{
		{dict{"user_id": ada["id"]}, ada},
		{dict{"user_id": bob["id"]}, bob},
		{dict{"user_id": eve["id"]}, eve},
		{dict{"email": ada["email"]}, ada},
		{dict{"email": eve["email"]}, eve},
		{dict{"github_id": id(ada, "github")}, ada},
		{dict{"facebook_id": id(bob, "facebook")}, bob},
		{dict{"github_id": id(eve, "github")}, eve},
		{dict{"facebook_id": id(eve, "facebook")}, eve},
		{dict{"user_id": eve["id"], "email": eve["email"], "github_id": id(eve, "github"), "facebook_id": id(eve, "facebook")}, eve},
		{dict{"user_id": ada["id"], "email": nil, "github_id": nil, "facebook_id": nil}, ada},
		{dict{"user_id": nil, "email": bob["email"]}, bob},
		{dict{"github_id": id(ada, "github"), "facebook_id": nil}, ada},
	} {
		c.Call(t, "get", found.args).IsResult(t, found.user)
	}
	for _, args := range []dict{
		{"user_id": ada["id"], "email": bob["email"]},
		{"user_id": ada["id"], "github_id": id(eve, "github")},
		{"user_id": bob["id"], "github_id": id(ada, "github")},
		{"github_id": id(eve, "github"), "facebook_id": id(bob, "facebook")},
		{"github_id": id(bob, "facebook")},
		{"facebook_id": id(ada, "github")},
		{"user_id": ada["id"], "email": "nobody@secret.example"},
		{"user_id": eve["id"], "email": eve["email"], "github_id": id(eve, "github"), "facebook_id": 7},
	} {
		c.Call(t, "get", args).IsError(t, "not_found")
	}
}

func testGetWrongArguments(t *testing.T, x *served) {
	c := x.caller
	u := c.Create(t, harness.NewUser("github", "facebook"))
	for _, id := range []any{"abc", "", "1", 10.38, 1.5, true, false, list{}, list{1}, dict{}, dict{"id": 1},
		0, -1, 1 << 31, 1 << 32, 1<<32 + 1, math.MinInt64, math.MaxInt64, uint64(math.MaxUint64), math.Inf(1), math.NaN()} {
		for _, key := range []string{"user_id", "github_id", "facebook_id"} {
			if a := c.Call(t, "get", dict{key: id}); a.ErrorCode() != "not_found" {
				t.Errorf("get by the %s %v: %v", key, id, a.Value)
			}
			if a := c.Call(t, "get", dict{key: id, "email": u["email"]}); a.ErrorCode() != "not_found" {
				t.Errorf("get by the %s %v and an email: %v", key, id, a.Value)
			}
		}
	}
	for _, email := range []any{"", 1, 10.38, true, list{}, dict{}, "s3cret", "%", "S3CRET-1@SECRET.EXAMPLE"} {
		c.Call(t, "get", dict{"email": email}).IsError(t, "not_found")
		c.Call(t, "get", dict{"email": email, "user_id": u["id"]}).IsError(t, "not_found")
	}
	for _, body := range []string{
		"\x81\xa7user_id\xc4\x01\x01",             // bytes
		"\x81\xa7user_id\xd4\x01\x01",             // an extension
		"\x81\xa7user_id\xd6\xff\x00\x00\x00\x01", // a timestamp
		"\x81\xa7user_id\x81\x01\x01",             // a map with a key that is no string
	} {
		c.Call(t, "get", []byte(body)).IsError(t, "not_found")
	}
}

// An integer has the same meaning in each width.
func testGetIntegerWidths(t *testing.T, x *served) {
	c := x.caller
	u := c.Create(t, harness.NewUser())
	for _, one := range []string{"\x01", "\xcc\x01", "\xcd\x00\x01", "\xce\x00\x00\x00\x01", "\xcf\x00\x00\x00\x00\x00\x00\x00\x01",
		"\xd0\x01", "\xd1\x00\x01", "\xd2\x00\x00\x00\x01", "\xd3\x00\x00\x00\x00\x00\x00\x00\x01",
		"\xca\x3f\x80\x00\x00", "\xcb\x3f\xf0\x00\x00\x00\x00\x00\x00"} {
		c.Call(t, "get", []byte("\x81\xa7user_id"+one)).IsResult(t, u)
		c.Call(t, "get", []byte("\xde\x00\x01\xd9\x07user_id"+one)).IsResult(t, u)
	}
}
