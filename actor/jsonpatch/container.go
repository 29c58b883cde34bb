package jsonpatch

import (
	"maps"
	"slices"
)

// While a patch is applied, a tree holds two sorts of containers, told apart
// by their types. A map[string]any or []any may belong to the document or the
// patch, or stand in several places, and is never written. An object or *array
// was made by this Apply and may be.
//
// Invariant: an owned container stands in one place of one tree, and every
// container around it is owned.
type container interface {
	// descend returns the container under token, owned.
	descend(token string) (container, *Error)
	// insert adds v under token, and says how much work that was beyond v.
	insert(token string, v any) (work int, err *Error)
	// replace puts v in the place of what is under token.
	replace(token string, v any) *Error
	// remove takes out what is under token, and says how much work that was.
	remove(token string) (work int, err *Error)
}

// own returns v as a container that may be written, a copy if need be. The
// caller puts it where v was.
func own(v any) (container, *Error) {
	switch v := v.(type) {
	case object:
		return v, nil
	case *array:
		return v, nil
	case map[string]any:
		members := make(object, len(v))
		maps.Copy(members, v)
		return members, nil
	case []any:
		return &array{items: append(make([]any, 0, len(v)+1), v...)}, nil
	}
	return nil, fault(Malformed, "the pointer leads into a scalar")
}

// object is an owned object.
type object map[string]any

func (o object) descend(token string) (container, *Error) {
	v, err := member(o, token)
	if err != nil {
		return nil, err
	}
	child, err := own(v)
	if err != nil {
		return nil, err
	}
	o[token] = child
	return child, nil
}

func (o object) insert(token string, v any) (int, *Error) {
	o[token] = v
	return len(token), nil
}

func (o object) replace(token string, v any) *Error {
	if _, err := member(o, token); err != nil {
		return err
	}
	o[token] = v
	return nil
}

func (o object) remove(token string) (int, *Error) {
	if _, err := member(o, token); err != nil {
		return 0, err
	}
	delete(o, token)
	return 0, nil
}

// array is an owned array.
type array struct {
	items []any
}

func (a *array) descend(token string) (container, *Error) {
	i, err := element(a.items, token)
	if err != nil {
		return nil, err
	}
	child, err := own(a.items[i])
	if err != nil {
		return nil, err
	}
	a.items[i] = child
	return child, nil
}

func (a *array) insert(token string, v any) (int, *Error) {
	i := len(a.items)
	if token != "-" {
		var ok bool
		if i, ok = parseIndex(token); !ok {
			return 0, notAnIndex()
		}
	}
	shifted := len(a.items) - i
	if shifted < 0 {
		return 0, fault(Conflict, "the index is beyond the end of the array")
	}
	a.items = slices.Insert(a.items, i, v)
	return shifted / shiftedPerUnit, nil
}

func (a *array) replace(token string, v any) *Error {
	i, err := element(a.items, token)
	if err != nil {
		return err
	}
	a.items[i] = v
	return nil
}

func (a *array) remove(token string) (int, *Error) {
	i, err := element(a.items, token)
	if err != nil {
		return 0, err
	}
	a.items = slices.Delete(a.items, i, i+1)
	return (len(a.items) - i) / shiftedPerUnit, nil
}

// member returns the member that token names.
func member(members map[string]any, token string) (any, *Error) {
	v, ok := members[token]
	if !ok {
		return nil, fault(Conflict, "there is no such member")
	}
	return v, nil
}

// element returns the position of the element that token names.
func element(items []any, token string) (int, *Error) {
	i, ok := parseIndex(token)
	if !ok {
		return 0, notAnIndex()
	}
	if i >= len(items) {
		return 0, fault(Conflict, "there is no such index")
	}
	return i, nil
}

func notAnIndex() *Error {
	return fault(Malformed, "the pointer has something else where an array index belongs")
}
