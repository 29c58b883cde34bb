package contract

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"slices"
	"strconv"
	"strings"
	"testing"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/glotpod/ident/cmd/systemtest/harness"
)

// staysUp fails unless the instance serves a request and has used one connection only.
func staysUp(t *testing.T, v *harness.Instance, c *harness.Caller, u dict) {
	t.Helper()
	m := c.NewRequest("get", dict{"user_id": u["id"]})
	c.Ask(t, m).IsResult(t, u)
	v.CheckOneConnection(t)
}

// directReplyQueue returns a name for direct replies as the broker makes it.
func directReplyQueue(t *testing.T, c *harness.Caller) string {
	t.Helper()
	const key = "somewhere.else"
	q, err := c.Channel.QueueDeclare("", false, true, true, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Channel.QueueBind(q.Name, key, "amq.topic", false, nil); err != nil {
		t.Fatal(err)
	}
	m := c.NewRequest("", dict{})
	m.Key, m.ReplyTo = key, harness.DirectReplyTo
	c.Send(t, m)
	var name string
	harness.Eventually(t, "the message with the name arrives", func() bool {
		d, ok, err := c.Channel.Get(q.Name, true)
		if err != nil {
			t.Fatal(err)
		}
		name = d.ReplyTo
		return ok
	})
	return name
}

// forgeries returns forged names that are made of a genuine one.
func forgeries(t *testing.T, name string) map[string]string {
	t.Helper()
	parts := strings.Split(strings.TrimPrefix(name, harness.DirectReplyTo+"."), ".")
	process, err := base64.StdEncoding.DecodeString(parts[0])
	if err != nil || len(parts) != 2 {
		t.Fatalf("the name %q is not as expected: %v", name, err)
	}
	const nodeAt = 5
	idAt := nodeAt + int(binary.BigEndian.Uint16(process[3:]))
	join := func(process []byte, key string) string {
		return harness.DirectReplyTo + "." + base64.StdEncoding.EncodeToString(process) + "." + key
	}
	edit := func(change func(p []byte)) string {
		p := bytes.Clone(process)
		change(p)
		return join(p, parts[1])
	}
	withNode := func(kind byte, node string) string {
		p := slices.Concat(process[:2], []byte{kind}, binary.BigEndian.AppendUint16(nil, uint16(len(node))), []byte(node), process[idAt:])
		return join(p, parts[1])
	}
	all := map[string]string{
		"a dot behind it":            harness.DirectReplyTo + ".",
		"words":                      harness.DirectReplyTo + ".garbage",
		"two words":                  harness.DirectReplyTo + ".garbage.garbage",
		"no key":                     harness.DirectReplyTo + "." + parts[0],
		"another key":                join(process, base64.StdEncoding.EncodeToString(make([]byte, 16))),
		"a key that is short":        join(process, "AAAA"),
		"a key that is no base64":    join(process, "!!!!"),
		"a key behind the key":       name + "." + parts[1],
		"a process cut short":        join(process[:len(process)-1], parts[1]),
		"no process":                 join(nil, parts[1]),
		"an atom":                    join([]byte{131, 100, 0, 1, 'x'}, parts[1]),
		"a new atom":                 join(append([]byte{131, 119, 20}, "an_atom_never_seen_x"...), parts[1]),
		"a list":                     join([]byte{131, 106}, parts[1]),
		"a big term":                 join(append([]byte{131, 109, 0xff, 0xff, 0xff, 0xff}, make([]byte, 20)...), parts[1]),
		"a compressed term":          join([]byte{131, 80, 0xff, 0xff, 0xff, 0xff, 0x78, 0x9c}, parts[1]),
		"the first process":          edit(func(p []byte) { clear(p[idAt : idAt+8]) }),
		"a process that is gone":     edit(func(p []byte) { binary.BigEndian.PutUint32(p[idAt:], 1<<15-1) }),
		"a process that cannot be":   edit(func(p []byte) { binary.BigEndian.PutUint32(p[idAt:], 1<<31) }),
		"a serial that cannot be":    edit(func(p []byte) { binary.BigEndian.PutUint32(p[idAt+4:], 1<<31) }),
		"another life of the node":   edit(func(p []byte) { p[len(p)-1] ^= 1 }),
		"another node":               withNode(process[2], "reply@123456"),
		"a node with a name":         withNode(process[2], "rabbit@elsewhere"),
		"a node in the old form":     withNode(100, "rabbit@localhost"),
		"a node of no name":          withNode(process[2], ""),
		"a node of a great hash":     withNode(process[2], "reply@99999999999"),
		"a node of a negative hash":  withNode(process[2], "reply@-1"),
		"a node of a hash beyond it": withNode(process[2], "reply@"+strconv.Itoa(1<<27)),
	}
	for i := range 8 {
		all["a bit of byte "+strconv.Itoa(i)] = edit(func(p []byte) { p[i] ^= 0x40 })
	}
	for what, name := range all {
		if len(name) > 255 {
			delete(all, what)
		}
	}
	return all
}

func TestHostile(t *testing.T) {
	t.Parallel()
	x := serve(t)
	x.run(t, "forged_direct_reply_to", testHostileForgedDirectReplyTo)
	x.run(t, "reply_to_nowhere", testHostileReplyToNowhere)
	x.run(t, "missing_properties", testHostileMissingProperties)
	x.run(t, "headers", testHostileHeaders)
	x.run(t, "huge_bodies", testHostileHugeBodies)
	x.run(t, "patches", testHostilePatches)
	t.Run("list_of_huge_users", testHostileListOfHugeUsers)
}

func testHostileForgedDirectReplyTo(t *testing.T, x *served) {
	s, v, c := x.site, x.instance, x.caller
	u := c.Create(t, harness.NewUser())
	gone, err := harness.DialCaller(s.AMQPURL)
	if err != nil {
		t.Fatal(err)
	}
	names := forgeries(t, directReplyQueue(t, c))
	names["a caller who is gone"] = directReplyQueue(t, gone)
	gone.Conn.Close()
	for what, name := range names {
		t.Run(what, func(t *testing.T) {
			m := c.NewRequest("get", dict{"user_id": u["id"]})
			m.ReplyTo = name
			c.Send(t, m)
			staysUp(t, v, c, u)
		})
	}
}

func testHostileReplyToNowhere(t *testing.T, x *served) {
	v, c := x.instance, x.caller
	u := c.Create(t, harness.NewUser())
	for i, name := range []string{"nowhere", harness.RequestQueue + "/not", "amq.gen-gone", " ", "\x00", "\xff\xfe", strings.Repeat("x", 255),
		"amq.rabbitmq.reply-to.", "amq.topic", "amq.rabbitmq.trace"} {
		m := c.NewRequest("patch", harness.Patch(u, op("replace", "/name", "s3cret "+strconv.Itoa(i))))
		m.ReplyTo = name
		c.Send(t, m)
		harness.Eventually(t, "the request is carried out", func() bool { return c.Get(t, u["id"])["name"] == "s3cret "+strconv.Itoa(i) })
		v.CheckOneConnection(t)
	}
	// A reply in the queue for requests is not a request.
	m := c.NewRequest("get", dict{"user_id": u["id"]})
	m.ReplyTo = harness.RequestQueue
	c.Send(t, m)
	u["name"] = "s3cret 9"
	staysUp(t, v, c, u)
	harness.Eventually(t, "nothing goes round", func() bool { return c.DeclareQueue(t).Messages == 0 })
}

func testHostileMissingProperties(t *testing.T, x *served) {
	v, c := x.instance, x.caller
	u := c.Create(t, harness.NewUser())
	for _, operation := range []string{"get", "create", "patch", "delete", "get_many", "list", "changes", "nope", ""} {
		for _, body := range [][]byte{nil, {0xc0}, {0xc1}, harness.Pack(dict{})} {
			if err := c.Channel.Publish("amq.topic", "rpc.user."+operation, false, false, amqp.Publishing{Body: body}); err != nil {
				t.Fatal(err)
			}
		}
	}
	// Directly into the queue, without a routing key of an operation.
	if err := c.Channel.Publish("", harness.RequestQueue, false, false, amqp.Publishing{Body: harness.Pack(dict{"user_id": u["id"]})}); err != nil {
		t.Fatal(err)
	}
	staysUp(t, v, c, u)
	m := c.NewRequest("", dict{"user_id": u["id"]})
	m.Exchange, m.Key = "", harness.RequestQueue
	c.Ask(t, m).IsError(t, "operation_not_found")
}

func testHostileHeaders(t *testing.T, x *served) {
	s, v, c := x.site, x.instance, x.caller
	raw := s.NewRawCaller(t)
	u := c.Create(t, harness.NewUser())
	value := func(kind byte, rest ...byte) []byte {
		return slices.Concat(harness.ShortString("x"), []byte{kind}, rest)
	}
	for what, headers := range map[string][]byte{
		"none":                       nil,
		"tables 8 deep":              harness.NestedTable(8),
		"tables 100 deep":            harness.NestedTable(100),
		"tables 10,000 deep":         harness.NestedTable(10_000),
		"a type the library has not": value('L', make([]byte, 8)...),
		"it in a table":              value('F', harness.LongString(value('L', make([]byte, 8)...))...),
		"an unsigned byte":           value('B', 255),
		"an unsigned short":          value('u', 255, 255),
		"an unsigned long":           value('i', 255, 255, 255, 255),
		"a decimal":                  value('D', 255, 255, 255, 255, 255),
		"the end of time":            value('T', bytes.Repeat([]byte{255}, 8)...),
		"a float":                    value('f', 0x7f, 0x7f, 255, 255),
		"nothing":                    value('V'),
		"bytes":                      value('x', harness.LongString([]byte{0, 255})...),
		"a string that is no text":   value('S', harness.LongString([]byte{0, 255})...),
		"an array of 50,000":         value('A', harness.LongString(bytes.Repeat([]byte{'V'}, 50_000))...),
		"100,000 bytes":              value('S', harness.LongString(make([]byte, 100_000))...),
		"a traceparent of bytes":     slices.Concat(harness.ShortString("traceparent"), []byte{'x'}, harness.LongString([]byte("00-"))),
		"a name that is no text":     slices.Concat(harness.ShortString("\xff\x00"), []byte{'V'}),
	} {
		t.Run(what, func(t *testing.T) {
			m := c.NewRequest("get", dict{"user_id": u["id"]})
			raw.Publish(t, m, headers)
			c.AwaitReply(t, m).IsResult(t, u)
			staysUp(t, v, c, u)
		})
	}
}

func testHostileHugeBodies(t *testing.T, x *served) {
	v, c := x.instance, x.caller
	u := c.Create(t, harness.NewUser())
	body := bytes.Repeat([]byte{0x91}, 10_000_000)
	for range 10 {
		c.Send(t, c.NewRequest("patch", body))
	}
	unanswered := c.NewRequest("patch", body)
	unanswered.ReplyTo = ""
	c.Send(t, unanswered)
	staysUp(t, v, c, u)
}

func testHostilePatches(t *testing.T, x *served) {
	s, v, c := x.site, x.instance, x.caller
	u := c.Create(t, harness.NewUser())
	before := s.Contents(t)
	repeat := func(n int, o ...any) list { return slices.Repeat(list(o), n) }
	deep := any("s3cret")
	for range 25 {
		deep = list{deep}
	}
	for what, ops := range map[string]list{
		"a copy bomb of a list":   append(list{op("add", "/x", list{"s3cret"})}, repeat(100, opFrom("copy", "/x", "/x/-"))...),
		"a copy bomb of a map":    append(list{op("add", "/x", dict{})}, bomb(40)...),
		"a copy bomb of a string": append(list{op("add", "/x", list{strings.Repeat("s3cret", 1000)})}, repeat(1000, opFrom("copy", "/x/0", "/x/-"))...),
		"the user into itself":    repeat(60, opFrom("copy", "", "/x")),
		"ever deeper":             append(list{op("add", "/x", deep)}, repeat(1000, opFrom("copy", "/x", "/x/0"))...),
		"insertions at the front": append(list{op("add", "/x", slices.Repeat(list{0}, 5000))}, repeat(5000, op("add", "/x/0", 0))...),
		"a long pointer":          {op("add", strings.Repeat("/x", 100_000), 1)},
		"a pointer of escapes":    {op("add", "/"+strings.Repeat("~1", 100_000), 1)},
		"an index beyond all":     {op("add", "/x", list{}), op("add", "/x/99999999999999999999", 1)},
		"a great index":           {op("add", "/x", list{}), op("add", "/x/4294967296", 1)},
		"a test of a lot":         append(list{op("add", "/x", slices.Repeat(list{0}, 5000))}, repeat(200, opFrom("copy", "/x", "/y"), op("test", "/x", 0))...),
	} {
		t.Run(what, func(t *testing.T) {
			a := c.Call(t, "patch", harness.Patch(u, ops...))
			switch a.ErrorCode() {
			case "bad_request", "patch_failed", "invalid_patch_result":
			default:
				t.Errorf("got %.200v", a.Value)
			}
			staysUp(t, v, c, u)
		})
	}
	if s.Contents(t) != before {
		t.Error("a hostile patch has changed something")
	}
	t.Run("a thousand harmless operations are fine", func(t *testing.T) {
		ops := repeat(499, op("replace", "/name", "s3cret A"), op("test", "/name", "s3cret A"))
		ops = append(ops, op("replace", "/name", "s3cret B"), op("remove", "/id"))
		c.Call(t, "patch", harness.Patch(u, ops...)).IsResult(t, ops)
		u["name"] = "s3cret B"
		staysUp(t, v, c, u)
	})
}

// bomb doubles a map again and again.
func bomb(times int) (ops list) {
	for i := range times {
		ops = append(ops, opFrom("copy", "/x", "/x/"+strconv.Itoa(i)))
	}
	return ops
}

// A reply must not exceed 128 MiB, the limit of the broker, however large the users are.
func testHostileListOfHugeUsers(t *testing.T) {
	t.Parallel()
	s := harness.NewSite(t)
	v := s.Serve(t)
	c := s.NewCaller(t)
	u := c.Create(t, harness.NewUser())
	s.Exec(t, `INSERT INTO users (name, email_address) SELECT 's3cret' || i || repeat('x', 1000000), 's3cret' || i FROM generate_series(1, 160) i`)
	last := any(0)
	for range 2 {
		page := c.Call(t, "list", dict{"page_size": 1000, "after_id": last}).Result(t).(dict)
		if len(page["users"].(list)) == 0 || page["next_after_id"] == nil {
			t.Fatalf("the page after %v leads nowhere", last)
		}
		last = page["next_after_id"]
	}
	var ids, seen list
	for id := range int64(20) {
		ids = append(ids, id)
	}
	for len(ids) > 0 { // again for the ids that are missing
		page := c.Call(t, "get_many", dict{"user_ids": ids}).Result(t).(dict)
		users := page["users"].(list)
		for _, u := range users {
			seen = append(seen, u.(dict)["id"])
		}
		next, more := page["next_after_id"].(int64)
		if len(users) == 0 || more == (len(seen) == 19) || more && next != seen[len(seen)-1] {
			t.Fatalf("%d users up to %v", len(users), page["next_after_id"])
		}
		if !more {
			break
		}
		ids = slices.DeleteFunc(ids, func(id any) bool { return id.(int64) <= next })
	}
	if len(seen) != 19 || seen[0] != int64(1) || seen[18] != int64(19) {
		t.Errorf("seen were %v", seen)
	}
	staysUp(t, v, c, u)
}
