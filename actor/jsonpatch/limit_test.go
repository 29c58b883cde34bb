package jsonpatch_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/glotpod/ident/actor/jsonpatch"
)

// nested returns n nested arrays.
func nested(n int) any {
	var v any = []any{}
	for range n - 1 {
		v = []any{v}
	}
	return v
}

// loop returns an object that contains itself. No decoder returns such an object.
func loop() any {
	v := map[string]any{}
	v["a"] = v
	return v
}

func TestTooLarge(t *testing.T) {
	limit := jsonpatch.Limit{Work: 10_000, Depth: 50}
	times := func(n int, ops ...any) []any { return slices.Repeat(ops, n) }

	for name, c := range map[string]struct {
		doc any
		ops []any
	}{
		"an object copied into itself": {
			map[string]any{"a": "x"},
			times(60, op("copy", "from", "", "path", "/b"))},
		"an array appended to itself": {
			[]any{"x"},
			times(60, op("copy", "from", "", "path", "/-"))},
		"a member doubled through its sibling": {
			map[string]any{"a": []any{int64(1)}},
			times(60, op("copy", "from", "/a", "path", "/b"), op("copy", "from", "/b", "path", "/a/-"))},
		"a long string copied often": {
			map[string]any{"a": strings.Repeat("x", 1000), "list": []any{}},
			times(60, op("copy", "from", "/a", "path", "/list/-"))},
		"a long name added": {
			map[string]any{},
			times(1, op("add", "path", "/"+strings.Repeat("x", 10_000), "value", nil))},
		"a long name moved to and fro": {
			map[string]any{"a": map[string]any{strings.Repeat("x", 1000): nil}},
			times(60, op("move", "from", "/a", "path", "/b"), op("move", "from", "/b", "path", "/a"))},
		"binary data": {
			nil,
			times(1, op("replace", "path", "", "value", make([]byte, 10_000)))},
		"inserts at the front": {
			[]any{},
			times(9_000, op("add", "path", "/0", "value", nil))},
		"moves in a long array": {
			make([]any, 5_000),
			times(60, op("move", "from", "/0", "path", "/-"))},
		"a large value in the place of a small one": {
			map[string]any{"a": nil},
			times(1, op("replace", "path", "/a", "value", make([]any, 10_000)))},
		"a value nested too deeply": {
			[]any{},
			times(1, op("add", "path", "/-", "value", nested(50)))},
		"a root nested too deeply": {
			nil,
			times(1, op("add", "path", "", "value", nested(51)))},
		"a value of abysmal depth": {
			[]any{},
			times(1, op("add", "path", "/-", "value", nested(100_000)))},
		"nesting by one copy after another": {
			[]any{nil},
			times(60, op("copy", "from", "", "path", "/-"), op("remove", "path", "/0"))},
		"nesting by a move": {
			[]any{nested(30), nested(30)},
			times(1, op("move", "from", "/1", "path", "/0"+strings.Repeat("/0", 25)))},
		"a value that holds itself": {
			map[string]any{},
			times(1, op("add", "path", "/a", "value", loop()))},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := patch(t, c.ops).Apply(c.doc, limit)
			if e := failure(t, err); e.Kind != jsonpatch.TooLarge || e.Op < 0 {
				t.Fatalf("got %v (%v), want an operation too large", err, e.Kind)
			}
		})
	}
}

func TestDocumentTooLarge(t *testing.T) {
	limit := jsonpatch.Limit{Work: 1000, Depth: 50}
	for name, doc := range map[string]any{
		"deep":    nested(51),
		"abysmal": nested(100_000),
		"wide":    make([]any, 1000),
		"long":    strings.Repeat("x", 1000),
		"loop":    loop(),
	} {
		t.Run(name, func(t *testing.T) {
			_, err := jsonpatch.Patch{}.Apply(doc, limit)
			if e := failure(t, err); e.Kind != jsonpatch.TooLarge || e.Op != -1 {
				t.Fatalf("got %v, want the document too large", err)
			}
		})
	}
	if _, err := (jsonpatch.Patch{}).Apply(nil, jsonpatch.Limit{}); failure(t, err).Kind != jsonpatch.TooLarge {
		t.Fatalf("got %v from the zero limit, want too large", err)
	}
}

// A patch that needs exactly the limit is applied.
func TestLimitIsExact(t *testing.T) {
	// The document costs 3: two values and a name. The patch adds 8: a name
	// of two bytes, an array, and a string of four.
	doc := map[string]any{"a": nil}
	p := patch(t, []any{op("add", "path", "/bc", "value", []any{"text"})})
	if _, err := p.Apply(doc, jsonpatch.Limit{Work: 11, Depth: 2}); err != nil {
		t.Fatal(err)
	}
	for _, limit := range []jsonpatch.Limit{{Work: 10, Depth: 2}, {Work: 11, Depth: 1}} {
		if _, err := p.Apply(doc, limit); failure(t, err).Kind != jsonpatch.TooLarge {
			t.Fatalf("%+v: got %v, want too large", limit, err)
		}
	}
}

// Large patches that are not expensive are not refused.
func TestLargePatches(t *testing.T) {
	const many = 100_000
	long := "/" + strings.Repeat("/x", 500_000)
	for name, c := range map[string]struct {
		doc  any
		ops  []any
		kind jsonpatch.Kind
	}{
		"many tests":                  {map[string]any{"a": "x"}, slices.Repeat([]any{op("test", "path", "/a", "value", "x")}, many), 0},
		"many replaces":               {map[string]any{"a": "x"}, slices.Repeat([]any{op("replace", "path", "/a", "value", "y")}, many), 0},
		"many appends":                {[]any{}, slices.Repeat([]any{op("add", "path", "/-", "value", nil)}, many), 0},
		"a long pointer":              {map[string]any{"": nil}, []any{op("remove", "path", long)}, jsonpatch.Malformed},
		"a test at a long pointer":    {map[string]any{"": nil}, []any{op("test", "path", long, "value", nil)}, jsonpatch.TestFailed},
		"a test for an abysmal value": {nested(1000), []any{op("test", "path", "", "value", nested(100_000))}, jsonpatch.TestFailed},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := patch(t, c.ops).Apply(c.doc, jsonpatch.DefaultLimit)
			switch {
			case c.kind == 0 && err != nil:
				t.Fatal(err)
			case c.kind != 0 && failure(t, err).Kind != c.kind:
				t.Fatalf("got %v, want %v", err, c.kind)
			}
		})
	}
}
