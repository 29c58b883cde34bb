package contract

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/glotpod/ident/cmd/systemtest/harness"
)

// patchedUser returns the user of the patch tests.
func patchedUser() dict {
	return harness.Changed(harness.NewUser("github", "facebook"), dict{"picture_url": "https://secret.example/1.png"})
}

func TestPatch(t *testing.T) {
	t.Parallel()
	x := serve(t) // unknown_user needs that there is no user yet
	x.run(t, "unknown_user", testPatchUnknownUser)
	x.run(t, "RFC_6902", testPatchRFC6902)
	x.run(t, "refused", testPatchRefused)
	x.run(t, "email_moves_to_another_user", testPatchEmailMovesToAnotherUser)
	t.Run("burst", testPatchBurst)
	t.Run("small_mailbox", testPatchSmallMailbox)
	t.Run("direct_order", testPatchDirectOrder)
	t.Run("huge_user", testPatchHugeUser)
}

func testPatchRFC6902(t *testing.T, x *served) {
	c := x.caller
	for name, p := range map[string]struct {
		ops  func(u dict) list
		want func(u dict) dict // from the user before
	}{
		"nothing": {func(u dict) list { return list{} }, func(u dict) dict { return u }},
		"replace": {
			func(u dict) list { return list{op("replace", "/name", "s3cret Eve")} },
			func(u dict) dict { return harness.Changed(u, dict{"name": "s3cret Eve"}) },
		},
		"add over what is there": {
			func(u dict) list { return list{op("add", "/picture_url", "s3cret")} },
			func(u dict) dict { return harness.Changed(u, dict{"picture_url": "s3cret"}) },
		},
		"remove": {
			func(u dict) list { return list{op("remove", "/picture_url"), op("remove", "/facebook")} },
			func(u dict) dict { return harness.Changed(u, dict{"picture_url": nil, "facebook": nil}) },
		},
		"remove and add": {
			func(u dict) list {
				return list{op("remove", "/github"), op("add", "/github", dict{"id": int64(1) << 50, "access_token": "s3cret"})}
			},
			func(u dict) dict {
				return harness.Changed(u, dict{"github": dict{"id": int64(1) << 50, "access_token": "s3cret"}})
			},
		},
		"move": {
			func(u dict) list { return list{op("remove", "/facebook"), opFrom("move", "/github", "/facebook")} },
			func(u dict) dict { return harness.Changed(u, dict{"facebook": u["github"], "github": nil}) },
		},
		"move over what is there": {
			func(u dict) list { return list{opFrom("move", "/picture_url", "/name")} },
			func(u dict) dict { return harness.Changed(u, dict{"name": u["picture_url"], "picture_url": nil}) },
		},
		"move to itself": {
			func(u dict) list { return list{opFrom("move", "/name", "/name")} },
			func(u dict) dict { return u },
		},
		"copy": {
			func(u dict) list {
				return list{opFrom("copy", "/github/access_token", "/facebook/access_token"), opFrom("copy", "/name", "/picture_url")}
			},
			func(u dict) dict {
				facebook := harness.Changed(u["facebook"].(dict), dict{"access_token": u["github"].(dict)["access_token"]})
				return harness.Changed(u, dict{"facebook": facebook, "picture_url": u["name"]})
			},
		},
		"test": {
			func(u dict) list {
				return list{
					op("test", "/id", u["id"]), op("test", "/name", u["name"]), op("test", "/github", u["github"]), op("test", "", u),
					op("test", "/github/id", float64(u["github"].(dict)["id"].(int64))), op("replace", "/name", "s3cret Eve"),
				}
			},
			func(u dict) dict { return harness.Changed(u, dict{"name": "s3cret Eve"}) },
		},
		"the whole user": {
			func(u dict) list {
				return list{op("replace", "", harness.Changed(u, dict{"name": "s3cret Eve", "picture_url": nil}))}
			},
			func(u dict) dict { return harness.Changed(u, dict{"name": "s3cret Eve", "picture_url": nil}) },
		},
		"there and back": {
			func(u dict) list {
				return list{op("add", "/x~1y~0z", list{1, 2}), op("add", "/x~1y~0z/-", 3), op("test", "/x~1y~0z", list{1, 2, 3}),
					op("add", "/x~1y~0z/0", 0), op("remove", "/x~1y~0z/3"), op("test", "/x~1y~0z", list{0, 1, 2}), op("remove", "/x~1y~0z")}
			},
			func(u dict) dict { return u },
		},
		"an id, which stays": {
			func(u dict) list { return list{op("replace", "/id", 4711)} },
			func(u dict) dict { return u },
		},
		"no id, which stays": {
			func(u dict) list { return list{op("remove", "/id")} },
			func(u dict) dict { return u },
		},
		"another's service id of the other service": {
			func(u dict) list { return list{opFrom("copy", "/github/id", "/facebook/id")} },
			func(u dict) dict {
				return harness.Changed(u, dict{"facebook": harness.Changed(u["facebook"].(dict), dict{"id": u["github"].(dict)["id"]})})
			},
		},
		"members that RFC 6902 does not know": {
			func(u dict) list {
				return list{harness.Changed(op("replace", "/name", "s3cret Eve"), dict{"comment": list{"s3cret"}, "from": 7})}
			},
			func(u dict) dict { return harness.Changed(u, dict{"name": "s3cret Eve"}) },
		},
		"empty strings": {
			func(u dict) list { return list{op("replace", "/name", ""), op("replace", "/picture_url", "")} },
			func(u dict) dict { return harness.Changed(u, dict{"name": "", "picture_url": ""}) },
		},
	} {
		t.Run(name, func(t *testing.T) {
			u := c.Create(t, patchedUser())
			ops := harness.Normalize(p.ops(u))
			c.Call(t, "patch", harness.Patch(u, ops.(list)...)).IsResult(t, ops)
			c.Call(t, "get", dict{"user_id": u["id"]}).IsResult(t, p.want(u))
		})
	}
}

