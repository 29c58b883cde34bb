package jsonpatch_test

import (
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/glotpod/ident/actor/jsonpatch"
)

// Only a few names, so that operations often use the same ones. Some could be indices,
// some need escapes.
var names = rapid.SampledFrom([]string{"a", "b", "0", "1", "-", "", "~", "/", "~1"})

var scalars = rapid.OneOf(
	rapid.Just[any](nil),
	rapid.Bool().AsAny(),
	rapid.Int64().AsAny(),
	rapid.Uint64Min(1<<63).AsAny(),
	rapid.Float64().AsAny(),
	rapid.SampledFrom([]string{"", "x", "é", "1"}).AsAny(),
	rapid.SliceOfN(rapid.Byte(), 0, 3).AsAny(),
)

// values draws trees up to a depth.
func values(depth int) *rapid.Generator[any] {
	if depth == 0 {
		return scalars
	}
	return rapid.OneOf(
		scalars,
		rapid.SliceOfN(values(depth-1), 0, 4).AsAny(),
		rapid.MapOfN(names, values(depth-1), 0, 4).AsAny(),
	)
}

// documents draws trees whose root is a container.
var documents = rapid.OneOf(
	rapid.SliceOfN(values(2), 0, 4).AsAny(),
	rapid.MapOfN(names, values(2), 0, 4).AsAny(),
)

var escaper = strings.NewReplacer("~", "~0", "/", "~1")

// locations lists the pointers to everything in v.
func locations(v any) []string {
	all := []string{""}
	below := func(token string, child any) {
		for _, rest := range locations(child) {
			all = append(all, "/"+escaper.Replace(token)+rest)
		}
	}
	switch v := v.(type) {
	case []any:
		for i, child := range v {
			below(fmt.Sprint(i), child)
		}
	case map[string]any:
		for _, key := range sortedKeys(v) {
			below(key, v[key])
		}
	}
	return all
}

// drawPointer draws a location in v, or a location next to it that may not exist.
func drawPointer(t *rapid.T, v any, label string) string {
	at := rapid.SampledFrom(locations(v)).Draw(t, label)
	for range rapid.SampledFrom([]int{0, 0, 1, 1, 2}).Draw(t, label+" goes on") {
		at += "/" + escaper.Replace(names.Draw(t, label+" token"))
	}
	return at
}

// drawOp draws an operation, often one that applies to v.
func drawOp(t *rapid.T, v any) any {
	o := map[string]any{
		"op":   rapid.SampledFrom([]string{"add", "remove", "replace", "move", "copy", "test"}).Draw(t, "op"),
		"path": drawPointer(t, v, "path"),
	}
	switch o["op"] {
	case "move", "copy":
		o["from"] = drawPointer(t, v, "from")
	case "add", "replace":
		o["value"] = values(2).Draw(t, "value")
	case "test":
		o["value"] = clone(v)
		o["path"] = ""
	}
	return o
}

// A patch has the same result as its operations applied one by one in patches of their
// own. Therefore an operation changes only the place that its pointer names. Neither the
// document nor the patch changes.
func TestApplyIsItsOperationsInOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		doc := documents.Draw(t, "doc")
		docBefore := clone(doc)

		// Operations are drawn for the document as it then is. Those that fail
		// are left out, but for one at the end.
		var ops []any
		var failed *jsonpatch.Error
		want := clone(doc)
		for range rapid.IntRange(0, 12).Draw(t, "ops") {
			o := drawOp(t, want)
			next, err := run(clone(want), []any{clone(o)}, roomy)
			if err != nil {
				if rapid.Bool().Draw(t, "end with a failure") {
					failed = failure(t, err)
					ops = append(ops, o)
					break
				}
				continue
			}
			ops = append(ops, o)
			want = clone(next)
		}

		opsBefore := clone(ops)
		got, err := run(doc, ops, roomy)
		switch {
		case failed == nil && err != nil:
			t.Fatalf("%v: %v", ops, err)
		case failed == nil && !same(got, want):
			t.Fatalf("%v: got %v, want %v", ops, got, want)
		case failed != nil && (err == nil || failure(t, err).Kind != failed.Kind || failure(t, err).Op != len(ops)-1):
			t.Fatalf("%v: got %v, want %v from the last operation", ops, err, failed)
		}
		if !same(doc, docBefore) {
			t.Fatalf("%v: the document was %v, now is %v", ops, docBefore, doc)
		}
		if len(ops) > 0 && !same(ops, opsBefore) {
			t.Fatalf("the operations were %v, now are %v", opsBefore, ops)
		}
	})
}

