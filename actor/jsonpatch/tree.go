package jsonpatch

// membersOf returns the members of an object, owned or not. The caller must not change them.
func membersOf(v any) (map[string]any, bool) {
	switch v := v.(type) {
	case map[string]any:
		return v, true
	case object:
		return v, true
	}
	return nil, false
}

// itemsOf returns the elements of an array, owned or not. The caller must not change them.
func itemsOf(v any) ([]any, bool) {
	switch v := v.(type) {
	case []any:
		return v, true
	case *array:
		return v.items, true
	}
	return nil, false
}

// child returns the member or element of v with the name or index token.
func child(v any, token string) (any, *Error) {
	if members, ok := membersOf(v); ok {
		return member(members, token)
	}
	if items, ok := itemsOf(v); ok {
		i, err := element(items, token)
		if err != nil {
			return nil, err
		}
		return items[i], nil
	}
	return nil, fault(Malformed, "the pointer leads into a scalar")
}

// snapshot returns v without owned containers, so that it may occur in several places.
// Owned containers are copied, the rest is shared.
func snapshot(v any) any {
	switch v := v.(type) {
	case object:
		members := make(map[string]any, len(v))
		for key, child := range v {
			members[key] = snapshot(child)
		}
		return members
	case *array:
		items := make([]any, len(v.items))
		for i, child := range v.items {
			items[i] = snapshot(child)
		}
		return items
	}
	return v
}

// release converts all owned containers in v to plain ones, without copying. The owned
// containers must not be used afterwards.
func release(v any) any {
	switch v := v.(type) {
	case object:
		for key, child := range v {
			if isOwned(child) {
				v[key] = release(child)
			}
		}
		return map[string]any(v)
	case *array:
		for i, child := range v.items {
			if isOwned(child) {
				v.items[i] = release(child)
			}
		}
		return v.items
	}
	return v
}

func isOwned(v any) bool {
	switch v.(type) {
	case object, *array:
		return true
	}
	return false
}
