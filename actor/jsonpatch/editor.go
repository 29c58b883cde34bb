package jsonpatch

// editor is a document to which a patch is being applied. After an error it is
// of no use any more.
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

// remove leaves nil where it removes the root.
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

// move takes the value out and adds it again, also where both are one place.
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
	if err != nil {
		return fault(TestFailed, "there is no value to test")
	}
	if !equal(value, want) {
		return fault(TestFailed, "the value is another than tested for")
	}
	return nil
}

// find returns the value at a location, to be read. Only its last token may
// lead to a Conflict: a parent that is not there makes the pointer Malformed.
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

// openParent returns the container around a location below the root, to be
// written, and the location's last token.
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
	return fault(Malformed, "the pointer leads through something that is not there")
}
