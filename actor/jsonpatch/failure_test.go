package jsonpatch_test

import (
	"strings"
	"testing"

	"github.com/glotpod/ident/actor/jsonpatch"
)

// user is a document like those that the service patches, with some more members.
const user = `{
	"id": 7, "name": "ada", "picture_url": null, "tags": ["x", "y"], "-": "dash",
	"github": {"id": 9007199254740993, "access_token": "s3cret"}
}`

func TestParseFailures(t *testing.T) {
	for name, c := range map[string]struct {
		ops any
		op  int
	}{
		"nothing":              {nil, -1},
		"an object":            {op("remove", "path", "/name"), -1},
		"text":                 {`[{"op":"remove","path":"/name"}]`, -1},
		"a list of another":    {[]map[string]any{}, -1},
		"operation: a string":  {[]any{"remove"}, 0},
		"operation: nil":       {[]any{op("remove", "path", ""), nil}, 1},
		"op: missing":          {[]any{map[string]any{"path": ""}}, 0},
		"op: bytes":            {[]any{map[string]any{"op": []byte("remove"), "path": ""}}, 0},
		"op: upper case":       {[]any{op("Remove", "path", "")}, 0},
		"op: empty":            {[]any{op("", "path", "")}, 0},
		"path: missing":        {[]any{op("remove")}, 0},
		"path: number":         {[]any{op("remove", "path", int64(1))}, 0},
		"path: bytes":          {[]any{op("remove", "path", []byte("/name"))}, 0},
		"path: no slash":       {[]any{op("remove", "path", "name")}, 0},
		"path: tilde at end":   {[]any{op("remove", "path", "/name~")}, 0},
		"path: unknown escape": {[]any{op("remove", "path", "/~0/~2")}, 0},
		"path: tilde, slash":   {[]any{op("remove", "path", "/~/0")}, 0},
		"value: add":           {[]any{op("add", "path", "/name")}, 0},
		"value: replace":       {[]any{op("replace", "path", "/name")}, 0},
		"value: test":          {[]any{op("test", "path", "/name")}, 0},
		"from: move":           {[]any{op("move", "path", "/name")}, 0},
		"from: copy":           {[]any{op("copy", "path", "/name")}, 0},
		"from: nil":            {[]any{op("copy", "path", "/name", "from", nil)}, 0},
		"from: unknown escape": {[]any{op("copy", "path", "/name", "from", "/~a")}, 0},
		"behind a good one":    {[]any{op("test", "path", "/name", "value", nil), op("add", "path", "/x")}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := jsonpatch.Parse(c.ops)
			if e := failure(t, err); e.Kind != jsonpatch.Malformed || e.Op != c.op || e.Pointer != "" {
				t.Fatalf("got %v (%v, operation %d), want operation %d malformed", err, e.Kind, e.Op, c.op)
			}
		})
	}
}

