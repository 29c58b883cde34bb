package contract

import (
	"bytes"
	"reflect"
	"testing"

	"github.com/google/uuid"
	"github.com/tinylib/msgp/msgp"

	"github.com/glotpod/ident/cmd/systemtest/harness"
)

// sentAgain returns a copy of m: sending it is a replay.
func sentAgain(m *harness.Request) *harness.Request {
	twin := *m
	return &twin
}

func TestReplay(t *testing.T) {
	t.Parallel()
	x := serve(t) // message_id needs the user with id 1
	x.run(t, "message_id", testReplayMessageID)
	x.run(t, "other_encoding", testReplayOtherEncoding)
	x.run(t, "same_id_of_another_request", testReplaySameIDOfAnotherRequest)
	t.Run("same_reply", testReplaySameReply)
	t.Run("reads", testReplayReads)
	t.Run("concurrent_copies", testReplayConcurrentCopies)
}

func testReplaySameReply(t *testing.T) {
	t.Parallel()
	s := harness.NewSite(t)
	v := s.Serve(t)
	c := s.NewCaller(t)
	u, other := c.Create(t, harness.NewUser("github", "facebook")), c.Create(t, harness.NewUser())
	requests := map[string]func() *harness.Request{
		"create": func() *harness.Request { return c.NewRequest("create", harness.NewUser()) },
		"patch": func() *harness.Request {
			fresh := c.Create(t, harness.NewUser())
			return c.NewRequest("patch", harness.Patch(fresh, op("test", "/name", fresh["name"]), op("replace", "/name", "s3cret Eve")))
		},
		"delete": func() *harness.Request {
			return c.NewRequest("delete", dict{"user_id": c.Create(t, harness.NewUser())["id"]})
		},
		"conflict":     func() *harness.Request { return c.NewRequest("create", harness.NewUserLike(u)) },
		"patch_failed": func() *harness.Request { return c.NewRequest("patch", harness.Patch(u, op("remove", "/nope"))) },
		"invalid_patch_result": func() *harness.Request {
			return c.NewRequest("patch", harness.Patch(u, op("remove", "/name")))
		},
		"not_found":    func() *harness.Request { return c.NewRequest("delete", dict{"user_id": 1_000_000}) },
		"bad_request":  func() *harness.Request { return c.NewRequest("create", dict{"name": "s3cret"}) },
		"decode_error": func() *harness.Request { return c.NewRequest("create", []byte{0xc1}) },
	}
	first := make(map[*harness.Request]harness.Reply)
	names := make(map[*harness.Request]string)
	for name, request := range requests {
		for _, by := range []string{"message_id", "reply_to and correlation_id", "direct reply_to and correlation_id"} {
			m := request()
			switch by {
			case "reply_to and correlation_id":
				m.MessageId = ""
			case "direct reply_to and correlation_id":
				m.MessageId, m.ReplyTo = "", harness.DirectReplyTo
			}
			names[m] = name + " by " + by
			first[m] = c.Ask(t, m)
			if code := first[m].ErrorCode(); code != "" && code != name {
				t.Errorf("%s: %v", name, first[m].Value)
			}
		}
	}
	// Now the refused requests would succeed, and the others would fail.
	c.Call(t, "patch", harness.Patch(u, op("replace", "/email", harness.NewUser()["email"]))).Result(t)
	c.Call(t, "delete", dict{"user_id": other["id"]}).Result(t)
	before := s.Contents(t)

	repeat := func(when string) {
		t.Helper()
		for m, want := range first {
			if got := c.Ask(t, sentAgain(m)); !bytes.Equal(got.Body, want.Body) {
				t.Errorf("%s, %s: got %v, want %v", names[m], when, got.Value, want.Value)
			}
		}
		if after := s.Contents(t); after != before {
			t.Errorf("%s: the tables were\n%s\nand are\n%s", when, before, after)
		}
	}
	repeat("at once")
	v.Kill(t)
	s.Serve(t)
	repeat("after a kill -9")
}

func testReplayMessageID(t *testing.T, x *served) {
	s := x.site
	c, elsewhere := s.NewCaller(t), s.NewCaller(t)
	u := harness.NewUser()
	m := c.NewRequest("create", u)
	first := c.Ask(t, m)
	retry := elsewhere.NewRequest("create", u)
	retry.MessageId = m.MessageId
	if again := elsewhere.Ask(t, retry); !bytes.Equal(again.Body, first.Body) {
		t.Errorf("got %v, want %v", again.Value, first.Value)
	}
	// Without a message_id, the caller and the correlation id identify a request.
	m = c.NewRequest("patch", dict{"user_id": 1, "ops": list{op("replace", "/name", "s3cret 1")}})
	m.MessageId = ""
	c.Ask(t, m).Result(t)
	another := elsewhere.NewRequest("patch", dict{"user_id": 1, "ops": list{op("replace", "/name", "s3cret 2")}})
	another.MessageId, another.CorrelationId = "", m.CorrelationId
	elsewhere.Ask(t, another).Result(t)
	// With neither, each request is new.
	for range 2 {
		m := c.NewRequest("patch", dict{"user_id": 1, "ops": list{op("replace", "/name", "s3cret 3")}})
		m.MessageId, m.CorrelationId = "", ""
		c.Ask(t, m).Result(t)
	}
}

