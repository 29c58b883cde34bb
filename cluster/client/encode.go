package client

import (
	"slices"

	"github.com/tinylib/msgp/msgp"
)

// A mapEncoder encodes a map of a few members.
type mapEncoder struct{ b []byte }

func newMap() *mapEncoder { return &mapEncoder{append(make([]byte, 0, 128), emptyMap)} }

// emptyMap is the head of a map without members. In msgpack, a map of up to 15 members has
// their number in the low bits of its head.
const emptyMap = 0x80

func (m *mapEncoder) key(name string) *mapEncoder {
	m.b[0]++
	m.b = msgp.AppendString(m.b, name)
	return m
}

func (m *mapEncoder) integer(name string, n int64) { m.b = msgp.AppendInt64(m.key(name).b, n) }

func (m *mapEncoder) text(name, s string) { m.b = msgp.AppendString(m.key(name).b, s) }

func (m *mapEncoder) raw(name string, encoded []byte) { m.b = append(m.key(name).b, encoded...) }

// integerIfSet and textIfSet leave zero values out.
func (m *mapEncoder) integerIfSet(name string, n int64) {
	if n != 0 {
		m.integer(name, n)
	}
}

func (m *mapEncoder) textIfSet(name, s string) {
	if s != "" {
		m.text(name, s)
	}
}

func encodeQuery(q Query) []byte {
	m := newMap()
	m.integerIfSet("user_id", q.UserID)
	m.textIfSet("email", q.Email)
	m.integerIfSet("github_id", q.GitHubID)
	m.integerIfSet("facebook_id", q.FacebookID)
	return m.b
}

func encodeIDs(ids []int64) []byte {
	b := msgp.AppendArrayHeader(make([]byte, 0, 9*len(ids)+5), uint32(len(ids)))
	for _, id := range ids {
		b = msgp.AppendInt64(b, id)
	}
	m := newMap()
	m.raw("user_ids", b)
	return m.b
}

func encodeUser(u *User) []byte {
	m := newMap()
	m.text("name", u.Name)
	m.text("email", u.Email)
	m.textIfSet("picture_url", u.PictureURL)
	if u.GitHub != nil {
		m.raw("github", u.GitHub.encode())
	}
	if u.Facebook != nil {
		m.raw("facebook", u.Facebook.encode())
	}
	return m.b
}

func (a *Account) encode() []byte {
	m := newMap()
	m.integer("id", a.ID)
	m.text("access_token", a.AccessToken)
	return m.b
}

func encodeList(o ListOptions) []byte {
	m := newMap()
	m.textIfSet("name", o.Name)
	m.integerIfSet("after_id", o.AfterID)
	m.integerIfSet("page_size", int64(o.PageSize))
	return m.b
}

func encodePatch(userID int64, ops []Op) ([]byte, error) {
	b := msgp.AppendArrayHeader(nil, uint32(len(ops)))
	for i := range ops {
		o := newMap()
		o.text("op", ops[i].Op)
		o.text("path", ops[i].Path)
		if ops[i].hasValue() {
			value, err := encodeValue(ops[i].Value)
			if err != nil {
				return nil, badRequest("the value at %s: %v", ops[i].Path, err)
			}
			o.raw("value", value)
		} else if ops[i].Op != "remove" {
			o.text("from", ops[i].From)
		}
		b = append(b, o.b...)
	}
	m := newMap()
	m.integer("user_id", userID)
	m.raw("ops", b)
	return m.b, nil
}

func encodeValue(v any) ([]byte, error) {
	switch v := v.(type) {
	case Account:
		return v.encode(), nil
	case *Account:
		if v == nil {
			return msgp.AppendNil(nil), nil
		}
		return v.encode(), nil
	}
	return msgp.AppendIntf(nil, v)
}

// sortedSet returns the ids in ascending order, each once.
func sortedSet(ids []int64) []int64 {
	ids = slices.Clone(ids)
	slices.Sort(ids)
	return slices.Compact(ids)
}
