package jsonpatch

// A Hidden is a value of the document that a patch may move, copy, replace and remove, but cannot
// see: to the operation test it is not there, and no error and no limit depends on it. A patch
// cannot contain one. Apply returns it wherever the patch has put it.
type Hidden struct{ Value string }

func isHidden(v any) bool {
	_, ok := v.(Hidden)
	return ok
}

// HasHidden reports whether v is a Hidden value or contains one.
func HasHidden(v any) bool {
	switch v := v.(type) {
	case Hidden:
		return true
	case map[string]any:
		for _, child := range v {
			if HasHidden(child) {
				return true
			}
		}
	case []any:
		for _, child := range v {
			if HasHidden(child) {
				return true
			}
		}
	}
	return false
}
