package jsonpatch

import "fmt"

// A Kind is the class of an error.
type Kind uint8

const (
	// Malformed: the patch is not well formed; or a parent of a pointer does not
	// exist or is a scalar; or a pointer has something else than an index for an array.
	Malformed Kind = iota + 1
	// Conflict: the pointer's parent exists, but does not have the member or index that
	// the operation needs; or a value is moved into itself.
	Conflict
	// TestFailed: the tested value is different or does not exist.
	TestFailed
	// TooLarge: applying the patch would exceed the [Limit].
	TooLarge
)

// String returns the kind in words.
func (k Kind) String() string {
	switch k {
	case Malformed:
		return "malformed"
	case Conflict:
		return "conflict"
	case TestFailed:
		return "test failed"
	case TooLarge:
		return "too large"
	}
	return fmt.Sprintf("Kind(%d)", uint8(k))
}

// An Error is the only type of error of this package. It may be logged and shown to the
// caller, because it contains no value of the document or the patch.
type Error struct {
	Kind Kind
	// Op is the index of the operation that failed. It is -1 if the patch is no list, or
	// if the document alone exceeds the limit.
	Op int
	// Pointer is the operation's path or from, as in the patch. It is empty for the root,
	// and if the operation could not be parsed.
	Pointer string

	reason string
}

// Error describes the error in one line. It truncates a long pointer.
func (e *Error) Error() string {
	switch {
	case e.Op < 0:
		return "jsonpatch: " + e.reason
	case e.Pointer == "":
		return fmt.Sprintf("jsonpatch: operation %d: %s", e.Op, e.reason)
	}
	return fmt.Sprintf("jsonpatch: operation %d at %.80q: %s", e.Op, e.Pointer, e.reason)
}

// fault returns an Error without Op and Pointer; Apply and Parse add these. reason must not
// contain parts of the input.
func fault(kind Kind, reason string) *Error {
	return &Error{Kind: kind, Op: -1, reason: reason}
}
