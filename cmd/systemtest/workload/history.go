package workload

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"
)

// checkTimeout is how long the check of all histories may take. It takes a second or
// two, unless far more operations overlap than there are callers.
const checkTimeout = 2 * time.Minute

// personModel is a person as a checker of linearizability takes it: the state is
// a view, and an operation is input and output at once.
var personModel = porcupine.Model{
	Init: func() any { return View{} },
	Step: func(state, input, _ any) (bool, any) { return input.(*Operation).step(state.(View)) },
	Hash: func(state any) uint64 { return state.(View).hash() },
}

// CheckHistories returns the persons whose history is not linearizable. An operation
// without a reply may have been carried out at any time since, or not at all.
func CheckHistories(operations []*Operation) (problems []string) {
	persons := make(map[int][]porcupine.Operation)
	for _, o := range operations {
		switch {
		case o.open && !o.writes():
			continue
		case o.open && o.kind == "create" && o.reply.id == 0:
			continue // nobody has seen the user
		}
		p := porcupine.Operation{ClientId: o.caller, Input: o, Call: int64(o.call), Return: int64(o.ret)}
		if o.open {
			p.Return = math.MaxInt64
		}
		persons[o.person] = append(persons[o.person], p)
	}
	deadline := time.Now().Add(checkTimeout)
	for person, history := range persons {
		switch result := porcupine.CheckOperationsTimeout(personModel, history, time.Until(deadline)); result {
		case porcupine.Ok:
		case porcupine.Unknown:
			problems = append(problems, fmt.Sprintf("person %d: the history of %d operations cannot be checked in time", person, len(history)))
		case porcupine.Illegal:
			problems = append(problems, fmt.Sprintf("person %d: the history is not linearizable\n%s", person, explain(history)))
		}
	}
	return problems
}

// explain says where a history is no longer linearizable: the end of the longest possible
// order, and the operations that come next.
func explain(history []porcupine.Operation) string {
	const before, after = 8, 12
	_, info := porcupine.CheckOperationsVerbose(personModel, history, checkTimeout)
	var longest []porcupine.Operation
	for _, partial := range info.PartialLinearizationsOperations()[0] {
		if len(partial) > len(longest) {
			longest = partial
		}
	}
	var text strings.Builder
	var state any = View{}
	in := make(map[any]bool)
	for i, p := range longest {
		in[p.Input] = true
		_, state = personModel.Step(state, p.Input, nil)
		if i >= len(longest)-before {
			fmt.Fprintf(&text, "\t%v\n", p.Input)
		}
	}
	fmt.Fprintf(&text, "now the person is %+v, and of these none can be next, or not all:\n", state)
	slices.SortFunc(history, func(a, b porcupine.Operation) int { return cmp.Compare(a.Call, b.Call) })
	shown := 0
	for _, p := range history {
		if !in[p.Input] && shown < after {
			fmt.Fprintf(&text, "\t%v\n", p.Input)
			shown++
		}
	}
	return text.String()
}
