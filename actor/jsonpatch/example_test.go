package jsonpatch_test

import (
	"errors"
	"fmt"

	"github.com/glotpod/ident/actor/jsonpatch"
)

// Parse once, apply to any number of documents. The document stays as it was.
func Example() {
	patch, err := jsonpatch.Parse([]any{
		map[string]any{"op": "test", "path": "/name", "value": "Ada"},
		map[string]any{"op": "replace", "path": "/name", "value": "Grace"},
		map[string]any{"op": "add", "path": "/emails/-", "value": "grace@example.org"},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	before := map[string]any{"name": "Ada", "emails": []any{"ada@example.org"}}
	after, err := patch.Apply(before, jsonpatch.DefaultLimit)
	fmt.Println(before)
	fmt.Println(after, err)
	// Output:
	// map[emails:[ada@example.org] name:Ada]
	// map[emails:[ada@example.org grace@example.org] name:Grace] <nil>
}

// The kind of an error tells why a patch failed.
func ExampleError() {
	doc := map[string]any{"name": "Ada"}
	for _, op := range []map[string]any{
		{"op": "remove", "path": "/picture_url"},
		{"op": "replace", "path": "/address/city", "value": "London"},
		{"op": "test", "path": "/name", "value": "Grace"},
	} {
		patch, err := jsonpatch.Parse([]any{op})
		if err != nil {
			fmt.Println(err)
			return
		}
		_, err = patch.Apply(doc, jsonpatch.DefaultLimit)
		var e *jsonpatch.Error
		if errors.As(err, &e) {
			fmt.Printf("%s: %v\n", e.Kind, e)
		}
	}
	// Output:
	// conflict: jsonpatch: operation 0 at "/picture_url": there is no such member
	// malformed: jsonpatch: operation 0 at "/address/city": a parent of the pointer does not exist
	// test failed: jsonpatch: operation 0 at "/name": the value is not the tested one
}

// A Limit bounds what a small patch can make of a document.
func ExampleLimit() {
	double := map[string]any{"op": "copy", "from": "", "path": "/copy"}
	patch, err := jsonpatch.Parse([]any{double, double, double, double, double, double})
	if err != nil {
		fmt.Println(err)
		return
	}
	_, err = patch.Apply(map[string]any{"name": "Ada"}, jsonpatch.Limit{Work: 100, Depth: 10})
	fmt.Println(err)
	// Output:
	// jsonpatch: operation 3 at "/copy": the patch needs more work than allowed
}