// The result of a patch equals itself in a test operation, and no different value does.
func TestResultEqualsItself(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		doc, other := documents.Draw(t, "doc"), documents.Draw(t, "other")
		is := func(v any) error {
			_, err := run(doc, []any{op("test", "path", "", "value", v)}, roomy)
			return err
		}
		if err := is(clone(doc)); err != nil {
			t.Fatal(err)
		}
		if _, err := run(doc, []any{
			op("add", "path", "", "value", []any{doc, other}),
			op("test", "path", "/0", "value", clone(doc)),
			op("test", "path", "/1", "value", clone(other)),
		}, roomy); err != nil {
			t.Fatal(err)
		}
		if err := is([]any{doc}); failure(t, err).Kind != jsonpatch.TestFailed {
			t.Fatal(err)
		}
	})
}

func TestAddThenRemoveIsIdentity(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		doc := documents.Draw(t, "doc")
		path := rapid.SampledFrom(gaps(doc)).Draw(t, "path")
		value := values(2).Draw(t, "value")
		got, err := run(doc, []any{op("add", "path", path, "value", value), op("remove", "path", path)}, roomy)
		if err != nil || !same(got, doc) {
			t.Fatalf("%s: got %v and %v, want %v", path, got, err, doc)
		}
	})
}

// gaps lists the pointers at which add inserts a value without overwriting one, except
// those that end with '-'.
func gaps(doc any) []string {
	var all []string
	for _, location := range locations(doc) {
		switch v := at(doc, location).(type) {
		case []any:
			for i := range len(v) + 1 {
				all = append(all, fmt.Sprintf("%s/%d", location, i))
			}
		case map[string]any:
			for _, name := range []string{"a", "new", "", "~1"} {
				if _, there := v[name]; !there {
					all = append(all, location+"/"+escaper.Replace(name))
				}
			}
		}
	}
	return all
}

func TestReplaceIsRemoveAndAdd(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		doc := documents.Draw(t, "doc")
		path := rapid.SampledFrom(locations(doc)).Draw(t, "path")
		value := values(2).Draw(t, "value")
		replaced, err := run(doc, []any{op("replace", "path", path, "value", value)}, roomy)
		if err != nil {
			t.Fatal(err)
		}
		added, err := run(doc, []any{op("remove", "path", path), op("add", "path", path, "value", value)}, roomy)
		if err != nil {
			t.Fatal(err)
		}
		if !same(replaced, added) {
			t.Fatalf("%s: replace gives %v, remove and add %v", path, replaced, added)
		}
		if got := at(replaced, path); !same(got, value) {
			t.Fatalf("%s: got %v, want %v", path, got, value)
		}
	})
}

func TestMoveIsCopyAndRemove(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		doc := rapid.MapOfN(names, values(1), 1, 4).Draw(t, "doc")
		from := rapid.SampledFrom(sortedKeys(doc)).Draw(t, "from")
		to := names.Draw(t, "to")
		moved, err := run(doc, []any{op("move", "from", "/"+escaper.Replace(from), "path", "/"+escaper.Replace(to))}, roomy)
		if err != nil {
			t.Fatal(err)
		}
		want := clone(doc).(map[string]any)
		delete(want, from)
		want[to] = doc[from]
		if !same(moved, want) {
			t.Fatalf("got %v, want %v", moved, want)
		}
	})
}

// at returns the value at an existing location, by a copy operation.
func at(doc any, location string) any {
	v, err := run(doc, []any{op("copy", "from", location, "path", "")}, roomy)
	if err != nil {
		panic(err)
	}
	return v
}
