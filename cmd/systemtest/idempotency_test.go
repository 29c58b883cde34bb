package systemtest

import (
	"bytes"
	"testing"

	"github.com/google/uuid"
	"github.com/tinylib/msgp/msgp"
)

// A copy of m is the same request, sent again.
func sentAgain(m *message) *message {
	twin := *m
	return &twin
}

func TestRequestThatComesAgainIsAppliedOnceAndAnsweredTheSame(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	v := s.serve(t)
	c := s.newCaller(t)
	u, other := c.create(t, newUser("github", "facebook")), c.create(t, newUser())
	requests := map[string]func() *message{
		"create": func() *message { return c.request("create", newUser()) },
		"patch": func() *message {
			fresh := c.create(t, newUser())
			return c.request("patch", patchOf(fresh, op("test", "/name", fresh["name"]), op("replace", "/name", "s3cret Eve")))
		},
		"delete":       func() *message { return c.request("delete", dict{"user_id": c.create(t, newUser())["id"]}) },
		"conflict":     func() *message { return c.request("create", newUserOf(u)) },
		"patch_failed": func() *message { return c.request("patch", patchOf(u, op("remove", "/nope"))) },
		"invalid_patch_result": func() *message {
			return c.request("patch", patchOf(u, op("remove", "/name")))
		},
		"not_found":    func() *message { return c.request("delete", dict{"user_id": 1_000_000}) },
		"bad_request":  func() *message { return c.request("create", dict{"name": "s3cret"}) },
		"decode_error": func() *message { return c.request("create", []byte{0xc1}) },
	}
	first := make(map[*message]answer)
	names := make(map[*message]string)
	for name, request := range requests {
		for _, by := range []string{"message_id", "reply_to and correlation_id", "direct reply_to and correlation_id"} {
			m := request()
			switch by {
			case "reply_to and correlation_id":
				m.MessageId = ""
			case "direct reply_to and correlation_id":
				m.MessageId, m.ReplyTo = "", direct
			}
			names[m] = name + " by " + by
			first[m] = c.ask(t, m)
			if code := first[m].code(); code != "" && code != name {
				t.Errorf("%s: %v", name, first[m].tree)
			}
		}
	}
	// So that what was refused would succeed, and what was done would fail.
	c.call(t, "patch", patchOf(u, op("replace", "/email", newUser()["email"]))).result(t)
	c.call(t, "delete", dict{"user_id": other["id"]}).result(t)
	before := s.contents(t)

	repeat := func(when string) {
		t.Helper()
		for m, want := range first {
			if got := c.ask(t, sentAgain(m)); !bytes.Equal(got.body, want.body) {
				t.Errorf("%s, %s: got %v, want %v", names[m], when, got.tree, want.tree)
			}
		}
		if after := s.contents(t); after != before {
			t.Errorf("%s: the tables were\n%s\nand are\n%s", when, before, after)
		}
	}
	repeat("at once")
	v.kill(t)
	s.serve(t)
	repeat("after a kill -9")
}

func TestMessageIDStandsForTheRequestWhereverItComesFrom(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.serve(t)
	c, elsewhere := s.newCaller(t), s.newCaller(t)
	u := newUser()
	m := c.request("create", u)
	first := c.ask(t, m)
	retry := elsewhere.request("create", u)
	retry.MessageId = m.MessageId
	if again := elsewhere.ask(t, retry); !bytes.Equal(again.body, first.body) {
		t.Errorf("got %v, want %v", again.tree, first.tree)
	}
	// Without one, callers and ids tell requests apart.
	m = c.request("patch", dict{"user_id": 1, "ops": list{op("replace", "/name", "s3cret 1")}})
	m.MessageId = ""
	c.ask(t, m).result(t)
	another := elsewhere.request("patch", dict{"user_id": 1, "ops": list{op("replace", "/name", "s3cret 2")}})
	another.MessageId, another.CorrelationId = "", m.CorrelationId
	elsewhere.ask(t, another).result(t)
	// With neither, each is new.
	for range 2 {
		m := c.request("patch", dict{"user_id": 1, "ops": list{op("replace", "/name", "s3cret 3")}})
		m.MessageId, m.CorrelationId = "", ""
		c.ask(t, m).result(t)
	}
}

