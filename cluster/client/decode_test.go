package client

import (
	"errors"
	"math"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/tinylib/msgp/msgp"
)

func pack(v any) []byte {
	b, err := msgp.AppendIntf(nil, v)
	if err != nil {
		panic(err)
	}
	return b
}

type dict = map[string]any

func TestParseReply(t *testing.T) {
	for name, x := range map[string]struct {
		reply any
		want  *Error
	}{
		"code_alone":   {dict{"error": "conflict"}, &Error{Code: "conflict"}},
		"whole":        {dict{"error": "c", "message": "m", "retryable": true, "retry_after_ms": 1500, "new": dict{}}, &Error{"c", "m", true, 1500 * time.Millisecond}},
		"long_pause":   {dict{"error": "c", "retry_after_ms": math.MaxInt64}, &Error{Code: "c", RetryAfter: math.MaxInt64 / time.Millisecond * time.Millisecond}},
		"negative":     {dict{"error": "c", "retry_after_ms": -1}, &Error{Code: "c"}},
		"unknown_code": {dict{"error": "new_code"}, &Error{Code: "new_code"}},
	} {
		t.Run(name, func(t *testing.T) {
			result, err := parseReply(pack(x.reply))
			if refusal, ok := errors.AsType[*Error](err); !ok || *refusal != *x.want || result != nil {
				t.Errorf("%x, %#v", result, err)
			}
		})
	}
}

// Pages that would never end are malformed.
func TestMalformedPages(t *testing.T) {
	change := dict{"user_id": 1, "sequence": 1, "operation": "delete", "time": "2026-11-29T07:08:09.000010Z"}
	with := func(key string, v any) dict {
		c := dict{key: v}
		for k, v := range change {
			if k != key {
				c[k] = v
			}
		}
		return c
	}
	page := func(c ...any) dict { return dict{"changes": c, "after": "a", "more": false} }
	decode := func(v any) error {
		d := decoder{b: pack(v)}
		new(ChangePage).decode(&d)
		return d.err
	}
	if err := decode(page(change)); err != nil {
		t.Fatal(err)
	}
	for _, v := range []any{
		1, dict{}, dict{"changes": []any{}, "after": "a"}, dict{"changes": []any{}, "more": true}, dict{"changes": 1, "after": "a", "more": false},
		page(1), page(dict{}), page(with("user_id", "1")), page(with("sequence", 0)), page(with("time", "now")), page(with("operation", "move")),
		page(with("operation", "create")), page(with("operation", "patch")), page(with("ops", dict{})),
	} {
		if err := decode(v); !errors.Is(err, ErrMalformed) {
			t.Errorf("%v: the error is %v", v, err)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(pack(dict{"result": dict{"id": 1, "github": dict{"id": 2}}}))
	f.Add(pack(dict{"result": dict{"users": []any{dict{"id": 1}}, "after": "a"}}))
	f.Add(pack(dict{"result": dict{"changes": []any{dict{"user_id": 1, "ops": []any{dict{"op": "add", "value": []any{1.5, nil}}}}}, "after": "a", "more": true}}))
	f.Add([]byte{0xdf, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, body []byte) {
		result, err := parseReply(body)
		if err != nil {
			return
		}
		for _, decode := range []func(d *decoder){new(User).decode, new(UserPage).decode, new(ChangePage).decode} {
			d := decoder{b: slices.Clone(result)}
			if decode(&d); d.err != nil && !errors.Is(d.err, ErrMalformed) {
				t.Error(d.err)
			}
		}
	})
}

func TestEncodePatch(t *testing.T) {
	got, err := encodePatch(1<<60, []Op{
		Add("/github", Account{7, "t"}), Replace("/facebook", (*Account)(nil)), Remove("/name"), Test("/id", 2), Move("/a", "/b"), Copy("/c", "/d"),
	})
	if err != nil {
		t.Fatal(err)
	}
	want := dict{"user_id": 1 << 60, "ops": []any{
		dict{"op": "add", "path": "/github", "value": dict{"id": 7, "access_token": "t"}},
		dict{"op": "replace", "path": "/facebook", "value": nil},
		dict{"op": "remove", "path": "/name"}, dict{"op": "test", "path": "/id", "value": 2},
		dict{"op": "move", "path": "/b", "from": "/a"}, dict{"op": "copy", "path": "/d", "from": "/c"},
	}}
	tree := func(b []byte) any {
		v, _, err := msgp.ReadIntfBytes(b)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	if !reflect.DeepEqual(tree(got), tree(pack(want))) {
		t.Errorf("got %v", tree(got))
	}
}
