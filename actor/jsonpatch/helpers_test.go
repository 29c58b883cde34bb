package jsonpatch_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"testing"

	"pgregory.net/rapid"

	"github.com/glotpod/ident/actor/jsonpatch"
)

// roomy is a limit for tests that are not about limits.
var roomy = jsonpatch.Limit{Work: 1 << 24, Depth: 1000}

// tree decodes JSON into the types that patches work on.
func tree(t testing.TB, text string) any {
	t.Helper()
	v, err := decode([]byte(text))
	if err != nil {
		t.Fatalf("decoding %s: %v", text, err)
	}
	return v
}

func decode(text []byte) (any, error) {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return nil, err
	}
	return withNumbers(v)
}

// withNumbers turns every json.Number in v into an int64 if it fits, else a
// uint64, else a float64.
func withNumbers(v any) (any, error) {
	var err error
	switch v := v.(type) {
	case json.Number:
		if i, err := strconv.ParseInt(v.String(), 10, 64); err == nil {
			return i, nil
		}
		if u, err := strconv.ParseUint(v.String(), 10, 64); err == nil {
			return u, nil
		}
		return v.Float64()
	case []any:
		for i := range v {
			if v[i], err = withNumbers(v[i]); err != nil {
				return nil, err
			}
		}
	case map[string]any:
		for key := range v {
			if v[key], err = withNumbers(v[key]); err != nil {
				return nil, err
			}
		}
	}
	return v, nil
}

// patch parses well-formed operations.
func patch(t testing.TB, ops any) jsonpatch.Patch {
	t.Helper()
	p, err := jsonpatch.Parse(ops)
	if err != nil {
		t.Fatalf("Parse: %v", err)
	}
	return p
}

// run parses and applies a patch. It returns the first error.
func run(doc, ops any, limit jsonpatch.Limit) (any, error) {
	p, err := jsonpatch.Parse(ops)
	if err != nil {
		return nil, err
	}
	return p.Apply(doc, limit)
}

// op builds an operation from its members, given as key, value, key, value, …
func op(verb string, members ...any) any {
	m := map[string]any{"op": verb}
	for pair := range slices.Chunk(members, 2) {
		m[pair[0].(string)] = pair[1]
	}
	return m
}

// failure returns err as this package's error.
func failure(t rapid.TB, err error) *jsonpatch.Error {
	t.Helper()
	e, ok := errors.AsType[*jsonpatch.Error](err)
	if !ok {
		t.Fatalf("got %v (%T), want a *jsonpatch.Error", err, err)
	}
	return e
}

// clone copies a tree of the types that tests use.
func clone(v any) any {
	switch v := v.(type) {
	case []byte:
		return bytes.Clone(v)
	case []any:
		items := make([]any, len(v))
		for i := range v {
			items[i] = clone(v[i])
		}
		return items
	case map[string]any:
		members := make(map[string]any, len(v))
		for key := range v {
			members[key] = clone(v[key])
		}
		return members
	}
	return v
}

// measure returns the cost of a tree in units of Limit.Work, and its depth. It returns an
// error if a value has another type than documents have.
func measure(v any) (weight, depth int, err error) {
	weight = 1
	inner := func(child any) {
		w, d, e := measure(child)
		weight += w
		depth = max(depth, d)
		err = errors.Join(err, e)
	}
	switch v := v.(type) {
	case nil, bool, int64, uint64, float64:
	case string:
		weight += len(v)
	case []byte:
		weight += len(v)
	case []any:
		for _, child := range v {
			inner(child)
		}
		depth++
	case map[string]any:
		for key, child := range v {
			weight += len(key)
			inner(child)
		}
		depth++
	default:
		err = fmt.Errorf("a %T in the tree", v)
	}
	return weight, depth, err
}

// same compares values and types exactly. Empty containers must not be nil.
func same(a, b any) bool {
	return reflect.DeepEqual(a, b)
}

func sortedKeys(m map[string]any) []string {
	return slices.Sorted(maps.Keys(m))
}
