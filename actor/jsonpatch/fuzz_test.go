package jsonpatch_test

import (
	"testing"

	"github.com/glotpod/ident/actor/jsonpatch"
)

// FuzzPatch searches for patches that panic, change their inputs, have another result the
// second time, or have a result that exceeds the limit.
func FuzzPatch(f *testing.F) {
	for _, c := range conformanceCases(f) {
		f.Add([]byte(c.Doc), []byte(c.Ops))
	}
	for _, ops := range []string{
		`[{"op": "copy", "from": "", "path": "/b"}, {"op": "copy", "from": "", "path": "/b"}]`,
		`[{"op": "add", "path": "/0", "value": [[]]}, {"op": "add", "path": "/0/0/-", "value": {}}]`,
		`[{"op": "move", "from": "/a", "path": ""}, {"op": "remove", "path": ""}]`,
		`[{"op": "test", "path": "/id", "value": 1e19}, {"op": "test", "path": "/id", "value": 18446744073709551615}]`,
	} {
		f.Add([]byte(`{"id": 18446744073709551615, "a": [1.5, {"~/": []}]}`), []byte(ops))
	}
	limit := jsonpatch.Limit{Work: 1 << 14, Depth: 32}

	f.Fuzz(func(t *testing.T, docText, opsText []byte) {
		doc, err := decode(docText)
		if err != nil {
			return
		}
		ops, err := decode(opsText)
		if err != nil {
			return
		}
		docBefore, opsBefore := clone(doc), clone(ops)
		p, err := jsonpatch.Parse(ops)
		if err != nil {
			if e := failure(t, err); e.Kind != jsonpatch.Malformed {
				t.Fatalf("Parse: %v (%v)", err, e.Kind)
			}
			return
		}

		got, err := p.Apply(doc, limit)
		if err == nil {
			weight, depth, err := measure(got)
			if err != nil || weight > limit.Work || depth > limit.Depth {
				t.Fatalf("the result weighs %d and is %d deep: %v", weight, depth, err)
			}
		}
		again, errAgain := p.Apply(doc, limit)
		if !same(got, again) || (err == nil) != (errAgain == nil) {
			t.Fatalf("got %v and %v, then %v and %v", got, err, again, errAgain)
		}
		if err != nil {
			// Where the budget ends in a map depends on the map's order.
			if kind := failure(t, err).Kind; kind != failure(t, errAgain).Kind {
				t.Fatalf("got %v, then %v", err, errAgain)
			}
		}
		if !same(doc, docBefore) || !same(ops, opsBefore) {
			t.Fatalf("the document is now %v, the operations %v", doc, ops)
		}
	})
}
