package jsonpatch

// Patch is a list of well-formed operations. The zero Patch is empty and
// changes nothing. It may be applied any number of times, and at once.
type Patch struct {
	ops []operation
}

// operation is one element of a patch. Only some verbs use from and value.
type operation struct {
	verb  string
	path  pointer
	from  pointer
	value any
}

const (
	verbAdd     = "add"
	verbRemove  = "remove"
	verbReplace = "replace"
	verbMove    = "move"
	verbCopy    = "copy"
	verbTest    = "test"
)

// Parse reads a decoded JSON Patch: a []any of map[string]any. Members that an
// operation does not define are ignored. A failure is an [*Error] of the kind
// [Malformed].
//
// The patch keeps the values in ops, which must not be changed any more.
func Parse(ops any) (Patch, error) {
	list, ok := ops.([]any)
	if !ok {
		return Patch{}, fault(Malformed, "the patch is not a list of operations")
	}
	patch := Patch{ops: make([]operation, len(list))}
	for i, v := range list {
		op, err := parseOperation(v)
		if err != nil {
			err.Op = i
			return Patch{}, err
		}
		patch.ops[i] = op
	}
	return patch, nil
}

func parseOperation(v any) (operation, *Error) {
	members, ok := v.(map[string]any)
	if !ok {
		return operation{}, fault(Malformed, "the operation is not an object")
	}
	var op operation
	if op.verb, ok = members["op"].(string); !ok {
		return operation{}, fault(Malformed, "op is not a string")
	}
	if op.path, ok = parsePointer(members["path"]); !ok {
		return operation{}, fault(Malformed, "path is not a JSON Pointer")
	}
	switch op.verb {
	case verbAdd, verbReplace, verbTest:
		if op.value, ok = members["value"]; !ok {
			return operation{}, fault(Malformed, "value is missing")
		}
	case verbMove, verbCopy:
		if op.from, ok = parsePointer(members["from"]); !ok {
			return operation{}, fault(Malformed, "from is not a JSON Pointer")
		}
	case verbRemove:
	default:
		return operation{}, fault(Malformed, "op is none of the six operations")
	}
	return op, nil
}

// Apply returns doc with the operations done in their order. A failure is an
// [*Error]; there is no result then. See the package's documentation for what
// the result shares with doc and the patch.
func (p Patch) Apply(doc any, limit Limit) (any, error) {
	e := editor{root: doc, meter: newMeter(limit)}
	if err := e.meter.weigh(doc, 0); err != nil {
		return nil, err
	}
	for i, op := range p.ops {
		if err := e.apply(op); err != nil {
			err.Op = i
			if err.Pointer == "" {
				err.Pointer = string(op.path)
			}
			return nil, err
		}
	}
	return release(e.root), nil
}
