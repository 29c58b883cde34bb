package jsonpatch_test

import (
	"encoding/json"
	"fmt"
	"os"
	"reflect"
	"testing"

	"github.com/glotpod/ident/actor/jsonpatch"
)

// conformanceCase is described in testdata/README.md.
type conformanceCase struct {
	Source  string
	Comment string
	Doc     json.RawMessage
	Ops     json.RawMessage
	Want    json.RawMessage
	Fails   string
}

func conformanceCases(t testing.TB) []conformanceCase {
	t.Helper()
	text, err := os.ReadFile("testdata/conformance.json")
	if err != nil {
		t.Fatal(err)
	}
	var cases []conformanceCase
	if err := json.Unmarshal(text, &cases); err != nil {
		t.Fatal(err)
	}
	return cases
}

func TestConformance(t *testing.T) {
	for _, c := range conformanceCases(t) {
		t.Run(c.Source, func(t *testing.T) {
			got, err := run(tree(t, string(c.Doc)), tree(t, string(c.Ops)), jsonpatch.DefaultLimit)
			if c.Fails != "" {
				if kind := failure(t, err).Kind.String(); kind != c.Fails {
					t.Fatalf("%s: failed with %v (%s), want %s", c.Comment, err, kind, c.Fails)
				}
				return
			}
			if err != nil {
				t.Fatalf("%s: %v", c.Comment, err)
			}
			if want := tree(t, string(c.Want)); !reflect.DeepEqual(got, want) {
				t.Fatalf("%s: got %v, want %v", c.Comment, got, want)
			}
		})
	}
}

// The file contains each case of the suite once, except cases about JSON syntax.
func TestConformanceIsWhole(t *testing.T) {
	want := map[string]bool{}
	for i := range 95 {
		want[fmt.Sprintf("tests %d", i+1)] = true
	}
	for i := range 17 {
		want[fmt.Sprintf("spec %d", i+1)] = true
	}
	delete(want, "tests 86")
	delete(want, "spec 14")
	for _, c := range conformanceCases(t) {
		if !want[c.Source] {
			t.Errorf("%s is there twice, or should not be", c.Source)
		}
		delete(want, c.Source)
	}
	for source := range want {
		t.Errorf("%s is missing", source)
	}
}
