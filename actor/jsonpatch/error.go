package jsonpatch

import "fmt"

// Kind says in what way a patch failed.
type Kind uint8

const (
	// Malformed: the patch is not well formed, or a pointer leads through
	// something that is not there, through a scalar, or to an array element
	// by something that is no index.
	Malformed Kind = iota + 1
	// Conflict: the pointer's parent is there, but not in the state that the
	// operation needs: no such member or index, or a move into the moved
	// value itself.
	Conflict
	// TestFailed: a test found another value than it asked for, or none.
	TestFailed
	// TooLarge: applying the patch would go beyond the [Limit].
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

// Error is the only type of error that this package returns. It may be logged
// and shown to the caller: it holds no value of the document or the patch.
type Error struct {
	Kind Kind
	// Op is the index of the operation that failed. It is -1 where none is to
	// blame: the patch is no list, or the document itself is over the limit.
	Op int
	// Pointer is the path or from member that failed, as the patch gave it. It
	// is empty for the root and where an operation could not be parsed.
	Pointer string

	reason string
}

// Error describes the failure in one line. It shows the beginning of a long
// pointer only.
func (e *Error) Error() string {
	switch {
	case e.Op < 0:
		return "jsonpatch: " + e.reason
	case e.Pointer == "":
		return fmt.Sprintf("jsonpatch: operation %d: %s", e.Op, e.reason)
	}
	return fmt.Sprintf("jsonpatch: operation %d at %.80q: %s", e.Op, e.Pointer, e.reason)
}

// fault is an Error that does not know its place yet. The reason is one of our
// own sentences, never a part of the input.
func fault(kind Kind, reason string) *Error {
	return &Error{Kind: kind, Op: -1, reason: reason}
}