func TestApplyFailures(t *testing.T) {
	add := func(path string) any { return op("add", "path", path, "value", nil) }
	replace := func(path string) any { return op("replace", "path", path, "value", nil) }
	remove := func(path string) any { return op("remove", "path", path) }
	test := func(path string) any { return op("test", "path", path, "value", "no such value") }
	move := func(from, path string) any { return op("move", "from", from, "path", path) }
	copies := func(from, path string) any { return op("copy", "from", from, "path", path) }

	for _, c := range []struct {
		kind    jsonpatch.Kind
		pointer string
		op      any
	}{
		// A parent that does not exist, for each operation.
		{jsonpatch.Malformed, "/path/doesnt/exist", add("/path/doesnt/exist")},
		{jsonpatch.Malformed, "/path/doesnt", replace("/path/doesnt")},
		{jsonpatch.Malformed, "/path/doesnt", remove("/path/doesnt")},
		{jsonpatch.Malformed, "/path/doesnt", move("/path/doesnt", "/name")},
		{jsonpatch.Malformed, "/path/doesnt", move("/name", "/path/doesnt")},
		{jsonpatch.Malformed, "/path/doesnt", copies("/path/doesnt", "/name")},
		{jsonpatch.Malformed, "/path/doesnt", copies("/name", "/path/doesnt")},
		{jsonpatch.Malformed, "/tags/2/x", add("/tags/2/x")},
		{jsonpatch.Malformed, "/tags/-/x", add("/tags/-/x")},
		{jsonpatch.Malformed, "/tags/x/y", remove("/tags/x/y")},

		// A parent that is a scalar, also where the token could be an index.
		{jsonpatch.Malformed, "/name/foo", add("/name/foo")},
		{jsonpatch.Malformed, "/name/0", add("/name/0")},
		{jsonpatch.Malformed, "/name/-", add("/name/-")},
		{jsonpatch.Malformed, "/name/0", replace("/name/0")},
		{jsonpatch.Malformed, "/name/0", remove("/name/0")},
		{jsonpatch.Malformed, "/name/0", copies("/name/0", "/x")},
		{jsonpatch.Malformed, "/id/0", add("/id/0")},
		{jsonpatch.Malformed, "/picture_url/x", remove("/picture_url/x")},
		{jsonpatch.Malformed, "/name/x/y/z", replace("/name/x/y/z")},

		// What is no index, in an array.
		{jsonpatch.Malformed, "/tags/01", add("/tags/01")},
		{jsonpatch.Malformed, "/tags/00", replace("/tags/00")},
		{jsonpatch.Malformed, "/tags/1e0", remove("/tags/1e0")},
		{jsonpatch.Malformed, "/tags/-1", add("/tags/-1")},
		{jsonpatch.Malformed, "/tags/+1", add("/tags/+1")},
		{jsonpatch.Malformed, "/tags/ 1", add("/tags/ 1")},
		{jsonpatch.Malformed, "/tags/1.0", remove("/tags/1.0")},
		{jsonpatch.Malformed, "/tags/abc", copies("/tags/abc", "/x")},
		{jsonpatch.Malformed, "/tags/", add("/tags/")},
		{jsonpatch.Malformed, "/tags/١", add("/tags/١")},

		// '-' where there is nothing to append.
		{jsonpatch.Malformed, "/tags/-", replace("/tags/-")},
		{jsonpatch.Malformed, "/tags/-", remove("/tags/-")},
		{jsonpatch.Malformed, "/tags/-", move("/tags/-", "/x")},
		{jsonpatch.Malformed, "/tags/-", copies("/tags/-", "/x")},
		{jsonpatch.Malformed, "/tags/-", move("/tags/-", "/tags/-")},

		// The parent is there, the rest is not.
		{jsonpatch.Conflict, "/email", remove("/email")},
		{jsonpatch.Conflict, "/email", replace("/email")},
		{jsonpatch.Conflict, "/github/", replace("/github/")},
		{jsonpatch.Conflict, "/email", move("/email", "/name")},
		{jsonpatch.Conflict, "/email", move("/email", "/email")},
		{jsonpatch.Conflict, "/email", copies("/email", "/name")},
		{jsonpatch.Conflict, "/tags/2", remove("/tags/2")},
		{jsonpatch.Conflict, "/tags/2", replace("/tags/2")},
		{jsonpatch.Conflict, "/tags/2", move("/tags/2", "/x")},
		{jsonpatch.Conflict, "/tags/2", copies("/tags/2", "/x")},
		{jsonpatch.Conflict, "/tags/3", add("/tags/3")},
		{jsonpatch.Conflict, "/tags/2", move("/tags/0", "/tags/2")},
		{jsonpatch.Conflict, "/tags/9223372036854775807", add("/tags/9223372036854775807")},
		{jsonpatch.Conflict, "/tags/99999999999999999999999", remove("/tags/99999999999999999999999")},

		// A move into the moved value, even where the rest does not exist.
		{jsonpatch.Conflict, "/github/x", move("/github", "/github/x")},
		{jsonpatch.Conflict, "/github/x/y/z", move("/github", "/github/x/y/z")},
		{jsonpatch.Conflict, "/tags/0/x", move("/tags/0", "/tags/0/x")},
		{jsonpatch.Conflict, "/x", move("", "/x")},

		// A test finds another value, or none for whatever reason.
		{jsonpatch.TestFailed, "", test("")},
		{jsonpatch.TestFailed, "/name", test("/name")},
		{jsonpatch.TestFailed, "/email", test("/email")},
		{jsonpatch.TestFailed, "/path/doesnt/exist", test("/path/doesnt/exist")},
		{jsonpatch.TestFailed, "/name/foo", test("/name/foo")},
		{jsonpatch.TestFailed, "/tags/2", test("/tags/2")},
		{jsonpatch.TestFailed, "/tags/01", test("/tags/01")},
		{jsonpatch.TestFailed, "/tags/-", test("/tags/-")},
	} {
		ops := []any{op("test", "path", "/id", "value", int64(7)), c.op}
		got, err := patch(t, ops).Apply(tree(t, user), roomy)
		if e := failure(t, err); e.Kind != c.kind || e.Op != 1 || e.Pointer != c.pointer || got != nil {
			t.Errorf("%v: got %v and %v (%v, operation %d, pointer %q), want %v, operation 1, pointer %q",
				c.op, got, err, e.Kind, e.Op, e.Pointer, c.kind, c.pointer)
		}
	}
}

