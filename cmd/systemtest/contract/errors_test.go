package contract

import (
	"bytes"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/tinylib/msgp/msgp"

	"github.com/glotpod/ident/cmd/systemtest/harness"
)

// MiB is the default of limits.body_bytes.
const MiB = 1 << 20

// bodyOf returns the msgpack body of a get by email that has so many bytes.
func bodyOf(size int) []byte {
	b := msgp.AppendString(msgp.AppendMapHeader(nil, 1), "email")
	const header = 5 // of a long string
	return msgp.AppendString(b, strings.Repeat("x", size-len(b)-header))
}

func TestError(t *testing.T) {
	t.Parallel()
	x := serve(t)
	x.run(t, "decode_error", testErrorDecodeError)
	x.run(t, "unknown_operation", testErrorUnknownOperation)
	x.run(t, "bad_request", testErrorBadRequest)
	t.Run("unreadable_token", testErrorUnreadableToken)
}

func testErrorDecodeError(t *testing.T, x *served) {
	v, c := x.instance, x.caller
	u := c.Create(t, harness.NewUser())
	whole := harness.Pack(dict{"user_id": u["id"]})
	nested := func(depth int) []byte {
		return slices.Concat([]byte("\x81\xa7user_id"), bytes.Repeat([]byte{0x91}, depth-1), []byte{0xc0})
	}
	for _, body := range []struct {
		name string
		body []byte
	}{
		{"empty", []byte{}},
		{"truncated in a map", []byte("\x81\xa7user_id")},
		{"truncated in a string", []byte("\x81\xa7user")},
		{"truncated in a number", []byte("\x81\xa7user_id\xd3\x00\x00")},
		{"the reserved byte", []byte{0xc1}},
		{"the reserved byte as a value", []byte("\x81\xa7user_id\xc1")},
		{"trailing nil", append(bytes.Clone(whole), 0xc0)},
		{"trailing copy of itself", append(bytes.Clone(whole), whole...)},
		{"a string that is not UTF-8", []byte("\x81\xa5email\xa1\xff")},
		{"a surrogate in a string", []byte("\x81\xa5email\xa3\xed\xa0\x80")},
		{"a key that is not UTF-8", []byte("\x81\xa1\xff\xc0")},
		{"an array of 2³²−1", []byte{0xdd, 0xff, 0xff, 0xff, 0xff}},
		{"a map of 2³²−1", []byte{0xdf, 0xff, 0xff, 0xff, 0xff}},
		{"a string of 2³²−1", []byte{0xdb, 0xff, 0xff, 0xff, 0xff}},
		{"bytes of 2³²−1", []byte{0xc6, 0xff, 0xff, 0xff, 0xff}},
		{"an extension of 2³²−1", []byte{0xc9, 0xff, 0xff, 0xff, 0xff, 1}},
		{"33 deep", nested(33)},
		{"100,000 deep", nested(100_000)},
		{"more than 100,000 values", append([]byte("\x81\xa7user_id\xdd\x00\x01\x86\xa1"), bytes.Repeat([]byte{0xc0}, 100_001)...)},
		{"one byte over 1 MiB", bodyOf(MiB + 1)},
		{"10 MB", bodyOf(10_000_000)},
		{"10 MB of no meaning", bytes.Repeat([]byte{0xc1}, 10_000_000)},
	} {
		t.Run(body.name, func(t *testing.T) {
			for _, operation := range []string{"get", "create", "patch", "delete", "get_many", "list", "changes"} {
				c.Call(t, operation, body.body).IsError(t, "decode_error")
			}
		})
	}
	t.Run("as large and as deep as may be is none", func(t *testing.T) {
		c.Call(t, "get", bodyOf(MiB)).IsError(t, "not_found")
		c.Call(t, "get", nested(32)).IsError(t, "not_found")
	})
	c.Call(t, "get", dict{"user_id": u["id"]}).IsResult(t, u)
	v.CheckOneConnection(t)
}

func testErrorUnknownOperation(t *testing.T, x *served) {
	c := x.caller
	for _, key := range []string{"rpc.user.nope", "rpc.user.get.more", "rpc.user.get.", "rpc.user..get", "rpc.user.", "rpc.user",
		"rpc.user.GET", "rpc.user.get\x00", "rpc.user.users.get", "rpc.user." + strings.Repeat("x", 246)} {
		m := c.NewRequest("", dict{"user_id": 1})
		m.Key = key
		c.Ask(t, m).IsError(t, "operation_not_found")
	}
}

