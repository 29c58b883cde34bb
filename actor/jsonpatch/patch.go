package jsonpatch

// A Patch is a list of well-formed operations. The zero Patch is empty and changes
// nothing. A Patch may be applied many times, also concurrently.
type Patch struct {
	ops []operation
}

// An operation is one element of a patch. Only some verbs use from and value.
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

// Parse parses a decoded JSON Patch: a []any of map[string]any. Members that an operation
// does not define are ignored. The error is an [*Error] of the kind [Malformed].
//
// The patch refers to the values in ops, which must not be changed afterwards.
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
		return operation{}, fault(Malformed, "op is not one of the six operations")
	}
	return op, nil
}

// Apply applies the operations to doc in order and returns the result. The error is an
// [*Error]. The result may share parts with doc and the patch: see the package
// documentation.
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
