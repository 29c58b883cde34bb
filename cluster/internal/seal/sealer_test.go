package seal

import (
	"bytes"
	"math"
	"slices"
	"testing"

	"github.com/glotpod/ident/actor"
)

func TestSealer(t *testing.T) {
	body := []byte("create")
	s := Sealer{{1}, {2}}
	request := actor.NewRequestID()
	openUser := func(s Sealer, sealed, body []byte) (any, bool) { return s.OpenUserID(sealed, body) }
	call := func(body []byte) Request {
		return Request{Operation: "get", ReplyTo: "r", CorrelationID: "c", Body: body}
	}
	openCaller := func(s Sealer, sealed, body []byte) (any, bool) { return s.OpenCaller(sealed, call(body)) }
	openRequest := func(s Sealer, sealed, body []byte) (any, bool) { return s.OpenRequestID(sealed, body) }
	for kind, k := range map[string]struct {
		value         any
		sealed, other []byte // other: sealed as another kind
		open          func(s Sealer, sealed, body []byte) (any, bool)
	}{
		"user_id":    {int64(77), s.UserID(77, body), s.RequestID(request, body), openUser},
		"caller":     {"glotpod-auth", s.Caller("glotpod-auth", call(body)), s.RequestID(request, body), openCaller},
		"request_id": {request, s.RequestID(request, body), s.UserID(77, body), openRequest},
	} {
		t.Run(kind, func(t *testing.T) {
			if v, ok := k.open(s, k.sealed, body); !ok || v != k.value {
				t.Errorf("%v, %t", v, ok)
			}
			if v, ok := k.open(Sealer{{3}, {1}}, k.sealed, body); !ok || v != k.value {
				t.Error("a key that is being replaced does not open it")
			}
			tampered := bytes.Clone(k.sealed)
			tampered[7]++
			for name, x := range map[string]struct {
				keys         Sealer
				sealed, body []byte
			}{
				"another_value": {s, tampered, body},
				"other_kind":    {s, k.other, body},
				"other_body":    {s, k.sealed, []byte("other")},
				"other_key":     {Sealer{{2}}, k.sealed, body},
				"cut":           {s, k.sealed[:len(k.sealed)-1], body},
				"shifted":       {s, slices.Concat(k.sealed[:7], k.sealed[8:]), slices.Concat(k.sealed[7:8], body)},
				"missing":       {s, nil, body},
				"without_key":   {nil, k.sealed, body},
			} {
				if _, ok := k.open(x.keys, x.sealed, x.body); ok {
					t.Errorf("%s: it opens", name)
				}
			}
		})
	}
}

// TestNoUserID: the seal of a number that is not the id of a user does not open.
func TestNoUserID(t *testing.T) {
	s := Sealer{{1}}
	for _, id := range []int64{0, -1, math.MinInt64} {
		if _, ok := s.OpenUserID(s.UserID(id, nil), nil); ok {
			t.Errorf("%d: it opens", id)
		}
	}
}

// TestSealedCaller: the seal of a caller holds for one request only.
func TestSealedCaller(t *testing.T) {
	s := Sealer{{1}}
	r := Request{Operation: "ab", ReplyTo: "cd", CorrelationID: "ef", Body: []byte("gh")}
	sealed := s.Caller("login", r)
	if login, ok := s.OpenCaller(sealed, r); !ok || login != "login" {
		t.Errorf("%q, %t", login, ok)
	}
	for _, other := range []Request{
		{"a", "bcd", "ef", []byte("gh")}, {"ab", "c", "def", []byte("gh")}, {"ab", "cd", "e", []byte("fgh")}, {"ab", "cd", "efg", []byte("h")},
		{"", "", "", []byte("abcdefgh")}, {"ab", "", "ef", []byte("gh")},
	} {
		if _, ok := s.OpenCaller(sealed, other); ok {
			t.Errorf("it holds for %+v", other)
		}
	}
	if login, ok := s.OpenCaller(s.Caller("", r), r); !ok || login != "" {
		t.Errorf("no login is %q, %t", login, ok)
	}
}
