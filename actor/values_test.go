package actor

import (
	"bytes"
	"math"
	"reflect"
	"testing"

	"github.com/tinylib/msgp/msgp"
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
	for _, reply := range [][]byte{PageReply(&UserPage{}), userIDReply(7)} {
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

// A request with integers encoded as floats is the same request.
func TestIntegersAsFloats(t *testing.T) {
	t.Run("reads", func(t *testing.T) { rapid.Check(t, checkReadAsFloats) })
	t.Run("writes", func(t *testing.T) { rapid.Check(t, checkWriteAsFloats) })
	t.Run("stored_as_integers", testFloatsStoredAsIntegers)
}

func checkReadAsFloats(t *rapid.T) {
	operation, args := "get", m{}
	if rapid.Bool().Draw(t, "list") {
		operation = "list"
		args["page_size"] = rapid.Int64Range(-1, 1001).Draw(t, "page_size")
		args["after_id"] = drawInteger(t, "after_id")
	} else {
		for _, key := range []string{"user_id", "github_id", "facebook_id"} {
			if rapid.Bool().Draw(t, "has "+key) {
				args[key] = drawInteger(t, key)
			}
		}
	}
	asInts, refusal := Parse(operation, encodeRandomly(t, args, false), RequestID{}, testLimits)
	asFloats, floatRefusal := Parse(operation, encodeRandomly(t, args, true), RequestID{}, testLimits)
	if !reflect.DeepEqual(asInts, asFloats) || !reflect.DeepEqual(refusal, floatRefusal) {
		t.Fatalf("%s %v: %+v, %v; as floats %+v, %v", operation, args, asInts, refusal, asFloats, floatRefusal)
	}
}

func checkWriteAsFloats(t *rapid.T) {
	operation, args := drawWrite(t)
	body, floatBody := encodeRandomly(t, args, false), encodeRandomly(t, args, true)
	w, floats := mustParseWrite(t, operation, body), mustParseWrite(t, operation, floatBody)
	if w.Digest != floats.Digest || w.UserID != floats.UserID {
		t.Fatalf("%s %v: digest %d, user %d; as floats %d, %d", operation, args, w.Digest, w.UserID, floats.Digest, floats.UserID)
	}
	var stored *User
	if operation != "create" {
		stored = drawUser(t, "stored")
	}
	tokens := rapid.Bool().Draw(t, "tokens")
	d, asFloats := w.Decide(stored, tokens), floats.Decide(stored, tokens)
	if d.Refusal != nil && asFloats.Refusal != nil {
		// Which of several wrong fields the message names depends on the order in a map.
		d.Refusal, asFloats.Refusal = &Refusal{Code: d.Refusal.Code}, &Refusal{Code: asFloats.Refusal.Code}
	}
	if !reflect.DeepEqual(d, asFloats) {
		t.Fatalf("%s %v: %+v; as floats %+v", operation, args, d, asFloats)
	}
	if operation != "patch" || w.Refusal() != nil {
		return
	}
	ops, ok := bytes.CutPrefix(floats.Reply(Outcome{}), resultHead)
	if !ok || !bytes.Contains(floatBody, ops) {
		t.Fatalf("the reply does not have the ops as given: %x, want those in %x", ops, floatBody)
	}
}

// drawWrite draws the arguments of a write. Most writes are valid.
func drawWrite(t *rapid.T) (operation string, args m) {
	account := func(label string) m { return m{"id": drawInteger(t, label), "access_token": "t"} }
	id := rapid.OneOf(rapid.Just(int64(1)), rapid.Int64Range(0, MaxUserID)).Draw(t, "user_id")
	switch operation = rapid.SampledFrom([]string{"create", "patch", "delete"}).Draw(t, "operation"); operation {
	case "create":
		return operation, with(with(validUser(), "github", account("github")), "id", drawInteger(t, "id"))
	case "delete":
		return operation, m{"user_id": id}
	}
	ops := []any{}
	for range rapid.IntRange(0, 3).Draw(t, "ops") {
		op := m{"op": rapid.SampledFrom([]string{"add", "replace", "test"}).Draw(t, "op"),
			"path": rapid.SampledFrom([]string{"/id", "/github/id", "/github", "/facebook", "/name"}).Draw(t, "path")}
		op["value"] = rapid.SampledFrom([]any{account("account"), drawInteger(t, "value"), int64(1), int64(2), "a"}).Draw(t, "which value")
		ops = append(ops, op)
	}
	return operation, m{"user_id": id, "ops": ops}
}

// drawInteger draws an integer of any size, often one near the limit of exact floats.
func drawInteger(t *rapid.T, label string) int64 {
	return rapid.OneOf(
		rapid.Int64Range(1, 9),
		rapid.Int64Range(-1<<53-1, -1<<53+1), rapid.Int64Range(1<<53-1, 1<<53+1),
		rapid.Int64Range(1<<31, 1<<40), rapid.Int64(),
	).Draw(t, label)
}

// encodeRandomly encodes a tree. With floats, it encodes each integer that is exact as a
// float as one, of 32 bits where these are enough and the draw says so.
func encodeRandomly(t *rapid.T, v any, floats bool) []byte {
	b, err := msgp.AppendIntf(nil, mapIntegers(v, func(i int64) any {
		switch {
		case !floats || i < -1<<53 || i > 1<<53:
			return i
		case int64(float32(i)) == i && rapid.Bool().Draw(t, "32 bits"):
			return float32(i)
		}
		return float64(i)
	}))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func mapIntegers(v any, f func(int64) any) any {
	switch v := v.(type) {
	case int:
		return f(int64(v))
	case int64:
		return f(v)
	case []any:
		list := make([]any, len(v))
		for i := range v {
			list[i] = mapIntegers(v[i], f)
		}
		return list
	case m:
		tree := m{}
		for key := range v {
			tree[key] = mapIntegers(v[key], f)
		}
		return tree
	}
	return v
}

func mustParseWrite(t *rapid.T, operation string, body []byte) *Write {
	r, refusal := Parse(operation, body, RequestID{}, testLimits)
	if refusal != nil {
		t.Fatal(refusal)
	}
	return r.Write
}

func testFloatsStoredAsIntegers(t *testing.T) {
	r, refusal := parse(t, "create", m{"id": 5.0, "name": "Ada", "email": "e",
		"github":   m{"id": float32(7), "access_token": "t"},
		"facebook": m{"id": math.Exp2(40), "access_token": "u"}})
	if refusal != nil || r.Write.Refusal() != nil {
		t.Fatal(refusal, r.Write.Refusal())
	}
	r.Write.UserID = 3
	d := r.Write.Decide(nil, false)
	const want = `{"email":"e","facebook":{"id":1099511627776},"github":{"id":7},"id":3,"name":"Ada"}`
	if string(d.Notification.Body) != want {
		t.Errorf("notified %s, want %s", d.Notification.Body, want)
	}
	r, _ = parse(t, "patch", m{"user_id": 3.0, "ops": []any{m{"op": "replace", "path": "/github/id", "value": math.Exp2(53)}}})
	d = r.Write.Decide(d.Next, false)
	if d.Refusal != nil || d.Next.GitHub.ID != 1<<53 {
		t.Fatalf("%+v, %v", d.Next, d.Refusal)
	}
	const wantPatch = `{"ops":[{"op":"replace","path":"/github/id","value":9007199254740992}],"user_id":3}`
	if string(d.Notification.Body) != wantPatch {
		t.Errorf("notified %s, want %s", d.Notification.Body, wantPatch)
	}
}

func TestHiddenTokens(t *testing.T) {
	t.Run("operations", testHiddenTokensOperations)
	t.Run("nothing_depends_on_them", testHiddenTokensNonInterference)
}

// decideHidden has a patch of a caller that must not learn tokens decide.
func decideHidden(t testing.TB, current *User, ops []any) Decision {
	t.Helper()
	r, refusal := parse(t, "patch", m{"user_id": current.ID, "ops": ops})
	if refusal != nil || r.Write.Refusal() != nil {
		return Decision{Refusal: r.Write.Refusal()}
	}
	r.Write.HidesTokens = true
	return r.Write.Decide(current, false)
}

func testHiddenTokensOperations(t *testing.T) {
	current := &User{ID: 3, Name: "Ada", Email: "a", GitHub: &Account{7, "gh-token"}, Facebook: &Account{8, "fb-token"}}
	do := func(verb, path string, value any) m { return m{"op": verb, "path": path, "value": value} }
	from := func(verb, from, path string) m { return m{"op": verb, "from": from, "path": path} }
	const github, facebook = "/github/access_token", "/facebook/access_token"
	for name, tc := range map[string]struct {
		ops          []any
		code         Code
		wantG, wantF string // tokens; "" for no account
	}{
		"nothing":                     {[]any{}, "", "gh-token", "fb-token"},
		"another_field":               {[]any{do("replace", "/name", "Eve")}, "", "gh-token", "fb-token"},
		"another_id":                  {[]any{do("replace", "/github/id", 9)}, "", "gh-token", "fb-token"},
		"replace":                     {[]any{do("replace", github, "new")}, "", "new", "fb-token"},
		"add":                         {[]any{do("add", github, "new")}, "", "new", "fb-token"},
		"remove_and_add":              {[]any{m{"op": "remove", "path": github}, do("add", github, "new")}, "", "new", "fb-token"},
		"remove":                      {[]any{m{"op": "remove", "path": github}}, InvalidPatchResult, "", ""},
		"remove_an_account":           {[]any{m{"op": "remove", "path": "/github"}}, "", "", "fb-token"},
		"move_an_account":             {[]any{from("move", "/github", "/facebook")}, "", "", "gh-token"},
		"copy_an_account":             {[]any{from("copy", "/github", "/facebook")}, "", "gh-token", "gh-token"},
		"swap_tokens":                 {[]any{from("move", github, "/x"), from("move", facebook, github), from("move", "/x", facebook)}, "", "fb-token", "gh-token"},
		"copy_to_the_name":            {[]any{from("copy", github, "/name")}, PatchFailed, "", ""},
		"move_to_the_picture":         {[]any{from("move", github, "/picture_url"), do("add", github, "new")}, PatchFailed, "", ""},
		"copy_to_an_id":               {[]any{from("copy", github, "/github/id")}, PatchFailed, "", ""},
		"by_another_name":             {[]any{from("copy", "/github", "/x"), from("copy", "/x/access_token", "/email"), m{"op": "remove", "path": "/x"}}, PatchFailed, "", ""},
		"in_a_list":                   {[]any{do("add", "/x", []any{}), from("copy", github, "/x/-"), from("copy", "/x/0", "/name"), m{"op": "remove", "path": "/x"}}, PatchFailed, "", ""},
		"left_in_a_list":              {[]any{do("add", "/x", []any{}), from("copy", github, "/x/-")}, PatchFailed, "", ""},
		"the_root":                    {[]any{from("copy", "", "/name")}, PatchFailed, "", ""},
		"test_a_token":                {[]any{do("test", github, "gh-token")}, PatchFailed, "", ""},
		"test_a_copy":                 {[]any{from("copy", github, "/name"), do("test", "/name", "gh-token")}, PatchFailed, "", ""},
		"test_a_list":                 {[]any{do("add", "/x", []any{}), from("copy", github, "/x/-"), do("test", "/x", []any{"gh-token"})}, PatchFailed, "", ""},
		"test_an_account_with_it":     {[]any{do("test", "/github", m{"id": 7, "access_token": "gh-token"})}, PatchFailed, "", ""},
		"test_an_account_as_seen":     {[]any{do("test", "/github", m{"id": 7})}, "", "gh-token", "fb-token"},
		"test_another_account":        {[]any{do("test", "/github", m{"id": 8})}, PatchFailed, "", ""},
		"test_the_user_as_seen":       {[]any{do("test", "", m{"id": 3, "name": "Ada", "email": "a", "github": m{"id": 7}, "facebook": m{"id": 8}})}, "", "gh-token", "fb-token"},
		"test_what_was_written":       {[]any{do("replace", github, "new"), do("test", github, "new")}, "", "new", "fb-token"},
		"test_an_account_written":     {[]any{do("add", "/github", m{"id": 9, "access_token": "new"}), do("test", "/github", m{"id": 9, "access_token": "new"})}, "", "new", "fb-token"},
		"a_pointer_into_a_token":      {[]any{do("add", github+"/x", 1)}, BadRequest, "", ""},
		"the_token_replaced_by_a_map": {[]any{do("replace", github, m{"x": 1}), from("copy", facebook, github+"/x")}, PatchFailed, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			d := decideHidden(t, current, tc.ops)
			var code Code
			if d.Refusal != nil {
				code = d.Refusal.Code
			}
			if code != tc.code {
				t.Fatalf("the refusal is %v, want %q", d.Refusal, tc.code)
			}
			if code != "" {
				return
			}
			for want, a := range map[*string]*Account{&tc.wantG: d.Next.GitHub, &tc.wantF: d.Next.Facebook} {
				if (a == nil) != (*want == "") || a != nil && a.AccessToken != *want {
					t.Errorf("an account is %+v, want the token %q", a, *want)
				}
			}
			for _, told := range [][]byte{d.Change, d.Notification.Body} {
				if bytes.Contains(told, []byte("-token")) {
					t.Errorf("a token is in %s", told)
				}
			}
		})
	}
}

// testHiddenTokensNonInterference: two users that differ in their tokens only look the same to a
// caller that must not learn tokens, whatever its patch is.
func testHiddenTokensNonInterference(t *testing.T) {
	path := rapid.SampledFrom([]string{"", "/name", "/email", "/picture_url", "/id", "/x", "/x/0", "/x/-", "/x/access_token", "/github", "/github/id",
		"/github/access_token", "/github/access_token/x", "/facebook", "/facebook/access_token"})
	value := rapid.SampledFrom([]any{"short", "a longer token", "Ada", 7, nil, []any{}, m{}, m{"id": 7}, m{"id": 7, "access_token": "short"},
		[]any{"short"}, m{"name": "Ada", "email": "a", "github": m{"id": 7, "access_token": "short"}}})
	rapid.Check(t, func(r *rapid.T) {
		users := make([]*User, 2)
		for i, token := range []string{"short", "a longer token"} {
			users[i] = &User{ID: 3, Name: "Ada", Email: "a", GitHub: &Account{7, token}, Facebook: &Account{8, "short"}}
		}
		var ops []any
		for range rapid.IntRange(1, 6).Draw(r, "operations") {
			op := m{"op": rapid.SampledFrom([]string{"add", "remove", "replace", "move", "copy", "test"}).Draw(r, "op"),
				"path": path.Draw(r, "path"), "from": path.Draw(r, "from"), "value": value.Draw(r, "value")}
			ops = append(ops, op)
		}
		var seen [2]any
		for i, u := range users {
			d := decideHidden(t, u, ops)
			if d.Next != nil {
				d.Next = &User{ID: d.Next.ID, Name: d.Next.Name, Email: d.Next.Email, PictureURL: d.Next.PictureURL}
			}
			d.Change, _ = withoutTokens(d.Change)
			if d.Refusal != nil && d.Refusal.Code == InvalidPatchResult {
				d.Refusal = refuse(InvalidPatchResult, "") // the message is about any one of several faults
			}
			seen[i] = d
		}
		if !reflect.DeepEqual(seen[0], seen[1]) {
			r.Fatalf("%v: %+v and %+v", ops, seen[0], seen[1])
		}
	})
}

func TestWithoutTokens(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		u := drawUser(r, "user")
		want := appendUser(appendResult(nil), u, false)
		if got := WithoutTokens(UserReply(u)); !bytes.Equal(got, want) {
			r.Fatalf("%q, want %q", got, want)
		}
	})
	for _, refusal := range []*Refusal{NoSuchUser, QueueUnavailable} { // one of them has retry_after_ms
		if e := ErrorReply(refusal); !bytes.Equal(WithoutTokens(e), e) || ErrorCode(e) != refusal.Code {
			t.Errorf("the error reply %q was changed", e)
		}
	}
	if got := WithoutTokens(append(bytes.Clone(resultHead), 0xc0)); ErrorCode(got) != InvocationFailed {
		t.Errorf("%q is no user", got)
	}
}