func testPatchRefused(t *testing.T, x *served) {
	s, c := x.site, x.caller
	other := c.Create(t, patchedUser())
	u := c.Create(t, harness.Changed(patchedUser(), dict{"picture_url": nil}))
	before := s.Contents(t)
	for _, refused := range []struct {
		code string
		all  []any // operations
	}{
		{"bad_request", []any{
			nil, 1, "replace", list{}, dict{},
			op("", "/name", "s3cret"), op("REPLACE", "/name", "s3cret"), op("merge", "/name", "s3cret"), dict{"path": "/name", "value": "s3cret"},
			dict{"op": 7, "path": "/name", "value": "s3cret"},
			op("replace", "/name"), op("add", "/name"), op("test", "/name"),
			dict{"op": "replace", "value": "s3cret"}, dict{"op": "remove"},
			dict{"op": "move", "path": "/name"}, dict{"op": "copy", "path": "/name"},
			dict{"op": "remove", "path": 7}, dict{"op": "remove", "path": nil}, dict{"op": "copy", "path": "/name", "from": 7},
			op("replace", "name", "s3cret"), op("remove", "picture_url"), op("remove", "#/name"), op("test", " /name", "s3cret"),
			opFrom("copy", "email", "/name"), opFrom("move", "/email", "name"),
			op("replace", "/name~2", "s3cret"), op("replace", "/name~", "s3cret"),
			op("replace", "/path/doesnt/exist", "s3cret"), op("add", "/path/doesnt/exist", "s3cret"), op("remove", "/path/doesnt/exist"),
			opFrom("copy", "/path/doesnt/exist", "/name"), opFrom("move", "/path/doesnt/exist", "/name"),
			opFrom("copy", "/name", "/path/doesnt/exist"), op("add", "/name/first", "s3cret"), op("replace", "/github/id/x", 1),
		}},
		{"patch_failed", []any{
			op("test", "/name", "s3cret nobody"), op("test", "/id", 7), op("test", "/github/id", "1"), op("test", "/picture_url", "s3cret"),
			op("test", "", dict{}), op("test", "/name", nil),
			op("test", "/path/doesnt/exist", "s3cret"), // a test fails wherever there is nothing
			op("remove", "/picture_url"), op("replace", "/picture_url", "s3cret"), op("remove", "/nope"), op("replace", "/github/nope", 1),
			opFrom("move", "/nope", "/name"), opFrom("copy", "/nope", "/name"),
		}},
		{"invalid_patch_result", []any{
			op("remove", "/name"), op("remove", "/email"), op("remove", "/github/id"), op("remove", "/github/access_token"),
			op("add", "/nope", 1), op("add", "/github/nope", 1), op("add", "/twitter", harness.NewAccount()), op("add", "/picture_url", nil),
			op("replace", "/name", nil), op("replace", "/name", 7), op("replace", "/email", list{}), op("replace", "/github", "s3cret"),
			op("replace", "/github/id", "1"), op("replace", "/github/id", 1.5), op("replace", "/github/id", uint64(1)<<63),
			op("replace", "/id", "1"), op("replace", "/id", 1.5), op("replace", "/id", nil),
			op("replace", "", dict{}), op("replace", "", nil), op("replace", "", list{}), opFrom("copy", "/github", ""),
			opFrom("move", "/github", "/name"), opFrom("move", "/name", "/github/name"),
			op("replace", "/email", strings.Repeat("s3cret", 1000)),
		}},
		{"conflict", []any{
			op("replace", "/email", other["email"]), op("replace", "/github", other["github"]),
			op("replace", "/facebook/id", other["facebook"].(dict)["id"]),
		}},
	} {
		for _, o := range refused.all {
			// The good operation before it must not take effect either.
			if a := c.Call(t, "patch", harness.Patch(u, op("replace", "/name", "s3cret Eve"), o)); a.ErrorCode() != refused.code {
				t.Errorf("patch by %q: got %v, want %s", o, a.Value, refused.code)
			}
		}
	}
	// The ways of moving a thing into itself, for which there is no one code.
	for _, o := range []dict{opFrom("move", "/github", "/github/id"), opFrom("move", "", "/github")} {
		if code := c.Call(t, "patch", harness.Patch(u, o)).ErrorCode(); code != "patch_failed" && code != "bad_request" {
			t.Errorf("patch by %v: %s", o, code)
		}
	}
	c.Call(t, "patch", harness.Patch(u, op("remove", "/github"), op("remove", "/facebook"))).IsError(t, "invalid_patch_result")
	c.Call(t, "patch", harness.Patch(u, op("replace", "/name", "s3cret\x00"))).IsError(t, "bad_request")
	if after := s.Contents(t); after != before {
		t.Errorf("the tables were\n%s\nand are\n%s", before, after)
	}
}

