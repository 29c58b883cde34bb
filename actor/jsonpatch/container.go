package jsonpatch

import (
	"maps"
	"slices"
)

// While a patch is applied, the tree has two sorts of containers, with different types. A
// map[string]any or []any may belong to the document or the patch, or occur in several
// places; it is never changed. An object or *array was made by this Apply and may be
// changed; it is called owned.
//
// Invariant: an owned container occurs in one place of one tree, and all containers around
// it are owned.
type container interface {
	// descend returns the container under token, owned.
	descend(token string) (container, *Error)
	// insert adds v under token, and returns the work in addition to v's own.
	insert(token string, v any) (work int, err *Error)
	// replace replaces the value under token by v.
	replace(token string, v any) *Error
	// remove removes the value under token, and returns the work.
	remove(token string) (work int, err *Error)
}

// own returns v as an owned container, copied if necessary. The caller replaces v by it.
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

// member returns the member with the name token.
func member(members map[string]any, token string) (any, *Error) {
	v, ok := members[token]
	if !ok {
		return nil, fault(Conflict, "there is no such member")
	}
	return v, nil
}

// element returns the index in token, if items has such an element.
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
	return fault(Malformed, "the pointer has no array index where one is needed")
}
