package client

import (
	"bytes"
	"fmt"
	"math"
	"time"

	"github.com/tinylib/msgp/msgp"

	"github.com/glotpod/ident/actor/msgpack"
)

// A decoder decodes a reply. It passes over members that it does not know, since a later
// version of the service may send more. It allocates nothing because of a size that the reply
// announces only. After an error, which wraps [ErrMalformed], its methods return zero values.
type decoder struct {
	b   []byte
	err error
}

func (d *decoder) fail() { d.failWith(nil) }

func (d *decoder) failWith(cause error) {
	switch {
	case d.err != nil:
	case cause == nil:
		d.err = ErrMalformed
	default:
		d.err = fmt.Errorf("%w: %w", ErrMalformed, cause)
	}
	d.b = nil
}

// read reads a value by a function of package msgp.
func read[T any](d *decoder, from func([]byte) (T, []byte, error)) (v T) {
	if d.err != nil {
		return v
	}
	v, rest, err := from(d.b)
	if err != nil {
		d.failWith(err)
		var zero T
		return zero
	}
	d.b = rest
	return v
}

func (d *decoder) text() string { return read(d, msgp.ReadStringBytes) }

func (d *decoder) integer() int64 { return read(d, msgp.ReadInt64Bytes) }

func (d *decoder) boolean() bool { return read(d, msgp.ReadBoolBytes) }

func (d *decoder) skip() { d.raw() }

// raw returns the encoding of a value.
func (d *decoder) raw() []byte {
	return read(d, func(b []byte) (value, rest []byte, err error) {
		rest, err = msgp.Skip(b)
		return b[:len(b)-len(rest)], rest, err
	})
}

// maxDepth is how deeply a value of a JSON Patch may be nested. The service accepts less.
const maxDepth = 1000

// value returns any value.
func (d *decoder) value() any {
	raw := d.raw()
	if d.err != nil {
		return nil
	}
	msg, err := msgpack.Decode(raw, msgpack.Limits{Bytes: maxReply, Depth: maxDepth, Values: math.MaxInt})
	if err != nil {
		d.failWith(err)
	}
	return msg.Tree
}

// members calls member with each key of a map. member must read the value, and not keep the key.
func (d *decoder) members(member func(key []byte)) {
	for left := read(d, msgp.ReadMapHeaderBytes); left > 0 && d.err == nil; left-- {
		if key := read(d, msgp.ReadStringZC); d.err == nil {
			member(key)
		}
	}
}

// elements calls element for each element of an array. element must read it.
func (d *decoder) elements(element func()) {
	for left := read(d, msgp.ReadArrayHeaderBytes); left > 0 && d.err == nil; left-- {
		element()
	}
}

// resultHead begins the usual reply: a map whose only key is result.
var resultHead = []byte("\x81\xa6result")

// parseReply returns the result in a reply. If the reply is an error, so is the result: an
// [*Error].
func parseReply(body []byte) (result []byte, err error) {
	d := decoder{b: body}
	if result, ok := bytes.CutPrefix(body, resultHead); ok {
		d.b = result
		if d.skip(); len(d.b) > 0 {
			d.fail()
		}
		return result, d.err
	}
	var refusal Error
	d.members(func(key []byte) {
		switch string(key) {
		case "result":
			result = d.raw()
		case "error":
			refusal.Code = d.text()
		case "message":
			refusal.Message = d.text()
		case "retryable":
			refusal.Retryable = d.boolean()
		case "retry_after_ms":
			refusal.RetryAfter = time.Duration(min(max(0, d.integer()), math.MaxInt64/int64(time.Millisecond))) * time.Millisecond
		default:
			d.skip()
		}
	})
	if len(d.b) > 0 || (result == nil) == (refusal.Code == "") {
		d.fail()
	}
	if d.err != nil {
		return nil, d.err
	}
	if refusal.Code != "" {
		return nil, &refusal
	}
	return result, nil
}

func (u *User) decode(d *decoder) {
	d.members(func(key []byte) {
		switch string(key) {
		case "id":
			u.ID = d.integer()
		case "name":
			u.Name = d.text()
		case "email":
			u.Email = d.text()
		case "picture_url":
			u.PictureURL = d.text()
		case "github":
			u.GitHub = decodeAccount(d)
		case "facebook":
			u.Facebook = decodeAccount(d)
		default:
			d.skip()
		}
	})
	if u.ID == 0 {
		d.fail()
	}
}

func decodeAccount(d *decoder) *Account {
	a := new(Account)
	d.members(func(key []byte) {
		switch string(key) {
		case "id":
			a.ID = d.integer()
		case "access_token":
			a.AccessToken = d.text()
		default:
			d.skip()
		}
	})
	return a
}

func (p *UserPage) decode(d *decoder) {
	d.members(func(key []byte) {
		switch string(key) {
		case "users":
			d.elements(func() {
				var u User
				u.decode(d)
				p.Users = append(p.Users, u)
			})
		case "next_after_id":
			p.NextAfterID = d.integer()
		case "after":
			p.After = d.text()
		default:
			d.skip()
		}
	})
}

func decodeOps(d *decoder) []Op {
	ops := []Op{}
	d.elements(func() {
		var o Op
		d.members(func(key []byte) {
			switch string(key) {
			case "op":
				o.Op = d.text()
			case "path":
				o.Path = d.text()
			case "from":
				o.From = d.text()
			case "value":
				o.Value = d.value()
			default:
				d.skip()
			}
		})
		ops = append(ops, o)
	})
	return ops
}
