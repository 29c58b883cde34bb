package contract

import (
	"fmt"
	"math"
	"testing"

	"github.com/glotpod/ident/cmd/systemtest/harness"
)

// floats returns v with all integers from limit on as float64. JavaScript's encoders do
// so above 32 bits; some do so always.
func floats(v any, limit int64) any {
	switch v := v.(type) {
	case dict:
		d := dict{}
		for key, e := range v {
			d[key] = floats(e, limit)
		}
		return d
	case list:
		l := list{}
		for _, e := range v {
			l = append(l, floats(e, limit))
		}
		return l
	case int:
		return floats(int64(v), limit)
	case int64:
		if v >= limit || v <= -limit {
			return float64(v)
		}
	}
	return v
}

func TestIntegersAsFloats(t *testing.T) {
	t.Parallel()
	s := harness.NewSite(t)
	s.Serve(t)
	for name, limit := range map[string]int64{"all": 0, "beyond_32_bits": 1 << 32} {
		t.Run(name, func(t *testing.T) { testIntegersAsFloats(t, s, limit) })
	}
	t.Run("refused", func(t *testing.T) { testFloatsRefused(t, s) })
	t.Run("replayed_as_integers", func(t *testing.T) { testFloatsReplayed(t, s) })
}

// testIntegersAsFloats runs each operation with floats for the integers from limit on.
func testIntegersAsFloats(t *testing.T, s *harness.Site, limit int64) {
	c := s.NewCaller(t)
	heard := s.Subscribe(t)
	call := func(operation string, args dict) harness.Reply {
		return c.Call(t, operation, floats(args, limit))
	}
	github, facebook := 1<<40+limit, int64(1)<<53-limit
	u := harness.Changed(harness.NewUser(), dict{"id": int64(1) << 50,
		"github":   dict{"id": github, "access_token": "s3cret-a"},
		"facebook": dict{"id": facebook, "access_token": "s3cret-b"}})
	u["id"] = call("create", u).Result(t).(dict)["user_id"]
	heard.Expect(t, harness.CreateKey, harness.AsListed(u))
	id := u["id"].(int64)
	for _, args := range []dict{
		{"user_id": id}, {"github_id": github}, {"facebook_id": facebook},
		{"user_id": id, "github_id": github, "facebook_id": facebook, "email": u["email"]},
	} {
		call("get", args).IsResult(t, u)
	}
	// The direct way: the owner of the partition gets the same body.
	direct := c.NewRequest("get", floats(dict{"user_id": id}, limit)).ViaDirectReply(fmt.Sprint(id))
	c.Ask(t, direct).IsResult(t, u)

	page := call("list", dict{"after_id": id - 1, "page_size": 1}).Result(t).(dict)["users"].(list)
	if len(page) != 1 || page[0].(dict)["id"] != id {
		t.Errorf("list after %d: %v", id-1, page)
	}

	call("get_many", dict{"user_ids": list{id, id + 1}}).IsResult(t, dict{"users": list{harness.AsListed(u)}})

	ops := list{
		op("test", "/id", id), op("test", "/github/id", github), op("test", "/facebook", u["facebook"]),
		op("replace", "/id", 7), op("replace", "/github/id", github+1),
		op("add", "/facebook", dict{"id": facebook - 1, "access_token": "s3cret-c"}),
	}
	given := floats(ops, limit)
	call("patch", dict{"user_id": id, "ops": ops}).IsResult(t, given)
	heard.Expect(t, harness.PatchKey, patchNote(u, op("replace", "/github/id", github+1), op("replace", "/facebook/id", facebook-1)))
	u["github"] = dict{"id": github + 1, "access_token": "s3cret-a"}
	u["facebook"] = dict{"id": facebook - 1, "access_token": "s3cret-c"}
	call("get", dict{"user_id": id}).IsResult(t, u)
	call("patch", dict{"user_id": id, "ops": list{op("test", "/github/id", float64(github)+0.5)}}).IsError(t, "patch_failed")

	call("delete", dict{"user_id": id}).IsResult(t, dict{"user_id": id})
	heard.Expect(t, harness.DeleteKey, dict{"user_id": id})
}

// notIntegers are floats with a fraction, and ones that may have been rounded.
var notIntegers = []any{10.38, -0.5, float32(1.5), float64(1<<53 + 2), -float64(1<<53 + 2), float64(1 << 60), 1e300, math.NaN(), math.Inf(1), math.Inf(-1)}

// testFloatsRefused: a float with a fraction, or one that may have been rounded, is no
// integer.
func testFloatsRefused(t *testing.T, s *harness.Site) {
	c := s.NewCaller(t)
	u := c.Create(t, harness.NewUser())
	for _, f := range notIntegers {
		c.Call(t, "get", dict{"user_id": f}).IsError(t, "not_found")
		c.Call(t, "get", dict{"github_id": f, "email": u["email"]}).IsError(t, "not_found")
		c.Call(t, "create", harness.Changed(harness.NewUser(), dict{"id": f})).IsError(t, "bad_request")
		c.Call(t, "create", harness.Changed(harness.NewUser(), dict{"github": dict{"id": f, "access_token": "s3cret"}})).IsError(t, "bad_request")
		c.Call(t, "patch", dict{"user_id": f, "ops": list{}}).IsError(t, "bad_request")
		c.Call(t, "patch", harness.Patch(u, op("replace", "/github/id", f))).IsError(t, "invalid_patch_result")
		c.Call(t, "patch", harness.Patch(u, op("replace", "/id", f))).IsError(t, "invalid_patch_result")
		c.Call(t, "delete", dict{"user_id": f}).IsError(t, "bad_request")
		c.Call(t, "get_many", dict{"user_ids": list{u["id"], f}}).IsError(t, "bad_request")
		c.Call(t, "list", dict{"after_id": f}).IsError(t, "bad_request")
		c.Call(t, "list", dict{"page_size": f}).IsError(t, "bad_request")
	}
}

// testFloatsReplayed: the same arguments as floats are the same request.
func testFloatsReplayed(t *testing.T, s *harness.Site) {
	c := s.NewCaller(t)
	u := c.Create(t, harness.NewUser())
	for operation, args := range map[string]dict{
		"create": harness.Changed(harness.NewUser(), dict{"github": dict{"id": 1 << 41, "access_token": "s3cret"}}),
		"patch":  harness.Patch(u, op("test", "/id", u["id"]), op("replace", "/name", "s3cret Eve"), op("replace", "/github/id", 1<<42)),
	} {
		m := c.NewRequest(operation, args)
		result := c.Ask(t, m).Result(t)
		again := *m
		again.Body = harness.Pack(floats(args, 0))
		if operation == "patch" {
			result = floats(args["ops"], 0)
		}
		c.Ask(t, &again).IsResult(t, result)
	}
	c.Call(t, "get", dict{"github_id": 1 << 42}).IsResult(t, harness.Changed(u, dict{"name": "s3cret Eve",
		"github": dict{"id": int64(1) << 42, "access_token": u["github"].(dict)["access_token"]}}))
}
