package jsonpatch_test

import (
	"math"
	"reflect"
	"sync"
	"testing"

	"github.com/glotpod/ident/actor/jsonpatch"
)

func TestApply(t *testing.T) {
	for name, c := range map[string]struct{ doc, ops, want string }{
		"the root is removed": {
			`{"a": 1}`, `[{"op": "remove", "path": ""}]`, `null`},
		"the removed root can be added again": {
			`{"a": 1}`, `[{"op": "remove", "path": ""}, {"op": "add", "path": "", "value": {"b": 2}}]`, `{"b": 2}`},
		"the root moves to itself": {
			`[1]`, `[{"op": "move", "from": "", "path": ""}]`, `[1]`},
		"a member and an element move to themselves": {
			`{"a": [1, 2, 3]}`,
			`[{"op": "move", "from": "/a", "path": "/a"}, {"op": "move", "from": "/a/1", "path": "/a/1"}]`,
			`{"a": [1, 2, 3]}`},
		"a member becomes the root": {
			`{"a": {"b": 1}}`, `[{"op": "move", "from": "/a", "path": ""}]`, `{"b": 1}`},
		"a member takes its parent's place": {
			`{"a": {"b": {"c": 1}}}`, `[{"op": "move", "from": "/a/b", "path": "/a"}]`, `{"a": {"c": 1}}`},
		"the root is copied into itself": {
			`{"a": 1}`, `[{"op": "copy", "from": "", "path": "/b"}]`, `{"a": 1, "b": {"a": 1}}`},
		"a name that begins like another is not below it": {
			`{"a": 1, "ab": {}}`, `[{"op": "move", "from": "/a", "path": "/ab/c"}]`, `{"ab": {"c": 1}}`},
		"'-' is a name in an object": {
			`{"-": 1}`, `[{"op": "replace", "path": "/-", "value": 2}, {"op": "move", "from": "/-", "path": "/a"}]`, `{"a": 2}`},
		"an element moves to the end": {
			`[1, 2, 3]`, `[{"op": "move", "from": "/0", "path": "/-"}]`, `[2, 3, 1]`},
		"an element moves to the front": {
			`[1, 2, 3]`, `[{"op": "move", "from": "/2", "path": "/0"}]`, `[3, 1, 2]`},
		"an element is copied before itself": {
			`[1, 2]`, `[{"op": "copy", "from": "/1", "path": "/1"}]`, `[1, 2, 2]`},
		"escapes are resolved in every token": {
			`{"~": {"/": 1}}`, `[{"op": "move", "from": "/~0/~1", "path": "/~01"}]`, `{"~": {}, "~1": 1}`},
		"members that belong to other operations are ignored": {
			`{"a": 1}`, `[{"op": "remove", "path": "/a", "from": 5, "value": 6}]`, `{}`},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := patch(t, tree(t, c.ops)).Apply(tree(t, c.doc), roomy)
			if err != nil {
				t.Fatal(err)
			}
			if want := tree(t, c.want); !reflect.DeepEqual(got, want) {
				t.Fatalf("got %v, want %v", got, want)
			}
		})
	}
}

// A value in several places is changed in only one of them: an operation changes neither
// the patch, nor the document, nor a copy.
func TestValuesAreNotShared(t *testing.T) {
	for name, c := range map[string]struct{ doc, ops, want string }{
		"one value added twice": {
			`{}`,
			`[{"op": "add", "path": "/a", "value": {"x": [1]}},
			  {"op": "copy", "from": "/a", "path": "/b"},
			  {"op": "add", "path": "/a/x/-", "value": 2},
			  {"op": "copy", "from": "/a", "path": "/c"},
			  {"op": "remove", "path": "/c/x/0"},
			  {"op": "add", "path": "/a/y", "value": 3}]`,
			`{"a": {"x": [1, 2], "y": 3}, "b": {"x": [1]}, "c": {"x": [2]}}`},
		"a copy of what was already written": {
			`{"a": {"x": [[1]]}}`,
			`[{"op": "add", "path": "/a/x/0/-", "value": 2},
			  {"op": "copy", "from": "", "path": "/b"},
			  {"op": "replace", "path": "/b/a/x/0/0", "value": 9},
			  {"op": "remove", "path": "/a/x/0/0"}]`,
			`{"a": {"x": [[2]]}, "b": {"a": {"x": [[9, 2]]}}}`},
		"a move of what was already written": {
			`{"a": {"x": [1]}}`,
			`[{"op": "add", "path": "/a/x/-", "value": 2},
			  {"op": "copy", "from": "/a/x", "path": "/y"},
			  {"op": "move", "from": "/a/x", "path": "/z"},
			  {"op": "add", "path": "/z/-", "value": 3},
			  {"op": "test", "path": "/z", "value": [1, 2, 3]}]`,
			`{"a": {}, "y": [1, 2], "z": [1, 2, 3]}`},
	} {
		t.Run(name, func(t *testing.T) {
			doc, ops := tree(t, c.doc), tree(t, c.ops)
			p := patch(t, ops)
			for range 2 {
				got, err := p.Apply(doc, roomy)
				if err != nil {
					t.Fatal(err)
				}
				if want := tree(t, c.want); !reflect.DeepEqual(got, want) {
					t.Fatalf("got %v, want %v", got, want)
				}
			}
			if !reflect.DeepEqual(doc, tree(t, c.doc)) || !reflect.DeepEqual(ops, tree(t, c.ops)) {
				t.Fatalf("the document is now %v, the operations %v", doc, ops)
			}
		})
	}
}

