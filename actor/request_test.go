package actor

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/tinylib/msgp/msgp"
	"go.uber.org/goleak"

	"github.com/glotpod/ident/actor/msgpack"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var testLimits = msgpack.Limits{Bytes: 1 << 20, Depth: 32, Values: 100_000}

func encode(t testing.TB, v any) []byte {
	t.Helper()
	b, err := msgp.AppendIntf(nil, v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func parse(t testing.TB, operation string, args any) (Request, *Refusal) {
	t.Helper()
	return Parse(operation, encode(t, args), RequestID{}, testLimits)
}

type m = map[string]any

func validUser() m {
	return m{"name": "Ada", "email": "ada@example.org", "github": m{"id": 7, "access_token": "t"}}
}

// beyondExact is the first integer above 2^53 that a float64 can hold. No float from there
// on counts as an integer.
const beyondExact = float64(1<<53 + 2)

func with(base m, key string, value any) m {
	base[key] = value
	return base
}

func without(base m, key string) m {
	delete(base, key)
	return base
}

func TestParse(t *testing.T) {
	t.Run("refusals", testParseRefusals)
	t.Run("get_that_matches_no_user", testParseGetNoMatch)
}

func testParseRefusals(t *testing.T) {
	patch := func(ops any) m { return m{"user_id": 1, "ops": ops} }
	for _, tc := range []struct {
		operation string
		args      any
		code      Code
	}{
		{"get.more", m{}, OperationNotFound},
		{"", m{}, OperationNotFound},
		{"GET", m{}, OperationNotFound},

		{"get", []any{}, BadRequest},
		{"get", nil, BadRequest},
		{"get", m{}, BadRequest},
		{"get", m{"user_id": nil}, BadRequest},
		{"get", m{"user_id": 1, "id": 1}, BadRequest},
		{"get", m{"email": "a\x00b"}, BadRequest},

		{"list", m{"page_size": 0}, BadRequest},
		{"list", m{"page_size": 1001}, BadRequest},
		{"list", m{"page_size": 1.5}, BadRequest},
		{"list", m{"page_size": math.Inf(1)}, BadRequest},
		{"list", m{"after_id": beyondExact}, BadRequest},
		{"list", m{"after_id": "1"}, BadRequest},
		{"list", m{"name": 1}, BadRequest},
		{"list", m{"more": 1}, BadRequest},

		{"get_many", []any{}, BadRequest},
		{"get_many", m{}, BadRequest},
		{"get_many", m{"user_ids": nil}, BadRequest},
		{"get_many", m{"user_ids": 1}, BadRequest},
		{"get_many", m{"user_ids": "1"}, BadRequest},
		{"get_many", m{"user_ids": []byte{1}}, BadRequest},
		{"get_many", m{"user_ids": m{"1": 1}}, BadRequest},
		{"get_many", m{"user_ids": []any{1, nil}}, BadRequest},
		{"get_many", m{"user_ids": []any{"1"}}, BadRequest},
		{"get_many", m{"user_ids": []any{1.5}}, BadRequest},
		{"get_many", m{"user_ids": []any{math.NaN()}}, BadRequest},
		{"get_many", m{"user_ids": []any{beyondExact}}, BadRequest},
		{"get_many", m{"user_ids": []any{[]any{1}}}, BadRequest},
		{"get_many", m{"user_ids": slices.Repeat([]any{1}, MaxPageSize+1)}, BadRequest},
		{"get_many", m{"user_ids": []any{}, "after_id": 1}, BadRequest},
		{"get_many", m{"user_id": 1}, BadRequest},

		{"changes", []any{}, BadRequest},
		{"changes", m{"page_size": 0}, BadRequest},
		{"changes", m{"page_size": 1001}, BadRequest},
		{"changes", m{"page_size": "1"}, BadRequest},
		{"changes", m{"after": ""}, BadRequest},
		{"changes", m{"after": 1}, BadRequest},
		{"changes", m{"after": []byte("AQ")}, BadRequest},
		{"changes", m{"after_id": 1}, BadRequest},

		{"create", without(validUser(), "name"), BadRequest},
		{"create", without(validUser(), "email"), BadRequest},
		{"create", without(validUser(), "github"), BadRequest},
		{"create", with(validUser(), "name", nil), BadRequest},
		{"create", with(validUser(), "name", []byte("Ada")), BadRequest},
		{"create", with(validUser(), "name", "A\x00"), BadRequest},
		{"create", with(validUser(), "email", 1), BadRequest},
		{"create", with(validUser(), "email", strings.Repeat("x", MaxEmailBytes+1)), BadRequest},
		{"create", with(validUser(), "picture_url", nil), BadRequest},
		{"create", with(validUser(), "id", "1"), BadRequest},
		{"create", with(validUser(), "id", 1.5), BadRequest},
		{"create", with(validUser(), "id", beyondExact), BadRequest},
		{"create", with(validUser(), "admin", true), BadRequest},
		{"create", with(validUser(), "facebook", nil), BadRequest},
		{"create", with(validUser(), "github", m{"id": 1}), BadRequest},
		{"create", with(validUser(), "github", m{"id": "1", "access_token": "t"}), BadRequest},
		{"create", with(validUser(), "github", m{"id": true, "access_token": "t"}), BadRequest},
		{"create", with(validUser(), "github", m{"id": 1.5, "access_token": "t"}), BadRequest},
		{"create", with(validUser(), "github", m{"id": math.NaN(), "access_token": "t"}), BadRequest},
		{"create", with(validUser(), "github", m{"id": beyondExact, "access_token": "t"}), BadRequest},
		{"create", with(validUser(), "github", m{"id": uint64(1) << 63, "access_token": "t"}), BadRequest},
		{"create", with(validUser(), "github", m{"id": 1, "access_token": "t", "x": 1}), BadRequest},
		{"create", with(validUser(), "github", m{"id": 1, "token": "t"}), BadRequest},

		{"patch", m{"ops": []any{}}, BadRequest},
		{"patch", m{"user_id": 1}, BadRequest},
		{"patch", m{"user_id": "1", "ops": []any{}}, BadRequest},
		{"patch", m{"user_id": 1.5, "ops": []any{}}, BadRequest},
		{"patch", m{"user_id": beyondExact, "ops": []any{}}, BadRequest},
		{"patch", m{"user_id": nil, "ops": []any{}}, BadRequest},
		{"patch", with(patch([]any{}), "more", 1), BadRequest},
		{"patch", patch(nil), BadRequest},
		{"patch", patch(m{}), BadRequest},
		{"patch", patch([]any{"x"}), BadRequest},
		{"patch", patch([]any{m{"op": "frob", "path": "/name"}}), BadRequest},
		{"patch", patch([]any{m{"op": "add", "path": "/name"}}), BadRequest},
		{"patch", patch([]any{m{"op": "remove", "path": "name"}}), BadRequest},
		{"patch", m{"user_id": 0, "ops": []any{}}, NotFound},
		{"patch", m{"user_id": uint64(1) << 63, "ops": []any{}}, NotFound},

		{"delete", m{}, BadRequest},
		{"delete", m{"user_id": 1.5}, BadRequest},
		{"delete", m{"user_id": math.NaN()}, BadRequest},
		{"delete", m{"user_id": -1}, NotFound},
		{"delete", m{"user_id": -1.0}, NotFound},
	} {
		r, refusal := parse(t, tc.operation, tc.args)
		if refusal == nil && r.Write != nil {
			refusal = r.Write.Refusal()
		}
		if refusal == nil || refusal.Code != tc.code {
			t.Errorf("%s %v: %v, want %s", tc.operation, tc.args, refusal, tc.code)
		}
	}
	if _, refusal := Parse("get", []byte("\x81"), RequestID{}, testLimits); refusal == nil || refusal.Code != DecodeError {
		t.Errorf("half a body: %v", refusal)
	}
}

func testParseGetNoMatch(t *testing.T) {
	for _, args := range []m{
		{"user_id": "abc"}, {"user_id": 10.38}, {"user_id": ""}, {"user_id": true}, {"user_id": 0}, {"user_id": -1},
		{"user_id": uint64(1) << 63}, {"github_id": "x"}, {"facebook_id": uint64(1) << 63},
		{"user_id": math.NaN()}, {"user_id": math.Inf(1)}, {"user_id": math.Inf(-1)}, {"github_id": beyondExact}, {"github_id": 0.5},
		{"email": 1}, {"email": 1.0}, {"email": []byte("a")}, {"user_id": 1, "email": 2},
	} {
		if r, refusal := parse(t, "get", args); refusal != nil || !r.Get.NoMatch {
			t.Errorf("%v: %+v, %v", args, r.Get, refusal)
		}
	}
	r, refusal := parse(t, "get", m{"user_id": 1, "email": nil, "github_id": -5})
	if refusal != nil || r.Get.NoMatch || *r.Get.UserID != 1 || r.Get.Email != nil || *r.Get.GitHubID != -5 {
		t.Errorf("%+v, %v", r.Get, refusal)
	}
}

func TestRequestIDOf(t *testing.T) {
	all := map[RequestID]string{}
	for _, p := range [][3]string{{"m", "", ""}, {"n", "", ""}, {"", "a", "bc"}, {"", "ab", "c"}, {"", "a", "b"}} {
		id := RequestIDOf(p[0], p[1], p[2])
		if other, ok := all[id]; ok || id == (RequestID{}) {
			t.Errorf("%q has the identity of %q", p, other)
		}
		all[id] = fmt.Sprint(p)
	}
	if RequestIDOf("m", "a", "b") != RequestIDOf("m", "", "") {
		t.Error("a message_id is not enough")
	}
	for _, p := range [][2]string{{"", ""}, {"queue", ""}, {"", "1"}} {
		if RequestIDOf("", p[0], p[1]) != (RequestID{}) {
			t.Errorf("%q identifies a request", p)
		}
	}
}

func TestDecidePatch(t *testing.T) {
	stored := &User{ID: 3, Name: "Ada", Email: "a", GitHub: &Account{ID: 7, AccessToken: "t"}}
	for _, tc := range []struct {
		op   m
		code Code
	}{
		{m{"op": "test", "path": "/name", "value": "Eve"}, PatchFailed},
		{m{"op": "test", "path": "/picture_url", "value": "x"}, PatchFailed},
		{m{"op": "remove", "path": "/picture_url"}, PatchFailed},
		{m{"op": "replace", "path": "/facebook", "value": 1}, PatchFailed},
		{m{"op": "replace", "path": "/path/doesnt/exist", "value": 1}, BadRequest},
		{m{"op": "add", "path": "/path/doesnt/exist", "value": 1}, BadRequest},
		{m{"op": "remove", "path": "/path/doesnt/exist"}, BadRequest},
		{m{"op": "remove", "path": "/github"}, InvalidPatchResult},
		{m{"op": "remove", "path": "/name"}, InvalidPatchResult},
		{m{"op": "remove", "path": ""}, InvalidPatchResult},
		{m{"op": "add", "path": "/admin", "value": true}, InvalidPatchResult},
		{m{"op": "replace", "path": "/name", "value": 1}, InvalidPatchResult},
		{m{"op": "replace", "path": "/name", "value": []byte("x")}, InvalidPatchResult},
		{m{"op": "replace", "path": "/id", "value": "x"}, InvalidPatchResult},
		{m{"op": "copy", "from": "", "path": "/github/me"}, InvalidPatchResult},
		{m{"op": "replace", "path": "/id", "value": 99}, ""},
		{m{"op": "remove", "path": "/id"}, ""},
		{m{"op": "replace", "path": "/id", "value": 9.5}, InvalidPatchResult},
		{m{"op": "replace", "path": "/github/id", "value": 9.5}, InvalidPatchResult},
		{m{"op": "replace", "path": "/github/id", "value": beyondExact}, InvalidPatchResult},
		{m{"op": "replace", "path": "/github/id", "value": 9.0}, ""},
		{m{"op": "test", "path": "/id", "value": 3.0}, ""},
		{m{"op": "test", "path": "/github", "value": m{"id": float32(7), "access_token": "t"}}, ""},
		{m{"op": "test", "path": "/github/id", "value": 7.5}, PatchFailed},
		{m{"op": "test", "path": "/id", "value": 3}, ""},
		{m{"op": "move", "from": "/github", "path": "/facebook"}, ""},
		{m{"op": "test", "path": "/github/access_token", "value": "t"}, ""},
	} {
		r, refusal := parse(t, "patch", m{"user_id": 3, "ops": []any{tc.op}})
		if refusal != nil || r.Write.Refusal() != nil {
			t.Fatalf("%v: %v %v", tc.op, refusal, r.Write.Refusal())
		}
		d := r.Write.Decide(stored, false)
		var code Code
		if d.Refusal != nil {
			code = d.Refusal.Code
		}
		if code != tc.code {
			t.Errorf("%v: %v, want %q", tc.op, d.Refusal, tc.code)
		}
		if d.Refusal == nil && d.Next.ID != 3 {
			t.Errorf("%v changed the id to %d", tc.op, d.Next.ID)
		}
	}
}

func TestParseGetMany(t *testing.T) {
	for _, tc := range []struct {
		ids  []any
		want []int64
	}{
		{[]any{}, []int64{}},
		{[]any{3, 1, 3.0, 2, 1}, []int64{1, 2, 3}},
		{[]any{0, -1, math.MinInt64, uint64(1) << 63}, []int64{}},
		{[]any{uint64(math.MaxUint64), MaxUserID, 1 << 53}, []int64{1 << 53, MaxUserID}},
		{slices.Repeat([]any{7}, MaxPageSize), []int64{7}},
	} {
		r, refusal := parse(t, "get_many", m{"user_ids": tc.ids})
		if refusal != nil || r.List.IDs == nil || !slices.Equal(r.List.IDs, tc.want) || r.List.First {
			t.Errorf("%v: %+v, %v", tc.ids, r.List, refusal)
		}
	}
}

func TestParseChanges(t *testing.T) {
	for _, tc := range []struct {
		args m
		want ChangesPage
	}{
		{m{}, ChangesPage{Size: 100}},
		{m{"after": nil, "page_size": nil}, ChangesPage{Size: 100}},
		{m{"after": "p", "page_size": 1}, ChangesPage{After: "p", Size: 1}},
		{m{"page_size": 1000.0}, ChangesPage{Size: 1000}},
	} {
		r, refusal := parse(t, "changes", tc.args)
		if refusal != nil || *r.Changes != tc.want {
			t.Errorf("%v: %+v, %v", tc.args, r.Changes, refusal)
		}
	}
	for want, args := range map[bool]m{true: {"after_id": nil}, false: {"after_id": 0}} {
		if r, refusal := parse(t, "list", args); refusal != nil || r.List.First != want {
			t.Errorf("list %v: %+v, %v", args, r.List, refusal)
		}
	}
}

func TestOperations(t *testing.T) {
	want := []string{"changes", "create", "delete", "get", "get_many", "list", "patch"}
	if got := slices.Sorted(maps.Keys(parsers)); !slices.Equal(got, want) {
		t.Errorf("the operations are %v, not %v", got, want)
	}
	for _, name := range append(want, "", "GET", "get.more") {
		_, refusal := parse(t, name, m{})
		unknown := refusal != nil && refusal.Code == OperationNotFound
		if IsOperation(name) == unknown {
			t.Errorf("IsOperation(%q) is %t, but the refusal is %v", name, IsOperation(name), refusal)
		}
	}
}
