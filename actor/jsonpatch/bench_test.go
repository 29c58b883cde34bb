package jsonpatch_test

import (
	"slices"
	"testing"

	"github.com/glotpod/ident/actor/jsonpatch"
)

const benchUser = `{
	"id": 7, "name": "Ada", "email": "ada@example.org", "picture_url": "https://example.org/ada.png",
	"github": {"id": 4711, "access_token": "0123456789abcdef0123456789abcdef01234567"}
}`

var benchPatches = []struct{ name, ops string }{
	{"replace", `[{"op": "replace", "path": "/name", "value": "Ada L."}]`},
	{"nested", `[{"op": "replace", "path": "/github/access_token", "value": "fedcba"}]`},
	{"service", `[{"op": "add", "path": "/facebook", "value": {"id": 12, "access_token": "fedcba"}}]`},
	{"three", `[
		{"op": "test", "path": "/email", "value": "ada@example.org"},
		{"op": "replace", "path": "/email", "value": "countess@example.org"},
		{"op": "remove", "path": "/picture_url"}]`},
	{"test", `[{"op": "test", "path": "/github/id", "value": 4711}]`},
}

func BenchmarkParse(b *testing.B) {
	for _, c := range benchPatches {
		b.Run(c.name, func(b *testing.B) {
			ops := tree(b, c.ops)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := jsonpatch.Parse(ops); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkApply(b *testing.B) {
	for _, c := range benchPatches {
		b.Run(c.name, func(b *testing.B) {
			benchApply(b, tree(b, benchUser), tree(b, c.ops), true)
		})
	}
}

// BenchmarkHostile measures the most expensive patches within the default limit.
func BenchmarkHostile(b *testing.B) {
	const many = 1_000_000
	for _, c := range []struct {
		name string
		doc  any
		op   any
	}{
		{"front", []any{}, op("add", "path", "/0", "value", nil)},
		{"double", []any{int64(1)}, op("copy", "from", "", "path", "/-")},
		{"double objects", map[string]any{"a": map[string]any{}}, op("copy", "from", "", "path", "/b")},
		{"add objects", []any{}, op("add", "path", "/-", "value", map[string]any{"a": nil})},
		{"copy", map[string]any{"a": make([]any, 1000)}, op("copy", "from", "/a", "path", "/b")},
	} {
		b.Run(c.name, func(b *testing.B) {
			benchApply(b, c.doc, slices.Repeat([]any{c.op}, many), false)
		})
	}
}

func benchApply(b *testing.B, doc, ops any, succeeds bool) {
	b.Helper()
	p := patch(b, ops)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := p.Apply(doc, jsonpatch.DefaultLimit); (err == nil) != succeeds {
			b.Fatal(err)
		}
	}
}