func testPatchUnknownUser(t *testing.T, x *served) {
	c := x.caller
	for _, id := range []any{1, 0, -1, 1 << 31, int64(1) << 62, uint64(1) << 63} {
		c.Call(t, "patch", dict{"user_id": id, "ops": list{}}).IsError(t, "not_found")
		c.Call(t, "patch", dict{"user_id": id, "ops": list{op("replace", "/name", "s3cret")}}).IsError(t, "not_found")
		c.Call(t, "patch", dict{"user_id": id, "ops": list{op("nope", "/name")}}).IsError(t, "bad_request")
		c.Call(t, "delete", dict{"user_id": id}).IsError(t, "not_found")
	}
}

// What a user gives up, another can have at once.
func testPatchEmailMovesToAnotherUser(t *testing.T, x *served) {
	c := x.caller
	a, b := c.Create(t, patchedUser()), c.Create(t, patchedUser())
	for _, key := range []string{"email", "github", "facebook"} {
		fresh := patchedUser()[key]
		give := c.NewRequest("patch", harness.Patch(a, op("replace", "/"+key, fresh)))
		take := c.NewRequest("patch", harness.Patch(b, op("replace", "/"+key, a[key])))
		c.Ask(t, give).Result(t)
		c.Ask(t, take).Result(t)
		b[key] = a[key]
	}
	if got := c.Get(t, b["id"]); !reflect.DeepEqual(got, b) {
		t.Errorf("got %v, want %v", got, b)
	}
	c.Call(t, "delete", dict{"user_id": b["id"]}).IsResult(t, dict{"user_id": b["id"]})
	c.Create(t, harness.Changed(b, dict{"id": nil}))
}

// A mailbox takes few of these requests. The others wait in the broker.
func testPatchBurst(t *testing.T) {
	t.Parallel()
	s := harness.NewSite(t)
	s.Settings["actor.mailbox"] = "2"
	instances := []*harness.Instance{s.Serve(t), s.Serve(t)}
	c, told := s.NewCaller(t), s.Subscribe(t)
	u := c.Create(t, harness.NewUser())
	told.Next(t)

	const each = 200
	id := fmt.Sprint(u["id"])
	var sent []*harness.Request
	send := func(m *harness.Request) {
		c.Send(t, m)
		sent = append(sent, m)
	}
	rename := func(to string) *harness.Request {
		return c.NewRequest("patch", harness.Patch(u, op("replace", "/name", "s3cret "+to)))
	}
	for i := range each {
		send(rename(fmt.Sprint("shared ", i)))
		if i%2 == 0 { // so that both instances, in turn, get patches as well
			send(c.NewRequest("get", dict{"user_id": u["id"]}))
		}
		send(rename(fmt.Sprint("direct ", i)).ViaDirectReply(id))
		send(c.NewRequest("get", dict{"user_id": u["id"]}).ViaDirectReply(id))
	}
	for _, m := range sent {
		c.AwaitReply(t, m).Result(t)
	}
	var name any
	for range 2 * each {
		for _, o := range told.Next(t).Value.(dict)["ops"].(list) {
			name = o.(dict)["value"]
		}
	}
	c.Call(t, "get", dict{"user_id": u["id"]}).IsResult(t, harness.Changed(u, dict{"name": name}))
	if !slices.ContainsFunc(instances, func(v *harness.Instance) bool {
		return !strings.Contains(v.Fetch(t, "/metrics"), `glotpod_ident_overloads_total{reason="mailbox_full"} 0`)
	}) {
		t.Error("no mailbox was ever full")
	}
}