func TestOneIdentityWithAnotherRequestIsABadRequest(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.serve(t)
	c := s.newCaller(t)
	u := c.create(t, newUser())
	for _, byMessageID := range []bool{true, false} {
		request := func(operation string, args any, like *message) *message {
			m := c.request(operation, args)
			if like != nil {
				m.MessageId, m.CorrelationId = like.MessageId, like.CorrelationId
			}
			if !byMessageID {
				m.MessageId = ""
			}
			return m
		}
		rename := func(name string) dict { return patchOf(u, op("replace", "/name", name)) }
		m := request("patch", rename("s3cret A"), nil)
		c.ask(t, m).result(t)
		c.ask(t, request("patch", rename("s3cret B"), m)).refused(t, "bad_request")
		c.ask(t, request("delete", dict{"user_id": u["id"]}, m)).refused(t, "bad_request")
		c.ask(t, request("create", newUser(), m)).refused(t, "bad_request")
		c.ask(t, request("create", []byte{0xc1}, m)).refused(t, "bad_request")
		c.ask(t, request("patch", patchOf(u), m)).refused(t, "bad_request")
		c.ask(t, sentAgain(m)).result(t)
		if name := c.get(t, u["id"])["name"]; name != "s3cret A" {
			t.Errorf("the name is %q", name)
		}

		refused := request("delete", dict{"user_id": 4711}, nil)
		c.ask(t, refused).refused(t, "not_found")
		c.ask(t, request("delete", dict{"user_id": u["id"]}, refused)).refused(t, "bad_request")
		malformed := request("create", []byte{0xc1}, nil)
		c.ask(t, malformed).refused(t, "decode_error")
		c.ask(t, request("create", newUser(), malformed)).refused(t, "bad_request")
		c.get(t, u["id"])
	}
}

// A caller may encode the same arguments in another way.
func TestSameArgumentsInAnotherEncodingAreTheSameRequest(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.serve(t)
	c := s.newCaller(t)
	c.create(t, newUser())
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

	m := c.request("patch", one)
	first := c.ask(t, m)
	m.Body = other
	if again := c.ask(t, m); again.code() != "" {
		t.Errorf("got %v, want %v", again.tree, first.tree)
	}
}

func TestReadsAreAnsweredAnewUnderAnyID(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.serve(t)
	c := s.newCaller(t)
	u := c.create(t, newUser())
	get := c.request("get", dict{"user_id": u["id"]})
	absent := c.request("get", dict{"user_id": 2})
	all := c.request("list", dict{})
	c.ask(t, get).is(t, u)
	c.ask(t, absent).refused(t, "not_found")
	c.ask(t, all).is(t, dict{"users": list{shown(u)}})
	c.call(t, "patch", patchOf(u, op("replace", "/name", "s3cret Eve"))).result(t)
	u["name"] = "s3cret Eve"
	second := c.create(t, newUser())
	c.ask(t, get).is(t, u)
	c.ask(t, absent).is(t, second)
	c.ask(t, all).is(t, dict{"users": list{shown(u), shown(second)}})
	get.Body = pack(dict{"user_id": second["id"]})
	c.ask(t, get).is(t, second)
	// Nor does a read take up an identity.
	write := c.request("patch", patchOf(u))
	write.MessageId = get.MessageId
	c.ask(t, write).result(t)
}

// Copies that arrive at the same moment, by two instances too.
func TestCopiesThatComeAtOnceAreAppliedOnce(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.serve(t)
	s.serve(t)
	c := s.newCaller(t)
	const requests, copies = 30, 8
	var sent []*message
	for range requests {
		u := newUser("github", "facebook")
		id := uuid.NewString()
		for range copies {
			m := c.request("create", u)
			m.MessageId = id
			c.send(t, m)
			sent = append(sent, m)
		}
	}
	for i := 0; i < len(sent); i += copies {
		first := c.await(t, sent[i])
		first.result(t)
		for _, m := range sent[i+1 : i+copies] {
			if again := c.await(t, m); !bytes.Equal(again.body, first.body) {
				t.Errorf("got %v and %v", first.tree, again.tree)
			}
		}
	}
	if n := s.count(t, "SELECT count(*) FROM users"); n != requests {
		t.Errorf("%d requests made %d users", requests, n)
	}
}