// One patch and one document may be used concurrently. The race detector checks it.
func TestApplyAtOnce(t *testing.T) {
	doc := tree(t, user)
	p := patch(t, tree(t, `[
		{"op": "add", "path": "/a", "value": {"x": [1]}},
		{"op": "add", "path": "/a/x/-", "value": 2},
		{"op": "replace", "path": "/github/id", "value": 1},
		{"op": "copy", "from": "/github", "path": "/facebook"}]`))
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 100 {
				if _, err := p.Apply(doc, roomy); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
}

func TestEquality(t *testing.T) {
	type point struct{ x, y int }
	type uncomparable struct{ list []int }
	object := func(v any) any { return map[string]any{"a": v} }
	list := func(v ...any) any { return v }

	for _, c := range []struct {
		a, b any
		want bool
	}{
		{nil, nil, true},
		{nil, false, false},
		{nil, map[string]any(nil), false},
		{true, true, true},
		{true, false, false},
		{true, int64(1), false},
		{false, float64(0), false},
		{"", nil, false},

		{int64(1), int64(1), true},
		{int64(1), 1.0, true},
		{int64(1), uint64(1), true},
		{uint64(1), 1.0, true},
		{int64(0), math.Copysign(0, -1), true},
		{int64(1), 1.5, false},
		{int64(-1), uint64(1), false},
		{int64(-1), uint64(math.MaxUint64), false},
		{int64(-1), -1.0, true},
		{int64(1), "1", false},
		{int64(9007199254740993), 9007199254740992.0, false},
		{int64(9007199254740992), 9007199254740992.0, true},
		{int64(math.MaxInt64), float64(1 << 63), false},
		{uint64(1 << 63), float64(1 << 63), true},
		{int64(math.MinInt64), -float64(1 << 63), true},
		{int64(math.MinInt64), uint64(1 << 63), false},
		{uint64(math.MaxUint64), float64(1 << 64), false},
		{uint64(1 << 63), float64(1 << 64), false},
		{int64(0), float64(1 << 64), false},
		{int64(0), math.Inf(1), false},
		{math.Inf(1), math.Inf(1), true},
		{math.Inf(1), math.Inf(-1), false},
		{1e300, 1e300, true},
		{0.1, 0.1, true},
		{math.NaN(), math.NaN(), false},
		{int64(0), math.NaN(), false},
		{math.NaN(), int64(math.MinInt64), false},

		{"é", "é", true},
		{"é", "e\u0301", false},
		{"a", []byte("a"), false},
		{[]byte("a"), []byte("a"), true},
		{[]byte("a"), []byte("b"), false},
		{[]byte{}, []byte(nil), true},
		{[]byte{}, list(), false},

		{list(), list(), true},
		{list(), []any(nil), true},
		{list(), object(nil), false},
		{list(int64(1), "a"), list(1.0, "a"), true},
		{list(int64(1), "a"), list("a", int64(1)), false},
		{list(int64(1)), list(int64(1), nil), false},
		{object(int64(1)), object(1.0), true},
		{object(nil), map[string]any{"b": nil}, false},
		{object(nil), map[string]any{}, false},
		{object(list(object(math.NaN()))), object(list(object(math.NaN()))), false},

		{point{1, 2}, point{1, 2}, true},
		{point{1, 2}, point{2, 1}, false},
		{point{1, 2}, "point", false},
		{"point", point{1, 2}, false},
		{uncomparable{[]int{1}}, uncomparable{[]int{1}}, true},
		{uncomparable{[]int{1}}, uncomparable{[]int{2}}, false},
		{map[int]func(){}, map[int]func(){}, true},
		{func() {}, func() {}, false},
		{float32(1), int64(1), false},
	} {
		for _, side := range []struct{ doc, value any }{{c.a, c.b}, {c.b, c.a}} {
			p := patch(t, []any{op("test", "path", "", "value", side.value)})
			_, err := p.Apply(side.doc, roomy)
			if err != nil && failure(t, err).Kind != jsonpatch.TestFailed {
				t.Fatal(err)
			}
			if got := err == nil; got != c.want {
				t.Errorf("%T %v = %T %v: got %v, want %v", side.doc, side.doc, side.value, side.value, got, c.want)
			}
		}
	}
}

// Values of all types are unchanged in the result.
func TestValuesArriveUnchanged(t *testing.T) {
	type opaque struct{ n *int }
	for _, v := range []any{
		nil, true, "text", []byte("bin"), int64(math.MinInt64), int64(9007199254740993),
		uint64(math.MaxUint64), 1.0, 0.1, opaque{new(int)}, []any{}, map[string]any{},
	} {
		p := patch(t, []any{
			op("add", "path", "/a", "value", v),
			op("copy", "from", "/a", "path", "/b"),
			op("move", "from", "/a", "path", "/c"),
			op("test", "path", "/b", "value", v),
		})
		got, err := p.Apply(map[string]any{}, roomy)
		if err != nil {
			t.Fatal(err)
		}
		if want := (map[string]any{"b": v, "c": v}); !reflect.DeepEqual(got, want) {
			t.Errorf("got %#v, want %#v", got, want)
		}
	}
}

func TestZeroPatchChangesNothing(t *testing.T) {
	got, err := jsonpatch.Patch{}.Apply(tree(t, user), roomy)
	if err != nil || !reflect.DeepEqual(got, tree(t, user)) {
		t.Fatalf("got %v, %v", got, err)
	}
}
