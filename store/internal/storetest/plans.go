package storetest

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"strings"
	"sync"

	"github.com/glotpod/ident/store"
)

// An ExecutedPlan is a plan of a statement that the server has carried out, with what that took.
type ExecutedPlan struct {
	Query string   `json:"Query Text"`
	Root  PlanNode `json:"Plan"`
}

// A PlanNode is a node of a plan. The counts of blocks include those of Plans.
type PlanNode struct {
	Type      string     `json:"Node Type"`
	Relation  string     `json:"Relation Name"`
	Index     string     `json:"Index Name"`
	IndexCond string     `json:"Index Cond"`
	Rows      float64    `json:"Actual Rows"` // per loop
	Loops     float64    `json:"Actual Loops"`
	Filtered  float64    `json:"Rows Removed by Filter"` // per loop
	Hit       int        `json:"Shared Hit Blocks"`
	Read      int        `json:"Shared Read Blocks"`
	Plans     []PlanNode `json:"Plans"`
}

// Walk calls visit for the node and all nodes below.
func (n *PlanNode) Walk(visit func(*PlanNode)) {
	visit(n)
	for i := range n.Plans {
		n.Plans[i].Walk(visit)
	}
}

// Plans are the plans that the statements of a store had.
type Plans struct {
	mu  sync.Mutex // guards the following field
	all []ExecutedPlan
}

// Take returns the plans since the last call.
func (p *Plans) Take() []ExecutedPlan {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := p.all
	p.all = nil
	return all
}

// OpenExplained opens another store on the same database. The server reports the plan of
// each of its statements, also of those that constraints and triggers carry out.
func (h *Harness) OpenExplained() (*store.Store, *Plans) {
	h.T.Helper()
	for _, setting := range []string{
		"session_preload_libraries = auto_explain", "auto_explain.log_min_duration = 0", "auto_explain.log_format = json", "auto_explain.log_level = notice",
		"auto_explain.log_analyze = on", "auto_explain.log_timing = off", "auto_explain.log_buffers = on", "auto_explain.log_nested_statements = on",
	} {
		h.Exec("ALTER DATABASE " + h.Options.Database + " SET " + setting)
	}
	plans := new(Plans)
	proxy := h.startProxy(func() func([]byte) { return (&noticeReader{plans: plans}).read })
	return h.openThrough(proxy), plans
}

// A noticeReader reads the plans out of what the server sends over one connection.
type noticeReader struct {
	plans  *Plans
	unread []byte
}

func (r *noticeReader) read(data []byte) {
	r.unread = append(r.unread, data...)
	for len(r.unread) >= 5 {
		size := 1 + int(binary.BigEndian.Uint32(r.unread[1:]))
		if len(r.unread) < size {
			return
		}
		if r.unread[0] == 'N' {
			r.notice(r.unread[5:size])
		}
		r.unread = r.unread[size:]
	}
}

// notice reads the fields of a notice, each of which is a letter and a text.
func (r *noticeReader) notice(fields []byte) {
	for field := range bytes.SplitSeq(fields, []byte{0}) {
		if len(field) == 0 || field[0] != 'M' {
			continue
		}
		_, text, ok := strings.Cut(string(field[1:]), "plan:\n")
		var plan ExecutedPlan
		if !ok || json.Unmarshal([]byte(text), &plan) != nil {
			continue
		}
		r.plans.mu.Lock()
		r.plans.all = append(r.plans.all, plan)
		r.plans.mu.Unlock()
	}
}