func testReplaySameIDOfAnotherRequest(t *testing.T, x *served) {
	c := x.caller
	u := c.Create(t, harness.NewUser())
	for _, byMessageID := range []bool{true, false} {
		request := func(operation string, args any, like *harness.Request) *harness.Request {
			m := c.NewRequest(operation, args)
			if like != nil {
				m.MessageId, m.CorrelationId = like.MessageId, like.CorrelationId
			}
			if !byMessageID {
				m.MessageId = ""
			}
			return m
		}
		rename := func(name string) dict { return harness.Patch(u, op("replace", "/name", name)) }
		m := request("patch", rename("s3cret A"), nil)
		c.Ask(t, m).Result(t)
		c.Ask(t, request("patch", rename("s3cret B"), m)).IsError(t, "bad_request")
		c.Ask(t, request("delete", dict{"user_id": u["id"]}, m)).IsError(t, "bad_request")
		c.Ask(t, request("create", harness.NewUser(), m)).IsError(t, "bad_request")
		c.Ask(t, request("create", []byte{0xc1}, m)).IsError(t, "bad_request")
		c.Ask(t, request("patch", harness.Patch(u), m)).IsError(t, "bad_request")
		c.Ask(t, sentAgain(m)).Result(t)
		if name := c.Get(t, u["id"])["name"]; name != "s3cret A" {
			t.Errorf("the name is %q", name)
		}

		refused := request("delete", dict{"user_id": 4711}, nil)
		c.Ask(t, refused).IsError(t, "not_found")
		c.Ask(t, request("delete", dict{"user_id": u["id"]}, refused)).IsError(t, "bad_request")
		malformed := request("create", []byte{0xc1}, nil)
		c.Ask(t, malformed).IsError(t, "decode_error")
		c.Ask(t, request("create", harness.NewUser(), malformed)).IsError(t, "bad_request")
		c.Get(t, u["id"])
	}
}

// The same arguments in another encoding are the same request.
func testReplayOtherEncoding(t *testing.T, x *served) {
	c := x.caller
	c.Create(t, harness.NewUser())
	ops := func(b []byte, first, second string) []byte {
		b = msgp.AppendMapHeader(msgp.AppendArrayHeader(b, 1), 3)
		b = msgp.AppendString(msgp.AppendString(b, first), map[string]string{"op": "replace", "path": "/name"}[first])
		b = msgp.AppendString(msgp.AppendString(b, second), map[string]string{"op": "replace", "path": "/name"}[second])
		return msgp.AppendString(msgp.AppendString(b, "value"), "s3cret Eve")
	}
	one := append(msgp.AppendMapHeader(nil, 2), "\xa7user_id\x01\xa3ops"...)
	one = ops(one, "op", "path")
	other := append([]byte{0xdf, 0, 0, 0, 2}, "\xd9\x03ops"...)
	other = append(ops(other, "path", "op"), "\xda\x00\x07user_id\xd3\x00\x00\x00\x00\x00\x00\x00\x01"...)

	m := c.NewRequest("patch", one)
	first := c.Ask(t, m)
	m.Body = other
	if again := c.Ask(t, m); again.ErrorCode() != "" {
		t.Errorf("got %v, want %v", again.Value, first.Value)
	}
}

func testReplayReads(t *testing.T) {
	t.Parallel()
	s := harness.NewSite(t)
	s.Serve(t)
	c := s.NewCaller(t)
	u := c.Create(t, harness.NewUser())
	get := c.NewRequest("get", dict{"user_id": u["id"]})
	absent := c.NewRequest("get", dict{"user_id": 2})
	all := c.NewRequest("list", dict{})
	c.Ask(t, get).IsResult(t, u)
	c.Ask(t, absent).IsError(t, "not_found")
	areListed := func(users ...dict) {
		t.Helper()
		want := list{}
		for _, u := range users {
			want = append(want, harness.AsListed(u))
		}
		if got := c.Ask(t, all).Result(t).(dict)["users"]; !reflect.DeepEqual(got, harness.Normalize(want)) {
			t.Errorf("listed are %v, want %v", got, want)
		}
	}
	areListed(u)
	c.Call(t, "patch", harness.Patch(u, op("replace", "/name", "s3cret Eve"))).Result(t)
	u["name"] = "s3cret Eve"
	second := c.Create(t, harness.NewUser())
	c.Ask(t, get).IsResult(t, u)
	c.Ask(t, absent).IsResult(t, second)
	areListed(u, second)
	get.Body = harness.Pack(dict{"user_id": second["id"]})
	c.Ask(t, get).IsResult(t, second)
	// A read does not use up its request id either.
	write := c.NewRequest("patch", harness.Patch(u))
	write.MessageId = get.MessageId
	c.Ask(t, write).Result(t)
}

// Copies arrive at the same moment, at two instances.
func testReplayConcurrentCopies(t *testing.T) {
	t.Parallel()
	s := harness.NewSite(t)
	s.Serve(t)
	s.Serve(t)
	c := s.NewCaller(t)
	const requests, copies = 30, 8
	var sent []*harness.Request
	for range requests {
		u := harness.NewUser("github", "facebook")
		id := uuid.NewString()
		for range copies {
			m := c.NewRequest("create", u)
			m.MessageId = id
			c.Send(t, m)
			sent = append(sent, m)
		}
	}
	for i := 0; i < len(sent); i += copies {
		first := c.AwaitReply(t, sent[i])
		first.Result(t)
		for _, m := range sent[i+1 : i+copies] {
			if again := c.AwaitReply(t, m); !bytes.Equal(again.Body, first.Body) {
				t.Errorf("got %v and %v", first.Value, again.Value)
			}
		}
	}
	if n := s.Count(t, "SELECT count(*) FROM users"); n != requests {
		t.Errorf("%d requests made %d users", requests, n)
	}
}
