package jsonpatch

// An editor is a document while a patch is applied. It must not be used after an error.
type editor struct {
	root  any
	meter meter
}

func (e *editor) apply(op operation) *Error {
	switch op.verb {
	case verbAdd:
		return e.add(op.path, op.value)
	case verbRemove:
		return e.remove(op.path)
	case verbReplace:
		return e.replace(op.path, op.value)
	case verbMove:
		return e.move(op.from, op.path)
	case verbCopy:
		return e.copy(op.from, op.path)
	default:
		return e.test(op.path, op.value)
	}
}

func (e *editor) add(path pointer, value any) *Error {
	if path == root {
		return e.replaceRoot(value)
	}
	parent, token, err := e.openParent(path)
	if err != nil {
		return err
	}
	if err := e.meter.weigh(value, path.depth()); err != nil {
		return err
	}
	work, err := parent.insert(token, value)
	if err != nil {
		return err
	}
	return e.meter.charge(work)
}

// remove sets a removed root to nil.
func (e *editor) remove(path pointer) *Error {
	if path == root {
		e.root = nil
		return nil
	}
	parent, token, err := e.openParent(path)
	if err != nil {
		return err
	}
	work, err := parent.remove(token)
	if err != nil {
		return err
	}
	return e.meter.charge(work)
}

func (e *editor) replace(path pointer, value any) *Error {
	if path == root {
		return e.replaceRoot(value)
	}
	parent, token, err := e.openParent(path)
	if err != nil {
		return err
	}
	if err := e.meter.weigh(value, path.depth()); err != nil {
		return err
	}
	return parent.replace(token, value)
}

func (e *editor) replaceRoot(value any) *Error {
	if err := e.meter.weigh(value, 0); err != nil {
		return err
	}
	e.root = value
	return nil
}

// move removes the value and adds it at the other place, also if both places are the same.
func (e *editor) move(from, path pointer) *Error {
	value, err := e.find(from)
	if err != nil {
		err.Pointer = string(from)
		return err
	}
	if path.within(from) {
		return fault(Conflict, "a value cannot move into itself")
	}
	if err := e.remove(from); err != nil {
		return err
	}
	return e.add(path, value)
}

func (e *editor) copy(from, path pointer) *Error {
	value, err := e.find(from)
	if err != nil {
		err.Pointer = string(from)
		return err
	}
	return e.add(path, snapshot(value))
}

func (e *editor) test(path pointer, want any) *Error {
	value, err := e.find(path)
	if err != nil || isHidden(value) {
		return fault(TestFailed, "there is no value to test")
	}
	if !equal(value, want) {
		return fault(TestFailed, "the value is not the tested one")
	}
	return nil
}

// find returns the value at a location. The caller must not change it. If only the last
// token does not exist, that is a Conflict; if a parent does not exist, the pointer is
// Malformed.
func (e *editor) find(at pointer) (any, *Error) {
	value := e.root
	for at != root {
		var token string
		var err *Error
		token, at = at.next()
		if value, err = child(value, token); err != nil {
			if at != root {
				return nil, noSuchParent()
			}
			return nil, err
		}
	}
	return value, nil
}

// openParent returns the container of a location as an owned container, and the location's
// last token. The location must not be the root.
func (e *editor) openParent(path pointer) (container, string, *Error) {
	parent, last := path.parent()
	current, err := own(e.root)
	if err != nil {
		return nil, "", err
	}
	e.root = current
	for parent != root {
		var token string
		token, parent = parent.next()
		if current, err = current.descend(token); err != nil {
			return nil, "", noSuchParent()
		}
	}
	return current, last, nil
}

func noSuchParent() *Error {
	return fault(Malformed, "a parent of the pointer does not exist")
}