// While another session has the user's row locked, none of these patches can be made, and
// the requests behind them have no reply.
func testPatchSmallMailbox(t *testing.T) {
	t.Parallel()
	s := harness.NewSite(t)
	s.Settings["actor.mailbox"] = "128"
	s.Serve(t)
	c := s.NewCaller(t)
	u, other := c.Create(t, harness.NewUser()), c.Create(t, harness.NewUser())
	lock, err := s.Connect(t).Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var sent []*harness.Request
	for i := range 600 { // more than an instance takes at a time
		m := c.NewRequest("patch", harness.Patch(u, op("replace", "/name", fmt.Sprint("s3cret ", i))))
		c.Send(t, m)
		sent = append(sent, m)
		if i%2 == 0 {
			m := c.NewRequest("get", dict{"user_id": u["id"]})
			c.Send(t, m)
			sent = append(sent, m)
		}
		if i == 100 { // while the first ones are being carried out
			if _, err := lock.Exec(t.Context(), "SELECT FROM users WHERE id = $1 FOR UPDATE", u["id"]); err != nil {
				t.Fatal(err)
			}
		}
	}
	for i := range 10 {
		c.Call(t, "patch", harness.Patch(other, op("replace", "/name", fmt.Sprint("s3cret ", i)))).Result(t)
	}
	if err := lock.Commit(t.Context()); err != nil {
		t.Error(err)
	}
	for _, m := range sent {
		c.AwaitReply(t, m).Result(t)
	}
	c.Call(t, "get", dict{"user_id": u["id"]}).IsResult(t, harness.Changed(u, dict{"name": "s3cret 599"}))
}

func testPatchDirectOrder(t *testing.T) {
	t.Parallel()
	s := harness.NewSite(t)
	s.Settings["actor.mailbox"] = "2"
	s.Serve(t)
	c := s.NewCaller(t)
	u := c.Create(t, harness.NewUser())
	id := fmt.Sprint(u["id"])
	var gets []*harness.Request
	for i := range 200 {
		c.Send(t, c.NewRequest("patch", harness.Patch(u, op("replace", "/name", fmt.Sprint("s3cret ", i)))).ViaDirectReply(id))
		get := c.NewRequest("get", dict{"user_id": u["id"]}).ViaDirectReply(id)
		c.Send(t, get)
		gets = append(gets, get)
	}
	for i, get := range gets {
		// It may see later ones as well.
		name := c.AwaitReply(t, get).Result(t).(dict)["name"].(string)
		var seen int
		if _, err := fmt.Sscanf(name, "s3cret %d", &seen); err != nil || seen < i {
			t.Errorf("after patch %d, the name is %q", i, name)
		}
	}
}

func testPatchHugeUser(t *testing.T) {
	t.Parallel()
	s := harness.NewSite(t)
	s.Serve(t)
	c := s.NewCaller(t)
	u := c.Create(t, patchedUser())
	email := strings.Repeat("secret.example ", 300)
	s.Exec(t, `UPDATE users SET picture_url = repeat('s3cret', 1000000), email_address = $1`, email)
	u = harness.Changed(u, dict{"picture_url": strings.Repeat("s3cret", 1_000_000), "email": email})
	harness.Eventually(t, "the change is heard of", func() bool {
		return reflect.DeepEqual(c.Call(t, "get", dict{"user_id": u["id"]}).Value, harness.Normalize(dict{"result": u}))
	})

	c.Call(t, "patch", harness.Patch(u)).Result(t)
	c.Call(t, "patch", harness.Patch(u, op("replace", "/name", "s3cret Eve"))).Result(t)
	c.Call(t, "patch", harness.Patch(u, opFrom("move", "/github", "/id"), opFrom("move", "/facebook", "/github"), opFrom("move", "/id", "/facebook"))).Result(t)
	u = harness.Changed(u, dict{"name": "s3cret Eve", "github": u["facebook"], "facebook": u["github"]})
	c.Call(t, "get", dict{"user_id": u["id"]}).IsResult(t, u)
	c.Call(t, "patch", harness.Patch(u, op("replace", "/email", email+"s3cret"))).IsError(t, "invalid_patch_result")
	c.Call(t, "patch", harness.Patch(u, op("replace", "/email", "ada@secret.example"))).Result(t)
}