func testErrorBadRequest(t *testing.T, x *served) {
	s, c := x.site, x.caller
	u := c.Create(t, harness.NewUser())
	id := u["id"]
	before := s.Contents(t)

	for _, operation := range []string{"get", "create", "patch", "delete", "get_many", "list", "changes"} {
		for _, body := range []any{nil, true, 1, 1.5, "text", list{}, list{id}, []byte("\xc4\x01x"), []byte("\xd4\x01\x00")} {
			c.Call(t, operation, body).IsError(t, "bad_request")
		}
		c.Call(t, operation, []byte("\x81\x01\xc0")).IsError(t, "bad_request") // a key that is no string
		c.Call(t, operation, dict{"user_id": id, "nope": 1}).IsError(t, "bad_request")
	}
	for operation, all := range map[string][]dict{
		"get": {
			{},
			{"user_id": nil},
			{"user_id": nil, "email": nil, "github_id": nil, "facebook_id": nil},
			{"id": id},
			{"user_id": id, "name": u["name"]},
			{"user_id": id, "nope": nil},
			{"email": "s3cret\x00@secret.example"},
		},
		"patch": {
			{},
			{"user_id": id},
			{"ops": list{}},
			{"user_id": nil, "ops": list{}},
			{"user_id": "1", "ops": list{}},
			{"user_id": 1.5, "ops": list{}},
			{"user_id": id, "ops": nil},
			{"user_id": id, "ops": "replace"},
			{"user_id": id, "ops": dict{}},
			{"user_id": id, "ops": list{}, "nope": 1},
			{"user_id": id, "ops": list{}, "email": u["email"]},
		},
		"delete": {
			{},
			{"user_id": nil},
			{"user_id": "1"},
			{"user_id": 1.5},
			{"user_id": true},
			{"user_id": id, "email": u["email"]},
			{"email": u["email"]},
		},
		"get_many": {
			{},
			{"user_ids": nil},
			{"user_ids": id},
			{"user_ids": dict{}},
			{"user_ids": list{id, nil}},
			{"user_ids": list{"1"}},
			{"user_ids": list{1.5}},
			{"user_ids": list{math.NaN()}},
			{"user_ids": list{true}},
			{"user_ids": list{list{id}}},
			{"user_ids": slices.Repeat(list{id}, 1001)},
			{"user_ids": list{id}, "after_id": 0},
			{"user_id": id},
		},
		"list": {
			{"page_size": 0},
			{"page_size": -1},
			{"page_size": 1001},
			{"page_size": "10"},
			{"page_size": 1.5},
			{"after_id": "1"},
			{"after_id": 1.5},
			{"name": 1},
			{"name": list{"s3cret"}},
			{"name": "s3cret\x00"},
			{"email": u["email"]},
		},
		"changes": {
			{"page_size": 0},
			{"page_size": -1},
			{"page_size": 1001},
			{"page_size": int64(math.MinInt64)},
			{"page_size": uint64(math.MaxUint64)},
			{"page_size": 1.5},
			{"page_size": 1e300},
			{"page_size": math.NaN()},
			{"page_size": "10"},
			{"page_size": true},
			{"page_size": list{10}},
			{"after": ""},
			{"after": 1},
			{"after": true},
			{"after": list{}},
			{"after": dict{}},
			{"after": "s3cret"},
			{"after": "s3cret\x00"},
			{"after": "Ag"},
			{"after": "AgAAAA="},
			{"after": " AgAAAA"},
			{"after": strings.Repeat("A", 100_000)},
			{"after": "AgAAAA", "page_size": 0}, // also if the position is one of another database
			{"after_id": 1},
			{"changes": nil},
		},
	} {
		for _, args := range all {
			a := c.Call(t, operation, args)
			if a.ErrorCode() != "bad_request" {
				t.Errorf("%s %q: got %v", operation, args, a.Value)
			}
		}
	}
	if s.Contents(t) != before {
		t.Error("a bad request has changed something")
	}
}

func testErrorUnreadableToken(t *testing.T) {
	t.Parallel()
	s := harness.NewSite(t)
	v := s.Serve(t)
	c := s.NewCaller(t)
	other := harness.NewEmptySite(t).Settings["database.encryption_key"]
	good, bad := c.Create(t, harness.NewUser()), c.Create(t, harness.NewUser("github", "facebook"))
	s.AwaitForeignWrites(t, c)
	for _, sealed := range []any{
		[]byte("gAAAAABnot a token"), []byte{}, []byte{0xff, 0x00}, harness.Seal(t, other, "s3cret-of-another-key"),
	} {
		s.Exec(t, "UPDATE services SET access_token = $1 WHERE user_id = $2 AND sv_name = 'fb'", sealed, bad["id"])
		get := c.NewRequest("get", dict{"user_id": bad["id"]})
		c.Ask(t, get).IsError(t, "invocation_failed")
		patch := c.NewRequest("patch", harness.Patch(bad, op("replace", "/name", "s3cret Eve")))
		c.Ask(t, patch).IsError(t, "invocation_failed")
		c.Call(t, "get", dict{"user_id": good["id"]}).IsResult(t, good)

		// A request that got invocation_failed is carried out at the next try.
		s.Exec(t, "UPDATE services SET access_token = (SELECT access_token FROM services WHERE user_id = $1) WHERE user_id = $2 AND sv_name = 'fb'",
			good["id"], bad["id"])
		c.Ask(t, patch).IsResult(t, list{op("replace", "/name", "s3cret Eve")})
	}
	if log := v.Stderr.String(); !strings.Contains(log, `"user_id":2`) || strings.Contains(log, "gAAAAA") {
		t.Errorf("the log does not name the user, or holds the token:\n%s", log)
	}
	v.CheckOneConnection(t)
}
