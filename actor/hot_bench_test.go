package actor

import (
	"testing"

	"github.com/tinylib/msgp/msgp"

	"github.com/glotpod/ident/actor/msgpack"
)

var benchLimits = msgpack.Limits{Bytes: 1 << 20, Depth: 32, Values: 100_000}

func benchBody(b *testing.B, args map[string]any) []byte {
	body, err := msgp.AppendMapStrIntf(nil, args)
	if err != nil {
		b.Fatal(err)
	}
	return body
}

var benchRename = map[string]any{"user_id": 7, "ops": []any{map[string]any{"op": "replace", "path": "/name", "value": "Ada Lovelace"}}}

// BenchmarkParse reads requests, identity and digest included.
func BenchmarkParse(b *testing.B) {
	for operation, args := range map[string]map[string]any{
		"get":    {"user_id": 7},
		"patch":  benchRename,
		"create": {"name": "Ada", "email": "ada@example.org", "github": map[string]any{"id": 1, "access_token": "0123456789abcdef0123456789abcdef"}},
	} {
		body := benchBody(b, args)
		b.Run(operation, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, refusal := Parse(operation, body, RequestIDOf("0123456789abcdef", "", ""), benchLimits); refusal != nil {
					b.Fatal(refusal)
				}
			}
		})
	}
}

// BenchmarkDecide applies a patch to a user, and words the difference that others
// are told.
func BenchmarkDecide(b *testing.B) {
	r, refusal := Parse("patch", benchBody(b, benchRename), RequestID{}, benchLimits)
	if refusal != nil {
		b.Fatal(refusal)
	}
	b.ReportAllocs()
	for b.Loop() {
		if d := r.Write.Decide(ada, false); d.Refusal != nil {
			b.Fatal(d.Refusal)
		}
	}
}

// BenchmarkNotice words the difference between two users alone.
func BenchmarkNotice(b *testing.B) {
	next := *ada
	next.Name = "Ada Lovelace"
	b.ReportAllocs()
	for b.Loop() {
		patchNotification(ada, &next, false)
	}
}

func BenchmarkAnswerUser(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		UserReply(ada)
	}
}

// BenchmarkUserOf reads a warm user, to be written to.
func BenchmarkUserOf(b *testing.B) {
	answer := UserReply(ada)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := userInReply(answer); err != nil {
			b.Fatal(err)
		}
	}
}