// A malformed operation is found before any operation is applied.
func TestParseComesBeforeApply(t *testing.T) {
	ops := []any{op("test", "path", "/name", "value", "bob"), op("frob", "path", "")}
	_, err := run(tree(t, user), ops, roomy)
	if e := failure(t, err); e.Kind != jsonpatch.Malformed || e.Op != 1 {
		t.Fatalf("got %v, want the second operation malformed", err)
	}
}

// Errors contain no value of the document or the patch.
func TestErrorsHoldNoValues(t *testing.T) {
	const secret = "s3cret"
	doc := map[string]any{"token": secret, "list": []any{secret}, secret: map[string]any{secret: secret}}
	for _, o := range []any{
		secret,
		op(secret, "path", ""),
		op("add", "path", secret, "value", secret),
		op("copy", "path", "/x", "from", secret),
		op("test", "path", "/token", "value", secret+"!"),
		op("test", "path", "", "value", []any{secret}),
		op("test", "path", "/list", "value", secret),
		op("add", "path", "/token/x", "value", secret),
		op("add", "path", "/list/x", "value", secret),
		op("replace", "path", "/missing", "value", secret),
		op("move", "path", "/list/7", "from", "/token"),
		op("add", "path", "/x", "value", strings.Repeat(secret, 100)),
	} {
		_, err := run(doc, []any{o}, jsonpatch.Limit{Work: 100, Depth: 3})
		e := failure(t, err)
		if strings.Contains(e.Error(), secret) || strings.Contains(e.Pointer, secret) {
			t.Errorf("%v: the error holds a value: %v", o, err)
		}
	}
}

func TestErrorShowsPlace(t *testing.T) {
	long := "/" + strings.Repeat("x", 5000)
	for want, ops := range map[string]any{
		"jsonpatch: the patch is not a list of operations":                       nil,
		"jsonpatch: operation 0: value is missing":                               []any{op("add", "path", "/a")},
		`jsonpatch: operation 0 at "/a\n": there is no such member`:              []any{op("remove", "path", "/a\n")},
		"jsonpatch: operation 0: the value is not the tested one":                []any{op("test", "path", "", "value", nil)},
		`jsonpatch: operation 0 at "` + long[:80] + `": there is no such member`: []any{op("remove", "path", long)},
	} {
		if _, err := run(tree(t, `{}`), ops, roomy); err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

func TestKindInWords(t *testing.T) {
	for kind, want := range map[jsonpatch.Kind]string{
		jsonpatch.Malformed:  "malformed",
		jsonpatch.Conflict:   "conflict",
		jsonpatch.TestFailed: "test failed",
		jsonpatch.TooLarge:   "too large",
		0:                    "Kind(0)",
	} {
		if got := kind.String(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
