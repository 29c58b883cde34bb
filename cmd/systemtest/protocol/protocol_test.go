package protocol

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/glotpod/ident/actor"
)

func mustLoad(t *testing.T) *Document {
	t.Helper()
	d, err := Load()
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// Each schema of the document can be compiled, and so has no reference that leads nowhere.
func TestSchemas(t *testing.T) {
	d := mustLoad(t)
	for _, name := range d.Names("components/schemas") {
		if _, err := d.schema(name); err != nil {
			t.Error(err)
		}
	}
}

// literals returns the string constants in a file for which matches returns their value.
func literals(t *testing.T, file string, matches func(n ast.Node) ast.Expr) (all []string) {
	t.Helper()
	syntax, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	ast.Inspect(syntax, func(n ast.Node) bool {
		if literal, ok := matches(n).(*ast.BasicLit); ok && literal.Kind == token.STRING {
			text, _ := strconv.Unquote(literal.Value)
			all = append(all, text)
		}
		return true
	})
	return all
}

func same(t *testing.T, what string, document, source []string) {
	t.Helper()
	slices.Sort(document)
	slices.Sort(source)
	source = slices.Compact(source) // a name may occur more than once
	if !slices.Equal(document, source) {
		t.Errorf("the document has the %s\n%v, the source has\n%v", what, document, source)
	}
}

// The document has the operations and the error codes of the source.
func TestDocumentIsComplete(t *testing.T) {
	d := mustLoad(t)
	operations := literals(t, "../../../actor/request.go", func(n ast.Node) ast.Expr {
		if pair, ok := n.(*ast.KeyValueExpr); ok {
			if key, ok := pair.Key.(*ast.BasicLit); ok && key.Kind == token.STRING {
				return key
			}
		}
		return nil
	})
	for _, name := range operations {
		if !actor.IsOperation(name) {
			t.Fatalf("%s is no operation: this test reads the source wrongly", name)
		}
	}
	same(t, "operations", slices.DeleteFunc(d.Names("operations"), func(name string) bool {
		return strings.HasPrefix(name, "notify_") || name == "direct"
	}), operations)
	for _, name := range operations {
		for _, part := range []string{"channels/" + name, "components/schemas/" + name, "components/schemas/" + name + "_reply"} {
			if d.Names(part) == nil {
				t.Errorf("the document has no %s", part)
			}
		}
	}

	text, err := os.ReadFile("../../../cluster/PROTOCOL.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range slices.Concat(operations, d.Codes()) {
		if !strings.Contains(string(text), "\n| `"+name+"` | ") {
			t.Errorf("PROTOCOL.md has no %s", name)
		}
	}

	codes := literals(t, "../../../actor/refusal.go", func(n ast.Node) ast.Expr {
		if spec, ok := n.(*ast.ValueSpec); ok && len(spec.Values) == 1 && reflect.TypeOf(spec.Type) == reflect.TypeFor[*ast.Ident]() {
			return spec.Values[0]
		}
		return nil
	})
	same(t, "error codes", d.Codes(), codes)
	same(t, "error codes", d.Codes(), literals(t, "../../../cluster/client/errors.go", func(n ast.Node) ast.Expr {
		if pair, ok := n.(*ast.KeyValueExpr); ok {
			return pair.Value
		}
		return nil
	}))
}

func TestCheck(t *testing.T) {
	user := map[string]any{"id": int64(1), "name": "Ada", "email": "a", "github": map[string]any{"id": int64(1)<<62 + 1, "access_token": "t"}}
	with := func(key string, v any) map[string]any {
		u := map[string]any{key: v}
		for k, e := range user {
			if k != key {
				u[k] = e
			}
		}
		return u
	}
	reply := func(result any) any { return map[string]any{"result": result} }
	byID := map[string]any{"user_id": int64(1)}
	for _, x := range []struct {
		name           string
		operation      string
		request, reply any
		ok             bool
	}{
		{"user", "get", byID, reply(user), true},
		{"float_id", "get", map[string]any{"user_id": 1.0, "email": []byte("a")}, reply(user), true},
		{"unknown_member", "get", byID, reply(with("age", 1)), false},
		{"no_name", "get", byID, reply(map[string]any{"id": 1, "email": "a"}), false},
		{"null", "get", byID, reply(with("github", nil)), false},
		{"id_as_text", "get", byID, reply(with("id", "1")), false},
		{"no_argument", "get", map[string]any{}, reply(user), false},
		{"token_in_a_page", "list", map[string]any{}, reply(map[string]any{"users": []any{user}}), false},
		{"error", "get", nil, map[string]any{"error": "not_found", "message": "m", "retryable": false}, true},
		{"unknown_code", "get", nil, map[string]any{"error": "lost", "message": "m", "retryable": false}, false},
		{"neither", "get", byID, map[string]any{}, false},
		{"unknown_operation", "move", byID, reply(user), false},
	} {
		t.Run(x.name, func(t *testing.T) {
			if err := CheckReply(x.operation, x.request, x.reply); (err == nil) != x.ok {
				t.Errorf("the error is %v", err)
			}
		})
	}
}

// The document allows what a later version may send.
func TestCallersPassOver(t *testing.T) {
	d, err := parse(false)
	if err != nil {
		t.Fatal(err)
	}
	user := map[string]any{"id": 1, "name": "Ada", "email": "a", "age": 1, "github": map[string]any{"id": 1, "login": "ada"}}
	for name, message := range map[string]any{
		"get_reply":    map[string]any{"result": user},
		"list_reply":   map[string]any{"result": map[string]any{"users": []any{user}, "total": 1}, "took": 1},
		"error_reply":  map[string]any{"error": "lost", "message": "m", "retryable": false, "field": "email"},
		"user_deleted": map[string]any{"user_id": 1, "reason": "r"},
	} {
		if err := d.Check(name, message); err != nil {
			t.Error(err)
		}
	}
	if d.Check("get", map[string]any{"user": 1}) == nil {
		t.Error("a request may have an unknown argument")
	}
}
