package jsonpatch

// A Limit bounds the cost of one Apply, so that a small patch cannot make a huge document
// or use much CPU time. The zero Limit allows nothing.
type Limit struct {
	// Work is the budget for the document and for the operations. A value costs 1, plus
	// 1 for each byte of a string and of a key. The document is charged once, and what an
	// operation adds, copies or moves is charged each time. Therefore the result
	// never costs more than Work. Array elements that are shifted cost 1 per 16.
	//
	// All other work is linear in the patch and the document, and is not charged.
	Work int
	// Depth is the maximum nesting of arrays and objects. It also bounds recursion, so it
	// should be at most a few thousand.
	Depth int
}

// DefaultLimit is generous for a patch of a user. In the worst case Apply needs about
// 100 ms of CPU time.
var DefaultLimit = Limit{
	Work:  1 << 20, // about a MiB of values
	Depth: 1000,
}

// shiftedPerUnit is how many shifted array elements cost as much as one value: shifting is
// a memmove, while a value must be visited.
const shiftedPerUnit = 16

// A meter is what is left of a Limit.
type meter struct {
	left  int
	depth int
}

func newMeter(limit Limit) meter {
	return meter{left: limit.Work, depth: limit.Depth}
}

// charge subtracts work from the budget.
func (m *meter) charge(work int) *Error {
	if work > m.left {
		return fault(TooLarge, "the patch needs more work than allowed")
	}
	m.left -= work
	return nil
}

// weigh charges the cost of v with everything in it. enclosing is the number of containers
// around v.
func (m *meter) weigh(v any, enclosing int) *Error {
	work := 1
	switch v := v.(type) {
	case string:
		work += len(v)
	case []byte:
		work += len(v)
	}
	if err := m.charge(work); err != nil {
		return err
	}
	if members, ok := membersOf(v); ok {
		return m.weighMembers(members, enclosing+1)
	}
	if items, ok := itemsOf(v); ok {
		return m.weighItems(items, enclosing+1)
	}
	return nil
}

func (m *meter) weighMembers(members map[string]any, enclosing int) *Error {
	if enclosing > m.depth {
		return tooDeep()
	}
	for key, v := range members {
		if err := m.charge(len(key)); err != nil {
			return err
		}
		if err := m.weigh(v, enclosing); err != nil {
			return err
		}
	}
	return nil
}

func (m *meter) weighItems(items []any, enclosing int) *Error {
	if enclosing > m.depth {
		return tooDeep()
	}
	for _, v := range items {
		if err := m.weigh(v, enclosing); err != nil {
			return err
		}
	}
	return nil
}

func tooDeep() *Error {
	return fault(TooLarge, "the document would be nested deeper than allowed")
}
