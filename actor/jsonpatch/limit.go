package jsonpatch

// Limit bounds what one Apply may cost, so that a small patch cannot make a
// huge document or keep a processor busy. The zero Limit allows nothing.
type Limit struct {
	// Work is the budget for the document and everything that the operations
	// do to it. A value costs 1, its bytes and the bytes of its keys 1 each;
	// the document is charged once and what an operation adds, copies or
	// moves again each time, so the result never weighs more than Work.
	// Array elements that shift to make or fill a gap cost 1 per 16.
	//
	// The rest of the work is linear in the patch and the document, and free.
	Work int
	// Depth is how many arrays and objects may be nested in one another. It
	// bounds the recursion too, so it is to be thousands at most.
	Depth int
}

// DefaultLimit is ample for a patch of a user and keeps a processor busy for
// some 100 ms at worst.
var DefaultLimit = Limit{
	Work:  1 << 20, // about a MiB of values
	Depth: 1000,
}

// shiftedPerUnit is how many array elements shift at the price of one value:
// that is a memmove, while a value has to be visited.
const shiftedPerUnit = 16

// meter counts down a Limit.
type meter struct {
	left  int
	depth int
}

func newMeter(limit Limit) meter {
	return meter{left: limit.Work, depth: limit.Depth}
}

// charge takes work off the budget.
func (m *meter) charge(work int) *Error {
	if work > m.left {
		return fault(TooLarge, "the patch takes more work than allowed")
	}
	m.left -= work
	return nil
}

// weigh charges for the whole of v, which has enclosing containers around it.
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
