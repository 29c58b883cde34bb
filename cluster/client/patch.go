package client

// An Op is an operation of a JSON Patch (RFC 6902). The functions Add, Replace, Remove, Test,
// Move and Copy make the operations of a request.
type Op struct {
	Op   string `json:"op"` // add, replace, remove, test, move or copy
	Path string `json:"path"`
	From string `json:"from"` // of move and copy

	// Value is that of add, replace and test. In a request it may be nil, a bool, an integer,
	// a float64, a string, an Account, a *Account, or a slice or a map[string]any of these. In
	// a [Change], integers are int64, and other values are as encoding/json decodes them.
	Value any `json:"value"`
}

// Add sets the value at a path, whether or not there is one: for example
// Add("/github", Account{ID: 7, AccessToken: "…"}).
func Add(path string, value any) Op { return Op{Op: "add", Path: path, Value: value} }

// Replace sets the value at a path, where there must be one.
func Replace(path string, value any) Op { return Op{Op: "replace", Path: path, Value: value} }

// Remove removes the value at a path, where there must be one.
func Remove(path string) Op { return Op{Op: "remove", Path: path} }

// Test makes the patch fail with [ErrPatchFailed] unless there is this value at the path.
func Test(path string, value any) Op { return Op{Op: "test", Path: path, Value: value} }

// Move moves a value.
func Move(from, path string) Op { return Op{Op: "move", From: from, Path: path} }

// Copy copies a value.
func Copy(from, path string) Op { return Op{Op: "copy", From: from, Path: path} }

// hasValue reports whether the operation has a value, which may be nil.
func (o *Op) hasValue() bool { return o.Op == "add" || o.Op == "replace" || o.Op == "test" }
